#include "fokker/ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "fokker/error.hpp"

namespace fokker {

// Along a binomial tree: rank from + r, r > 0, has it from the one whose r lacks its lowest bit.
void Ranks::broadcast(std::span<std::byte> bytes, int from) {
  const int all = size(), own = (rank() - from + all) % all;
  int bit = 1;
  while (bit < all && (own & bit) == 0) bit *= 2;
  if (bit < all) receive(bytes, (own - bit + from) % all);
  for (bit /= 2; bit > 0; bit /= 2) {
    if (own + bit < all) send(bytes, (own + bit + from) % all);
  }
}

void Ranks::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  const std::size_t block = mine.size();
  if (rank() == 0) {
    std::copy(mine.begin(), mine.end(), all.begin());
    for (int from = 1; from < size(); ++from) receive(all.subspan(block * static_cast<std::size_t>(from), block), from);
  } else {
    send(mine, 0);
  }
  broadcast(all, 0);
}

void Ranks::barrier() {
  std::byte nothing{};
  if (rank() == 0) {
    for (int from = 1; from < size(); ++from) receive({&nothing, 1}, from);
  } else {
    send({&nothing, 1}, 0);
  }
  broadcast({&nothing, 1}, 0);
}

void check_same_work(Ranks& ranks, std::uint64_t hash, const std::string& work) {
  if (ranks.size() == 1) return;
  std::vector<std::uint64_t> all(static_cast<std::size_t>(ranks.size()));
  ranks.all_gather(std::as_bytes(std::span(&hash, 1)), std::as_writable_bytes(std::span(all)));
  const auto other = std::find_if(all.begin(), all.end(), [&](std::uint64_t of_rank) { return of_rank != all[0]; });
  if (other == all.end()) return;
  throw Error(fmt::format(
      "rank {} of {} was given another {} than rank 0, or has another version, backend or instruction set; allowed: "
      "the same options and contents of files for all, on processors or devices of one kind",
      other - all.begin(), all.size(), work));
}

namespace {

class OneRank final : public Ranks {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void send(std::span<const std::byte>, int to) override { refuse(to); }
  void receive(std::span<std::byte>, int from) override { refuse(from); }

 private:
  [[noreturn]] static void refuse(int other) {
    throw Error(
        fmt::format("rank {} was to exchange messages with rank 0, which is alone; allowed: no messages", other));
  }
};

class RankRange final : public Ranks {
 public:
  RankRange(std::shared_ptr<Ranks> ranks, int first, int count)
      : ranks_(std::move(ranks)), first_(first), count_(count) {
    const int all = ranks_->size(), own = ranks_->rank();
    if (first < 0 || count < 1 || count > all - first || own < first || own >= first + count) {
      throw Error(fmt::format(
          "{} ranks from rank {} on were asked for by rank {} of {}; allowed: ranks that are there, with that one",
          count, first, own, all));
    }
  }
  int rank() const override { return ranks_->rank() - first_; }
  int size() const override { return count_; }
  void send(std::span<const std::byte> bytes, int to) override { ranks_->send(bytes, first_ + to); }
  void receive(std::span<std::byte> bytes, int from) override { ranks_->receive(bytes, first_ + from); }

 private:
  std::shared_ptr<Ranks> ranks_;
  int first_, count_;
};

}  // namespace

std::shared_ptr<Ranks> one_rank() { return std::make_shared<OneRank>(); }

std::shared_ptr<Ranks> range_of(std::shared_ptr<Ranks> ranks, int first, int count) {
  return std::make_shared<RankRange>(std::move(ranks), first, count);
}

}  // namespace fokker
