#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/data.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/train.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/ranks.hpp"

namespace FOKKER_PUBLIC fokker {

// paper: Adam restarted at each rate: 1e-3, 1e-4, 1e-5 for 25, 65 and 10 per cent of the iterations (in the paper,
// 100 000 in all). one_cycle: cosine from peak/25 up to peak over the first tenth, then down to peak/25000 (Smith and
// Topin 2019). cosine: from peak to 0 (Loshchilov and Hutter 2017). constant: peak.
enum class RateSchedule { paper, one_cycle, cosine, constant };

// What a trained model is made of: the last parameters, their exponential average, or the mean over the tail.
enum class WeightAverage { none, exponential, tail };

TimeLaw parse_time_law(std::string_view name);            // paper, uniform, importance, log-normal
LossWeight parse_loss_weight(std::string_view name);      // unit, score, variance, given
RateSchedule parse_rate_schedule(std::string_view name);  // paper, one-cycle, cosine, constant
WeightAverage parse_weight_average(std::string_view name);
std::string_view to_string(TimeLaw law);
std::string_view to_string(LossWeight weight);
std::string_view to_string(RateSchedule schedule);
std::string_view to_string(WeightAverage average);

struct TrainOptions {
  std::int64_t iterations = 5000;
  std::int64_t denoising_points = 4096;    // fresh points an iteration
  std::int64_t collocation_points = 1024;  // fresh points an iteration; none are drawn at residual_weight 0
  double residual_weight = 0;              // w_R
  // 0: R² by the exact Laplacian. k: R̂₁ R̂₂ by two independent estimates of k probes each, whose mean is R² and whose
  // cost is that of 2k axes instead of d (CollocationBatch). Fresh probes an iteration.
  int residual_probes = 0;
  ProbeLaw probe_law = ProbeLaw::rademacher;
  double box = 3.5;  // collocation points are uniform on [−box, box]^d, of z, and [t_min, T]
  TimeLaw time_law = TimeLaw::importance;
  double log_sigma_mean = -1.2, log_sigma_deviation = 1.2;  // of the law log_normal
  LossWeight loss_weight = LossWeight::unit;                // λ(t) of the denoising loss
  // λ of LossWeight::given, which multiplies the squared error of the score: at 1 to 100 000 times that ascend as floats,
  // linear between them and constant beyond them; weights from 0 up to 1e30.
  std::vector<LossWeightAt<double>> loss_weights = {};
  RateSchedule schedule = RateSchedule::one_cycle;
  double peak_rate = 5e-3;  // not used by the paper's schedule
  WeightAverage average = WeightAverage::exponential;
  double average_decay = 0.995;   // exponential
  double average_fraction = 0.2;  // the average runs over the last fifth of the iterations
  // The probability with which a point's condition is dropped (Ho and Salimans 2022): what the network takes is 0 then.
  // Where 0 is a value that data have, a column of ones beside them tells the two apart.
  double condition_drop = 0;
  double clip_norm = 0;  // gradients of a larger norm are scaled down to it; 0: never
  std::uint64_t seed = 0;

