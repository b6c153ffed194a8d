#pragma once

// A Sampler whose samples several ranks draw, each a range of every call's, to the bits of one.
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "fokker/fokker.hpp"
#include "parts.hpp"

namespace fokker::tools {

// Made by all ranks of the same model and grid. The first calls sample() as often as it likes; the others call serve().
class RankSampler {
 public:
  RankSampler(std::shared_ptr<Ranks> ranks, const Context& context, const Model& model, const TimeGrid& grid);
  RankSampler(const RankSampler&) = delete;
  RankSampler& operator=(const RankSampler&) = delete;
  // On the first rank: lets the others go, but where an exception ends it, which has to end them too.
  ~RankSampler();

  // Samples [n, d] and snapshots on the first rank's device, as Sampler::sample() of a model that takes no condition;
  // without log-densities. Throws Error for more snapshots than most_snapshots.
  void sample(View<float> samples, const SampleOptions& options) const;
  // On every other rank: takes part in each sample() of the first, until that one lets it go.
  void serve() const;

 private:
  // What the first rank tells the others of a call.
  struct Call {
    std::int64_t count = -1;  // of all samples; −1: there are no more calls
    std::uint64_t seed = 0, first_index = 0;
    Scheme scheme = Scheme::euler_maruyama;
    bool noise_in_last_step = false;
    double eta = 0, temperature = 1, langevin = 0;  // eta: the one that is chosen
    Churn churn = {};
    std::int64_t snapshots = 0;
    std::int32_t snapshot_steps[most_snapshots] = {};
  };
  struct Drawn {
    std::vector<float> samples, snapshots;  // [n, d], [K n, d]
  };

  Drawn draw(const Call& call, const PointsFinished& progress) const;
  IndexRange range_of_rank(const Call& call, int rank) const;

  std::shared_ptr<Ranks> ranks_;
  const Context& context_;
  std::int64_t dimension_;
  Sampler sampler_;
  int exceptions_ = std::uncaught_exceptions();  // that were on their way before
};

}  // namespace fokker::tools
