#pragma once

// Several ranks in one process, a thread each, whose messages wait in queues. A rank that throws ends the others: every
// call of theirs that waits for it, or for one that it ended, throws Error.
#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "fokker/error.hpp"
#include "fokker/ranks.hpp"

namespace fokker::testing {

class RanksOnThreads {
 public:
  // Calls body(ranks) once a rank, all at the same time, and rethrows the exception that was thrown first, of those that
  // are not OtherRankFailed where there are any. Returns how many bytes were sent.
  static std::size_t run(int size, const std::function<void(const std::shared_ptr<Ranks>&)>& body) {
    RanksOnThreads all(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&all, &body, rank] {
        try {
          body(std::make_shared<One>(all, rank));
        } catch (const OtherRankFailed&) {
          all.end(rank, false);
        } catch (...) {
          all.end(rank, true);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    if (all.failure_) std::rethrow_exception(all.failure_);
    return all.bytes_sent_;
  }

 private:
  explicit RanksOnThreads(int size)
      : size_(size), queues_(static_cast<std::size_t>(size) * static_cast<std::size_t>(size)) {}

  class One final : public Ranks {
   public:
    One(RanksOnThreads& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return all_.size_; }
    void send(std::span<const std::byte> bytes, int to) override {
      const std::lock_guard lock(all_.mutex_);
      all_.queue(rank_, to).emplace_back(bytes.begin(), bytes.end());
      all_.bytes_sent_ += bytes.size();
      all_.changed_.notify_all();
    }
    void receive(std::span<std::byte> bytes, int from) override {
      std::unique_lock lock(all_.mutex_);
      auto& queue = all_.queue(from, rank_);
      all_.changed_.wait(lock, [&] { return !queue.empty() || all_.ended_ >= 0; });
      if (queue.empty()) throw OtherRankFailed(fmt::format("rank {} of {} has ended", all_.ended_, all_.size_));
      if (queue.front().size() != bytes.size()) {
        throw Error(fmt::format("rank {} expects {} bytes of rank {}, which sent {}", rank_, bytes.size(), from,
                                queue.front().size()));
      }
      std::copy(queue.front().begin(), queue.front().end(), bytes.begin());
      queue.pop_front();
    }

   private:
    RanksOnThreads& all_;
    int rank_;
  };

  std::deque<std::vector<std::byte>>& queue(int from, int to) {
    return queues_[static_cast<std::size_t>(from) * static_cast<std::size_t>(size_) + static_cast<std::size_t>(to)];
  }
  // own: the rank threw for a reason of its own.
  void end(int rank, bool own) {
    const std::lock_guard lock(mutex_);
    if (ended_ < 0) ended_ = rank;
    if (!failure_ || (own && !own_failure_)) failure_ = std::current_exception();
    own_failure_ = own_failure_ || own;
    changed_.notify_all();
  }

  int size_, ended_ = -1;  // the first rank that threw
  std::exception_ptr failure_;
  bool own_failure_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<std::vector<std::byte>>> queues_;  // [from, to]
  std::size_t bytes_sent_ = 0;
};

}  // namespace fokker::testing