  static constexpr std::int64_t most_iterations = 1'000'000'000'000;  // a step of the random numbers has 40 bits
  static constexpr std::int64_t most_points = 1'000'000'000;          // of either kind
  static constexpr std::int64_t most_loss_weights = 100'000;
  // Throws Error where a number is outside its range.
  void validate() const;
};

// The loss of one iteration, before its update.
struct TrainRecord {
  std::int64_t iteration = 0;  // counted from 0
  double denoising = 0;        // the denoising loss, weighted by loss_weight: of two forms not comparable
  double residual = 0;       // mean R² or, by probes, R̂₁ R̂₂, without its weight; 0 where residual_weight is 0
  double total = 0;          // denoising + w_R · residual
  double gradient_norm = 0;  // of the total, before clipping
  double rate = 0;           // Adam's step size of this update
};

// Thrown on the first loss or gradient that is not finite, or whose norm after clipping is above largest_norm
// (formulas/train.hpp); what() names its iteration and its terms.
struct TrainingStopped : Error {
  explicit TrainingStopped(const TrainRecord& failed);
  // Those of the call before that iteration; empty where the call had a sink, which got them.
  std::vector<TrainRecord> records;
};

// A run's report about one of its trainers. The reports about a trainer hold its records in their order, each once.
struct TrainingNews {
  std::size_t trainer = 0;  // its index in the group; 0 where it runs alone
  std::span<const TrainRecord> records = {};
  // Where this is not null, the trainer stops after these records, for the reason that what() gives.
  const TrainingStopped* stopped = nullptr;
};

// A run calls its sink with every report, on the thread that called run(), and goes on while the sink returns true.
// After false no iteration begins; iterations that a GPU has begun are finished and reported too. An exception from the
// sink ends the run in the same way, without further reports, and then leaves run(). Inside the sink only options() and
// iteration() of the run's trainers may be called: model(), save_state() and run() throw Error.
using TrainingSink = std::function<bool(const TrainingNews& news)>;

// Adam (Kingma and Ba 2015; 0.9, 0.999, 1e-8) on DSM + w_R · mean R². Iteration k draws its points from (seed, k)
// alone, so a resumed run has the parameters of an uninterrupted one, bit for bit on one backend and instruction set
// (on CUDA: one kind of device and one precision).
//
// On CUDA parameters, moments, average and points stay on the device, and an iteration is a CUDA graph on a stream of
// the context's own; the caller's stream is left alone. Iterations run in slices of about 50 ms: while one runs, the
// records of the one before go to the sink; where that returns false, the slice that is running is the last. Where a
// CUDA call fails, the iterations that have begun are finished without a report, and run() throws Error; the next run
// goes on after them.
//
// Several ranks train one model together. Each has a Trainer of its own, made alike, and they make the same calls: the
// points' chunks are shared out, and every rank has all records and parameters, with the bits of one rank alone, whatever
// their number. A run goes on while the sinks of all ranks return true; where the sink of one throws, run() throws
// OtherRankFailed on the others.
//
// On CUDA they are GpuRanks, of one kind of GPU, and one has the bits of any number too, which are not those of a training
// without ranks. An iteration gathers the gradients of all chunks, up to 64, on all GPUs, in its graph, and each sums them.
// Sinks are asked together after every slice, of at most 64 iterations. Where a GPU's work fails on one, or does not end,
// run() throws Error on all, and trainers whose state has not been read by then can only be resumed from a saved one.
//
// On the CPU an iteration passes the gradient's bytes from each rank to the next, and once to all. A chunk of n points of
// either loss has n/64 of them or 256, whichever is more, rounded up to what the instruction set computes at once, and
// more, up to n/8, where a gradient is larger than 1 MiB: more ranks than chunks of both losses are of no use.
class Trainer {
 public:
  // `initial` holds an MLP, the forward SDE and the standardisation, as standardisation_of() the data; with one the
  // data are mapped to z when the trainer is made (DataSet::standardised()), and losses, rates and the box are those of
  // z. Of a network that takes a condition of c numbers the data are x and then y, d + c columns. Throws Error where model,
  // data and options do not fit, and on all ranks where one was given another training than the others or has another
  // instruction set or kind of GPU. Several ranks on CUDA have to be GpuRanks, on the GPU of the context; those train on
  // CUDA alone. Null: one rank.
  Trainer(const Context& context, const Model& initial, const DataSet& data, const TrainOptions& options,
          std::shared_ptr<Ranks> ranks = nullptr);
  // Goes on from a file that save_state() wrote. The data set must be the one the state was trained on: the same kind,
  // and for a mixture or stored samples the same numbers. Throws Error otherwise, and on any other or inconsistent
  // file. Of several ranks the first reads the file for all.
  static Trainer resume(const Context& context, const std::string& path, const DataSet& data,
                        std::shared_ptr<Ranks> ranks = nullptr);
  ~Trainer();
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;

  // Runs up to `count` more iterations, never past options.iterations, and returns their records. Throws
  // TrainingStopped on the first loss or gradient that forbids an update; the parameters stay those before it.
  std::vector<TrainRecord> run(std::int64_t count);
  // The same, but the records go to `sink`: on the CPU after every iteration.
  void run(std::int64_t count, const TrainingSink& sink);

  std::int64_t iteration() const;
  const TrainOptions& options() const;
  const std::shared_ptr<Ranks>& ranks() const;  // those that it was made with, or one_rank()
  // Averaged where the options say so and the average has begun.
  Model model() const;
  // Everything needed to go on, in one safetensors file, written to a temporary name beside `path`, synced, renamed:
  // tensors parameters, first_moment, second_moment [P] (F32), average [P] (F64, once begun), iteration, average_count
  // [1] (I64); metadata format, version and configuration (JSON: architecture, sde, data, options, and standardisation
  // where there is one).
  void save_state(const std::string& path) const;

 private:
  friend class TrainingGroup;
  struct State;
  std::unique_ptr<State> state_;
};

// Trainers that run together, each with the bits of a run of its own. On CUDA those of one context whose networks have
// one shape share the launches of an iteration, so that small networks fill a GPU together; others, and those of the
// CPU, run one after another. Parameters, data sets, options and seeds may differ.
class TrainingGroup {
 public:
  // Throws Error for a trainer that was moved from, and where one was made with other ranks than another.
  explicit TrainingGroup(std::vector<Trainer> trainers);
  ~TrainingGroup();
  TrainingGroup(TrainingGroup&&) noexcept;
  TrainingGroup& operator=(TrainingGroup&&) noexcept;

  std::size_t size() const;
  const Trainer& operator[](std::size_t k) const;  // throws Error unless k < size()

  // Up to `count` more iterations of each trainer, as Trainer::run(). Where one stops, the others go on to their end;
  // then TrainingStopped is thrown for the first in the group that stopped. Later runs leave out those that stopped.
  void run(std::int64_t count, const TrainingSink& sink);
  // Returns the records of each. Where one stops, those of the others are lost, their trainers are not.
  std::vector<std::vector<TrainRecord>> run(std::int64_t count);

  // Gives the trainers back, in their order; the group is empty then.
  std::vector<Trainer> release();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fokker
