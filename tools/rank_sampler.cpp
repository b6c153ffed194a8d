#include "rank_sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <span>
#include <type_traits>
#include <utility>

#include "measure.hpp"

namespace fokker::tools {
namespace {

template <class T>
std::span<std::byte> bytes_of(T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace

RankSampler::RankSampler(std::shared_ptr<Ranks> ranks, const Context& context, const Model& model, const TimeGrid& grid)
    : ranks_(std::move(ranks)), context_(context), dimension_(model.dimension()), sampler_(context, model, grid) {}

RankSampler::~RankSampler() {
  // Where this rank fails the others may be sending, and are ended with it.
  if (ranks_->rank() != 0 || std::uncaught_exceptions() > exceptions_) return;
  Call last;
  try {
    ranks_->broadcast(bytes_of(last), 0);
  } catch (const Error&) {
    // A rank has failed, which ends the others.
  }
}

IndexRange RankSampler::range_of_rank(const Call& call, int rank) const {
  return IndexRange::of({rank, ranks_->size()}, call.count);
}

// The samples of this rank.
RankSampler::Drawn RankSampler::draw(const Call& call, const PointsFinished& progress) const {
  const IndexRange range = range_of_rank(call, ranks_->rank());
  Buffer<float> samples(context_, range.count, dimension_),
      snapshots(context_, call.snapshots * range.count, dimension_);
  SampleOptions options{.scheme = call.scheme,
                        .seed = call.seed,
                        .first_index = call.first_index + static_cast<std::uint64_t>(range.first),
                        .noise_in_last_step = call.noise_in_last_step,
                        .temperature = call.temperature,
                        .churn = call.churn,
                        .langevin = call.langevin,
                        .snapshot_steps = {call.snapshot_steps, call.snapshot_steps + call.snapshots},
                        .snapshots = snapshots.view(),
                        .progress = progress};
  if (is_stochastic(call.scheme)) options.eta = call.eta;
  sampler_.sample(samples.view(), options);
  return {to_host(context_, samples.view()), to_host(context_, snapshots.view())};
}

void RankSampler::sample(View<float> samples, const SampleOptions& options) const {
  if (std::ssize(options.snapshot_steps) > most_snapshots) {
    throw Error(
        fmt::format("{} snapshots asked for; allowed: up to {}", options.snapshot_steps.size(), most_snapshots));
  }
  Call call{.count = samples.rows,
            .seed = options.seed,
            .first_index = options.first_index,
            .scheme = options.scheme,
            .noise_in_last_step = options.noise_in_last_step,
            .eta = options.chosen_eta(),
            .temperature = options.temperature,
            .langevin = options.langevin,
            .churn = options.churn,
            .snapshots = std::ssize(options.snapshot_steps)};
  std::copy(options.snapshot_steps.begin(), options.snapshot_steps.end(), call.snapshot_steps);
  ranks_->broadcast(bytes_of(call), 0);
  Drawn drawn = draw(call, options.progress);
  for (int rank = 0; rank < ranks_->size(); ++rank) {
    const IndexRange range = range_of_rank(call, rank);
    if (rank > 0) {
      drawn.samples.resize(static_cast<std::size_t>(range.count * dimension_));
      drawn.snapshots.resize(static_cast<std::size_t>(call.snapshots * range.count * dimension_));
      ranks_->receive(std::as_writable_bytes(std::span(drawn.samples)), rank);
      ranks_->receive(std::as_writable_bytes(std::span(drawn.snapshots)), rank);
    }
    copy(context_, View<const float>(drawn.samples.data(), range.count, dimension_),
         samples.slice(range.first, range.count));
    for (std::int64_t k = 0; k < call.snapshots; ++k) {
      copy(context_, View<const float>(drawn.snapshots.data() + k * range.count * dimension_, range.count, dimension_),
           options.snapshots.slice(k * call.count + range.first, range.count));
    }
    context_.synchronize();  // before its host memory is written again
  }
}

void RankSampler::serve() const {
  for (;;) {
    Call call;
    ranks_->broadcast(bytes_of(call), 0);
    if (call.count < 0) return;
    const Drawn drawn = draw(call, {});
    ranks_->send(std::as_bytes(std::span(drawn.samples)), 0);
    ranks_->send(std::as_bytes(std::span(drawn.snapshots)), 0);
  }
}

}  // namespace fokker::tools
