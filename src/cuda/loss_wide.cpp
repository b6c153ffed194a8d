// Losses of a multilayer perceptron of any width up to 4096, and of every one in double, with their gradients, over
// chunks of rows as its fields (mlp_wide.cpp). The formulas, the symbols and the names of the sweeps are those of
// operations/LOSS_GRADIENT.md; a sweep is a product of matrices and a launch a layer (kernels/wide.cu).
//
// Every symbol that a later sweep reads is a plane of the chunk: h, σ′, κ, δ and S, for the residual also σ″, τ, q, and
// ż and ḣ of one direction; τ takes the place of σ‴, and κ that of σ″ in the denoising loss. A direction adjoint makes
// the tangents of its direction again, of a probe the probe too, so that the workspace is that of any number of them.
//
// The sweeps' products are in the queue's precision, in split by fp16 halves. The gradients D Hᵀ are sums over points,
// which no power of two a row can scale: they are fp32 products (in double, double ones), added chunk after chunk, and
// those of biases are sums of columns in a fixed order. Losses are summed in double.
//
// Numbers kept a unit: 5 for denoising, 10 for the residual, 2 for a vector net. Nothing is allocated and nothing waits
// after construction.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

#include "cuda/device_loss.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/gpu_ranks.hpp"
#include "cuda/wide_network.hpp"
#include "kernels/form_launch.hpp"
#include "kernels/loss_sum_launch.hpp"

namespace fokker::cuda {
namespace {

// Points of the network: τ, C x, and what its output is compared with.
template <class T>
struct DenoisingRows {
  const T *t, *x, *target, *weight;  // weight may be nullptr: 1
  const T* condition;                // nullptr for a network without one
};
// Points of the model.
template <class T>
struct CollocationRows {
  const T *t, *x, *condition;
};

template <class T>
class WideSweeps {
 public:
  WideSweeps(const Queue& queue, const Architecture& architecture, const ForwardSde& sde, std::int64_t rows)
      : stream_(queue.stream),
        sde_(sde),
        formed_(!architecture.form.plain()),
        network_(queue, architecture, true, loss_budget) {
    if (formed_) check(kernels::prepare_form(), "prepare_form");
    const auto most = [&](bool residual) {
      if (rows > 0) return rows;
      return network_.rows_that_fit([&](std::int64_t n) { return lay_out(nullptr, n, residual); });
    };
    denoising_rows_ = most(false);
    std::size_t bytes = lay_out(nullptr, denoising_rows_, false);
    if (network_.potential()) {
      residual_rows_ = most(true);
      bytes = std::max(bytes, lay_out(nullptr, residual_rows_, true));
    }
    workspace_.reserve(bytes);
    sums_.reserve(2 * sizeof(double));
    const std::int64_t most_columns = std::max<std::int64_t>(
        {network_.widest(), network_.output_stride(), network_.time().widest(), network_.condition().widest()});
    column_parts_.reserve(kernels::most_column_parts * static_cast<std::size_t>(most_columns) * sizeof(T));
  }

  std::size_t workspace_bytes() const {
    return workspace_.bytes() + sums_.bytes() + column_parts_.bytes() + network_.workspace_bytes() + records_.bytes();
  }

  // denoising(first, n) and collocation(first, n) give the rows of a chunk of points, on the device. Values [3] and
  // gradient [P] as Loss::evaluate; gradient may be nullptr. `estimate`: that of CollocationBatch, or of points drawn for
  // *iteration the training's seed. `squares`, of such points, if wanted.
  template <class Denoising, class Collocation>
  void evaluate(const T* parameters, std::int64_t denoising_points, const Denoising& denoising,
                std::int64_t collocation_points, const Collocation& collocation, const Divergence& estimate,
                double residual_weight, double* values, T* gradient, kernels::GradientSquares* squares = nullptr,
                const std::int64_t* iteration = nullptr) {
    const double coordinates = static_cast<double>(denoising_points) * static_cast<double>(network_.dimension());
    clear(sums_.data(), sums_.bytes());
    if (gradient != nullptr) {
      clear(gradient, static_cast<std::size_t>(architecture().parameter_count()) * sizeof(T));
    }
    network_.use(parameters);
    add_losses({denoising_points, collocation_points}, {0, denoising_points}, denoising, {0, collocation_points},
               collocation, estimate, residual_weight, sums_.as<double>(), gradient, iteration);
    kernels::LossValueArguments last{.sums = sums_.as<double>(),
                                     .denoising_count = coordinates,
                                     .residual_count = static_cast<double>(collocation_points),
                                     .residual_weight = residual_weight,
                                     .values = values,
                                     .squares = squares,
                                     .parameter_count = architecture().parameter_count(),
                                     .gradient = nullptr,
                                     .iteration = iteration};
    if constexpr (std::is_same_v<T, float>) last.gradient = gradient;
    check(kernels::launch_loss_values(last, stream_), "launch_loss_values");
  }

  // The same of points drawn for *iteration, on ranks: each sums a share of the chunks, into records that all of them
  // then sum.
  template <class Denoising, class Collocation>
  void evaluate_on(const Communicator& ranks, const kernels::LossTask& task, const Denoising& denoising,
                   const Collocation& collocation, const Divergence& estimate) {
    const std::int64_t n = task.points.denoising_points, m = task.points.collocation_points;
    const auto size = static_cast<int>(architecture().parameter_count());
    const std::int64_t stride = kernels::record_floats(size);
    const int chunks = chunk_count(n + m, stride * std::int64_t{sizeof(float)});
    const kernels::ChunksOfRank own(chunks, ranks.rank(), ranks.size());
    const std::size_t bytes = static_cast<std::size_t>(own.slots * stride) * sizeof(float),
                      all = static_cast<std::size_t>(ranks.size()) * bytes;
    if (records_.bytes() < all) {
      records_.reserve(all);
      clear(records_.data(), all);  // slots without a chunk, too
    }
    network_.use(task.parameters);
    for (int chunk = own.first; chunk < own.first + own.count; ++chunk) {
      float* const record = records_.as<float>() + chunk * stride;
      clear(record, static_cast<std::size_t>(stride) * sizeof(float));
      const auto share = [&](std::int64_t points) {
        return PointRange{points * chunk / chunks, points * (chunk + 1) / chunks};
      };
      add_losses({n, m}, share(n), denoising, share(m), collocation, estimate, task.residual_weight,
                 reinterpret_cast<double*>(record), record + kernels::record_head, task.points.iteration);
    }
    ranks.all_gather(records_.data(), bytes);
    kernels::LossSumArguments sum{.net = {}, .gradient = {}, .tasks = {}};
    sum.net.dimension = dimension();
    sum.gradient.size = size;
    sum.tasks[0] = {.partial_count = chunks,
                    .layers = nullptr,
                    .partial = records_.as<const float>() + kernels::record_head,
                    .partial_stride = stride,
                    .partial_values = records_.as<const double>(),
                    .values_stride = stride / 2,
                    .denoising_points = n,
                    .collocation_points = m,
                    .residual_weight = task.residual_weight,
                    .iteration = task.points.iteration,
                    .values = task.values,
                    .gradient = task.gradient,
                    .squares = task.squares};
    check(kernels::launch_loss_sum(sum, 1, stream_), "launch_loss_sum");
  }

  // Where a source may write a chunk's points: room for (t, weight, x, target) of its rows, and for their conditions.
  T* points() const { return points_; }
  T* conditions() const { return conditions_; }
  // Points of the model with targets of the score as those of the network, which points() has room for.
  DenoisingRows<T> to_network(std::int64_t n, const DenoisingRows<T>& rows) const {
    if (!formed_) return rows;
    T *const t = points_, *const weight = t + n, *const x = weight + n, *const target = x + n * network_.dimension();
    network_points({form_points(n, rows.t, rows.x), rows.target, rows.weight, t, x, target, weight});
    return {t, x, target, weight, rows.condition};
  }

 private:
  const Architecture& architecture() const { return network_.architecture(); }
  int dimension() const { return static_cast<int>(network_.dimension()); }
  void clear(void* at, std::size_t bytes) const { check(cudaMemsetAsync(at, 0, bytes, stream_), "cudaMemsetAsync"); }

  // Chunks of 1024 points or more, up to 64, or fewer where their records take more than 64 MiB, but never fewer than 8.
  static int chunk_count(std::int64_t points, std::int64_t record_bytes) {
    constexpr std::int64_t fewest_points = 1024, fewest = 8, memory = std::int64_t{64} << 20;
    const std::int64_t most = std::clamp<std::int64_t>(memory / record_bytes, fewest, kernels::most_chunks);
    return static_cast<int>(std::clamp<std::int64_t>(points / fewest_points, 1, most));
  }

  // Of all points of a loss, those from `first` to `end`.
  struct PointRange {
    std::int64_t first, end;
  };
  struct PointCounts {
    std::int64_t denoising, collocation;
  };
  // Adds the losses of these points to sums [2] and their part of the gradient of the whole, of `all` points, to
  // gradient [P].
  template <class Denoising, class Collocation>
  void add_losses(const PointCounts& all, const PointRange& of_denoising, const Denoising& denoising,
                  const PointRange& of_collocation, const Collocation& collocation, const Divergence& estimate,
                  double residual_weight, double* sums, T* gradient, const std::int64_t* iteration) {
    const double coordinates = static_cast<double>(all.denoising) * static_cast<double>(network_.dimension());
    if (of_denoising.first < of_denoising.end) lay_out(workspace_.as<char>(), denoising_rows_, false);
    for (std::int64_t i = of_denoising.first; i < of_denoising.end; i += denoising_rows_) {
      const std::int64_t n = std::min(denoising_rows_, of_denoising.end - i);
      denoise(n, denoising(i, n), 2 / coordinates, sums, gradient);
    }
    if (of_collocation.first < of_collocation.end) lay_out(workspace_.as<char>(), residual_rows_, true);
    for (std::int64_t i = of_collocation.first; i < of_collocation.end; i += residual_rows_) {
      const std::int64_t n = std::min(residual_rows_, of_collocation.end - i);
      const Directions directions{estimate, estimate.first_index + static_cast<std::uint64_t>(i), iteration};
      residual(n, collocation(i, n), directions, 2 * residual_weight / static_cast<double>(all.collocation), sums,
               residual_weight != 0 ? gradient : nullptr);
    }
  }
  std::int64_t last() const { return network_.hidden() - 1; }

  std::size_t lay_out(char* base, std::int64_t rows, bool residual) {
    Arena arena(base);
    points_ = arena.take<T>(rows * (2 + 2 * network_.dimension()));
    conditions_ = arena.take<T>(rows * architecture().condition.inputs);
    losses_ = arena.take<double>(rows);
    trace_ = arena.take<T>(rows);
    weight_ = arena.take<T>(rows);
    input_ = arena.take<T>(rows * network_.input_stride());
    seed_ = arena.take<T>(rows * std::max(network_.input_stride(), network_.output_stride()));
    output_ = arena.take<T>(rows * network_.output_stride());
    ping_pong_ = network_.take_ping_pong(arena, rows);
    value_ = network_.take_planes(arena, rows);
    d1_ = network_.take_planes(arena, rows);
    if (network_.potential()) {
      d2_ = network_.take_planes(arena, rows);
      delta_ = network_.take_planes(arena, rows);
      source_ = network_.take_planes(arena, rows);
    }
    if (residual) {
      other_trace_ = arena.take<T>(rows);
      other_weight_ = arena.take<T>(rows);
      direction_ = arena.take<T>(rows * network_.input_stride());
      if (formed_) potential_ = arena.take<T>(rows);
      curvature_ = network_.take_planes(arena, rows);
      d3_ = network_.take_planes(arena, rows);
      squares_ = network_.take_planes(arena, rows);
      z_tangent_ = network_.take_planes(arena, rows);
      h_tangent_ = network_.take_planes(arena, rows);
    } else {
      curvature_ = d2_;
    }
    network_.take_own(arena, rows, true);
    return arena.used();
  }

  // ---- the losses of a chunk ----

  void denoise(std::int64_t n, const DenoisingRows<T>& rows, double scale, double* sums, T* gradient) {
    const bool wanted = gradient != nullptr, potential = network_.potential();
    input(n, rows.t, rows.x);
    network_.embed_times(n, input_, false, false, wanted);
    network_.embed_conditions(n, rows.condition, wanted);
    network_.forward(n, input_, value_, d1_, potential && wanted ? d2_ : Planes<T>{}, {});
    if (potential) network_.reverse(n, delta_, d1_, d2_, wanted ? d2_ : Planes<T>{}, {}, false);
    const Score<T> score = network_.score(n, potential ? delta_ : value_, output_);
    check(kernels::launch_misfit<T>({.rows = n,
                                     .dimension = dimension(),
                                     .score = score.columns,
                                     .score_stride = network_.output_stride(),
                                     .bias = score.bias,
                                     .target = rows.target,
                                     .weight = rows.weight,
                                     .scale = scale,
                                     .loss = losses_,
                                     .seed = wanted ? seed_ : nullptr,
                                     .seed_stride = potential ? network_.input_stride() : network_.output_stride(),
                                     .leading_zero = potential},
                                    stream_),
          "launch_misfit");
    total(n, sums);
    if (!wanted) return;
    if (potential) {
      seed_and_adjoint(n, false, gradient);
    } else {
      vector_adjoint(n, gradient);
    }
  }

  // From c in seed_.
  void vector_adjoint(std::int64_t n, T* gradient) {
    const std::int64_t top = network_.hidden();
    const int stride = network_.output_stride();
    add_weights(top, n, seed_, stride, {value_[last()], network_.stride(last())}, gradient);
    add_embedding_weights(top, n, seed_, stride, network_.embeddings(), gradient);
    add_bias(top, n, seed_, stride, gradient);
    T* const p = network_.residual(last()) ? network_.kept() : ping_pong_[last()];
    network_.from_output(n, seed_, stride, p);
    check(kernels::launch_reverse<T>({.rows = n,
                                      .width = network_.width(last()),
                                      .stride = network_.stride(last()),
                                      .p = p,
                                      .p_stride = network_.stride(last()),
                                      .unscale = nullptr,
                                      .d1 = d1_[last()],
                                      .d2 = nullptr,
                                      .curvature = nullptr,
                                      .d3 = nullptr,
                                      .source = nullptr,
                                      .delta = ping_pong_[last()],
                                      .operand = network_.operand(last())},
                                     stream_),
          "launch_reverse");
    adjoint(n, ping_pong_, {}, {p, network_.stride(last())}, {seed_, stride}, false, gradient);
  }

  // Along which the second derivatives of a chunk's points are taken: all axes, or by probes those of both estimates, one
  // after the other.
  struct Directions {
    Divergence estimate;
    std::uint64_t first_index;  // of the chunk's first point
    const std::int64_t* iteration;

    bool exact() const { return estimate.probes == 0; }
    T share() const { return exact() ? T(1) : 1 / static_cast<T>(estimate.probes); }
    bool of_other(int k) const { return !exact() && k >= estimate.probes; }
    // Whether an estimate begins with this one.
    bool first(int k) const { return exact() ? k == 0 : k % estimate.probes == 0; }
  };
  int count(const Directions& directions) const {
    return directions.exact() ? dimension() : 2 * directions.estimate.probes;
  }
  // ż_1 of direction k, in z where it is a probe's, which is drawn into direction_.
  kernels::Tangents<T> along(std::int64_t n, const Directions& directions, int k, T* z) const {
    if (directions.exact()) return network_.axis_tangents(k);
    check(kernels::launch_probe<T>({n, dimension(), network_.input_stride(), directions.estimate,
                                    directions.first_index, k, direction_, directions.iteration},
                                   stream_),
          "launch_probe");
    network_.along_input(n, direction_, z);
    return {z, network_.stride(0), 0, 1, nullptr};
  }

  void residual(std::int64_t n, const CollocationRows<T>& rows, const Directions& directions, double scale,
                double* sums, T* gradient) {
    const bool wanted = gradient != nullptr, exact = directions.exact();
    CollocationRows<T> of_network = rows;
    if (formed_) {  // behind the place of the model's
      T *const t = points_ + n * (1 + network_.dimension()), *const x = t + n;
      network_points({form_points(n, rows.t, rows.x), nullptr, nullptr, t, x, nullptr, nullptr});
      of_network = {t, x, rows.condition};
    }
    input(n, of_network.t, of_network.x);
    network_.embed_times(n, input_, false, true, wanted);
    network_.embed_conditions(n, rows.condition, wanted);
    network_.forward(n, input_, value_, d1_, d2_, wanted ? d3_ : Planes<T>{});
    if (formed_) {
      network_.outputs(n, value_[last()], output_);
      check(kernels::launch_columns<T>(
                {n, 1, network_.output_stride(), output_, network_.bias(network_.hidden()), potential_}, stream_),
            "launch_columns");
    }
    network_.reverse(n, delta_, d1_, d2_, curvature_, wanted ? d3_ : Planes<T>{}, true);
    network_.score(n, delta_, output_);
    network_.time_derivative(n, output_);
    for (int k = 0; k < count(directions); ++k) {
      const kernels::Tangents<T> start = along(n, directions, k, ping_pong_[0]);
      network_.tangent(n, 1, start, ping_pong_, ping_pong_, d1_, [&](std::int64_t l, auto& rule) {
        rule.curvature = curvature_[l];
        rule.trace = directions.of_other(k) ? other_trace_ : trace_;
        rule.weight = directions.share();
        rule.begin = directions.first(k) && l == 0;
        if (l == last()) rule.to = nullptr;
      });
    }
    check(kernels::launch_residual<T>({.rows = n,
                                       .dimension = dimension(),
                                       .stride = network_.output_stride(),
                                       .gradient = output_,
                                       .trace = trace_,
                                       .t = rows.t,
                                       .t_stride = 1,
                                       .x = of_network.x,
                                       .sde = sde_.formulas(),
                                       .square = losses_,
                                       .scale = scale,
                                       .seed = wanted ? seed_ : nullptr,
                                       .seed_stride = network_.input_stride(),
                                       .weight = weight_,
                                       .form = architecture().form,
                                       .value = formed_ ? potential_ : nullptr,
                                       .other_trace = exact ? nullptr : other_trace_,
                                       .other_weight = exact ? nullptr : other_weight_,
                                       .share = directions.share()},
                                      stream_),
          "launch_residual");
    total(n, sums + 1);
    if (!wanted) return;
    for (int k = 0; k < count(directions); ++k) axis_adjoint(n, directions, k, gradient);
    seed_and_adjoint(n, true, gradient);
    if (formed_) add_bias(network_.hidden(), n, potential_, 1, gradient);
  }

  // ---- gradient sweeps ----

  // The direction adjoint of k, behind its tangents.
  void axis_adjoint(std::int64_t n, const Directions& directions, int k, T* gradient) {
    const kernels::Tangents<T> start = along(n, directions, k, z_tangent_[0]);
    network_.tangent(n, 1, start, z_tangent_, h_tangent_, d1_, [&](std::int64_t l, auto& rule) {
      if (rule.tangents.unscale != nullptr) rule.unscaled = z_tangent_[l];
      if (l == last()) rule.to = nullptr;
    });
    Adjoint<T> p;  // A_l
    for (std::int64_t l = last(); l >= 0; --l) {
      T* const alpha = ping_pong_[l];
      if (l != last()) p = network_.adjoint_below(n, l, ping_pong_[l + 1], alpha, p);
      check(kernels::launch_axis_adjoint<T>({.rows = n,
                                             .width = network_.width(l),
                                             .stride = network_.stride(l),
                                             .p = p.p,
                                             .unscale = p.unscale,
                                             .z = l == 0 ? start.z : z_tangent_[l],
                                             .point_stride = l == 0 ? start.point_stride : network_.stride(l),
                                             .unit_stride = l == 0 ? start.unit_stride : 1,
                                             .d1 = d1_[l],
                                             .d2 = d2_[l],
                                             .curvature = curvature_[l],
                                             .weight = directions.of_other(k) ? other_weight_ : weight_,
                                             .source = source_[l],
                                             .squares = squares_[l],
                                             .begin = k == 0,
                                             .alpha = alpha,
                                             .operand = network_.operand(l)},
                                            stream_),
            "launch_axis_adjoint");
      if (l > 0) {
        add_weights(l, n, alpha, network_.stride(l), {h_tangent_[l - 1], network_.stride(l - 1)}, gradient);
      } else if (!directions.exact()) {
        add_weights(0, n, alpha, network_.stride(0), first_rows(direction_), gradient);
      } else if (!architecture().is_fixed(0)) {
        column_sum(n, network_.width(0), alpha, network_.stride(0),
                   gradient + network_.weight_offset(0) + network_.times() + k, static_cast<int>(start.unit_stride));
      }
    }
  }

  // The seed tangent from c in seed_, and of a residual q and ν in potential_ where the form is not plain, and the adjoint.
  // Of the denoising loss q, ν and the time's part of c are 0, and the source S begins here; of a residual the axis
  // adjoints have begun it in all layers but the last.
  void seed_and_adjoint(std::int64_t n, bool residual, T* gradient) {
    const std::int64_t top = network_.hidden();
    Rows<T> embedding_seed;  // ε
    if (residual && network_.time().there()) {
      network_.time().tangent(n, {seed_, network_.input_stride()}, network_.time().trains());
      embedding_seed = network_.time().derivative();
    }
    for (std::int64_t l = 0; l <= last(); ++l) {
      if (l > 0) {
        add_weights(l, n, delta_[l], network_.stride(l), {ping_pong_[l - 1], network_.stride(l - 1)}, gradient);
        network_.product(n, l, WideNetwork<T>::Direction::forward, ping_pong_[l - 1], ping_pong_[l]);
      } else {
        add_weights(0, n, delta_[0], network_.stride(0), first_rows(seed_), gradient);
        network_.along_input(n, seed_, ping_pong_[0]);
      }
      add_embedding_weights(l, n, delta_[l], network_.stride(l), {{}, embedding_seed}, gradient);
      const float* const unscale = network_.add_embeddings(
          n, l, {{}, embedding_seed}, l == 0 ? nullptr : network_.unscale(), ping_pong_[l], network_.stride(l));
      const bool value_seed = formed_ && residual && l == last();
      check(
          kernels::launch_seed_tangent<T>({.rows = n,
                                           .width = network_.width(l),
                                           .stride = network_.stride(l),
                                           .u = ping_pong_[l],
                                           .unscale = unscale,
                                           .d1 = d1_[l],
                                           .curvature = curvature_[l],
                                           .squares = residual ? squares_[l] : nullptr,
                                           .d2 = d2_[l],
                                           .d3 = residual ? d3_[l] : nullptr,
                                           .source = source_[l],
                                           .begin = !residual || l == last(),
                                           .to = ping_pong_[l],
                                           .operand = network_.operand_of(l),
                                           .source_operand = l == last() ? network_.operand(l) : kernels::HalfOperand{},
                                           .value_seed = value_seed ? potential_ : nullptr,
                                           .value = value_[l],
                                           .delta = delta_[l]},
                                          stream_),
          "launch_seed_tangent");
      network_.add_connection(n, l, ping_pong_);
    }
    if (!architecture().is_fixed(top)) {
      column_sum(n, network_.width(last()), ping_pong_[last()], network_.stride(last()),
                 gradient + network_.weight_offset(top), 1);
      const auto embedded = static_cast<int>(network_.embedded(top, network_.time()));
      if (embedding_seed.data != nullptr && embedded > 0) {
        column_sum(n, embedded, embedding_seed.data, static_cast<int>(embedding_seed.stride),
                   gradient + network_.embedding_offset(top, network_.time()), 1);
      }
    }
    Planes<T> zeta = ping_pong_;
    zeta[last()] = source_[last()];
    Adjoint<T> above;
    Rows<T> output_seed;
    if (formed_ && residual) {
      output_seed = {potential_, 1};
      add_embedding_weights(top, n, potential_, 1, network_.embeddings(), gradient);
      if (network_.residual(last())) {  // h_L is in Φ by the connection, too
        network_.from_output(n, potential_, 1, network_.kept());
        above = {network_.kept(), network_.stride(last())};
      }
    }
    adjoint(n, zeta, source_, above, output_seed, residual, gradient);
  }

  // The adjoint from ζ of the last hidden layer in zeta, and P there in `above`, with what each layer and the branches
  // add to the gradient. output_seed: the derivative by the outputs, [n, outputs], or without data 0; with_tangent:
  // whether ε, the derivative of the time's embedding along c, is not 0.
  void adjoint(std::int64_t n, const Planes<T>& zeta, const Planes<T>& source, const Adjoint<T>& above,
               const Rows<T>& output_seed, bool with_tangent, T* gradient) {
    for (const WideBranch<T>* branch : network_.branches()) {
      if (!branch->trains()) continue;
      check(cudaMemsetAsync(branch->bar(), 0, static_cast<std::size_t>(n * branch->width()) * sizeof(T), stream_),
            "cudaMemsetAsync");
    }
    const auto add_bars = [&](std::int64_t l, const T* d, std::int64_t stride) {
      for (const WideBranch<T>* branch : network_.branches()) {
        if (branch->trains()) network_.add_embedding_bar(n, l, *branch, d, stride, branch->bar());
      }
    };
    if (output_seed.data != nullptr) add_bars(network_.hidden(), output_seed.data, output_seed.stride);
    network_.adjoint(
        n, zeta, d1_, source,
        [&](std::int64_t l) {
          const std::int64_t stride = network_.stride(l);
          add_weights(l, n, zeta[l], stride,
                      l > 0 ? Rows<T>{value_[l - 1], network_.stride(l - 1)} : first_rows(input_), gradient);
          add_embedding_weights(l, n, zeta[l], stride, network_.embeddings(), gradient);
          add_bias(l, n, zeta[l], stride, gradient);
          add_bars(l, zeta[l], stride);
        },
        above);
    for (WideBranch<T>* branch : network_.branches()) {
      if (!branch->trains()) continue;
      const bool along_time = with_tangent && branch == &network_.time();
      T* const own = gradient + network_.branch_offset(*branch);
      branch->back(n, along_time, [&](std::int64_t k, const T* z, const T* z_tangent) {
        const BranchLayer& layer = branch->shape().layers[k];
        if (layer.fixed) return;
        const std::int64_t inputs = branch->shape().inputs_of(k);
        T* const weights = own + branch->shape().weight_offset(k);
        network_.add_outer(layer.width, inputs, n, z, layer.width, branch->input(k), weights, inputs);
        if (z_tangent != nullptr) {
          network_.add_outer(layer.width, inputs, n, z_tangent, layer.width, branch->tangent_input(k), weights, inputs);
        }
        column_sum(n, static_cast<int>(layer.width), z, static_cast<int>(layer.width),
                   own + branch->shape().bias_offset(k), 1);
      });
    }
  }

  // ---- what layer l adds to the gradient, nothing where it is fixed ----

  // Rows (t, x), or x alone, as the first layer takes them.
  Rows<T> first_rows(const T* inputs) const { return {inputs + 1 - network_.times(), network_.input_stride()}; }
  // From D [n, d_stride] and H.
  void add_weights(std::int64_t l, std::int64_t n, const T* d, std::int64_t d_stride, const Rows<T>& h, T* gradient) {
    if (architecture().is_fixed(l)) return;
    const std::int64_t inputs = architecture().inputs(l);
    network_.add_outer(architecture().outputs(l), inputs - network_.embedded(l), n, d, d_stride, h,
                       gradient + network_.weight_offset(l), inputs);
  }
  // From D and the embeddings or their derivatives, which without data are 0.
  void add_embedding_weights(std::int64_t l, std::int64_t n, const T* d, std::int64_t d_stride,
                             const Embeddings<T>& embeddings, T* gradient) {
    if (architecture().is_fixed(l)) return;
    const auto add = [&](const WideBranch<T>& branch, const Rows<T>& embedding) {
      const std::int64_t columns = network_.embedded(l, branch);
      if (embedding.data == nullptr || columns == 0) return;
      network_.add_outer(architecture().outputs(l), columns, n, d, d_stride, embedding,
                         gradient + network_.embedding_offset(l, branch), architecture().inputs(l));
    };
    add(network_.condition(), embeddings.condition);
    add(network_.time(), embeddings.time);
  }
  void add_bias(std::int64_t l, std::int64_t n, const T* d, std::int64_t d_stride, T* gradient) {
    if (architecture().is_fixed(l)) return;
    column_sum(n, static_cast<int>(architecture().outputs(l)), d, static_cast<int>(d_stride),
               gradient + architecture().bias_offset(l), 1);
  }

  // ---- launches ----

  kernels::FormPoints<T> form_points(std::int64_t n, const T* t, const T* x) const {
    return {n, dimension(), architecture().form, sde_.formulas(), t, 1, x};
  }
  void network_points(const kernels::NetworkPointArguments<T>& arguments) const {
    check(kernels::launch_network_points<T>(arguments, stream_), "launch_network_points");
  }
  void input(std::int64_t n, const T* t, const T* x) {
    check(kernels::launch_input<T>({n, dimension(), network_.input_stride(), t, 1, x, input_}, stream_),
          "launch_input");
  }
  void column_sum(std::int64_t n, int columns, const T* from, int stride, T* to, int to_stride) {
    check(kernels::launch_column_sum<T>({n, columns, stride, from, to, to_stride, column_parts_.as<T>()}, stream_),
          "launch_column_sum");
  }
  // The losses of the rows, to *sum.
  void total(std::int64_t n, double* sum) { check(kernels::launch_total({n, losses_, sum}, stream_), "launch_total"); }

  cudaStream_t stream_;
  DeviceSde sde_;
  bool formed_;  // the form is not plain
  WideNetwork<T> network_;
  std::int64_t denoising_rows_ = 0, residual_rows_ = 0;
  DeviceMemory workspace_, sums_, column_parts_;  // sums [2] in double
  DeviceMemory records_;                          // of all ranks' chunks
  T *points_ = nullptr, *conditions_ = nullptr;
  double* losses_ = nullptr;                            // [rows]
  T *trace_ = nullptr, *weight_ = nullptr;              // [rows] ΔΦ, w
  T *other_trace_ = nullptr, *other_weight_ = nullptr;  // [rows] those of the other estimate
  T* direction_ = nullptr;                              // [rows, 1 + d] (0, v)
  T* potential_ = nullptr;                              // [rows] Φ, then ν
  T *input_ = nullptr, *seed_ = nullptr;                // [rows, 1 + d] (t, x), c
  T* output_ = nullptr;                                 // [rows, max(1 + d, outputs)]
  Planes<T> ping_pong_;                                 // two arrays in turn: what a product reads and what it writes
  Planes<T> value_, d1_, d2_, curvature_;           // h, σ′, σ″, κ: in place of σ″ where that is not needed
  Planes<T> delta_, source_;                        // δ, S
  Planes<T> d3_, squares_, z_tangent_, h_tangent_;  // σ‴ then τ, q, ż and ḣ of an axis
};

template <class T>
void evaluate_batches(WideSweeps<T>& sweeps, std::int64_t d, const T* parameters, const DenoisingBatch<T>& denoising,
                      const CollocationBatch<T>& collocation, double residual_weight, double* values, T* gradient) {
  const auto conditions = [](const View<const T>& view, std::int64_t first) {
    return view ? view.data + first * view.columns : nullptr;
  };
  sweeps.evaluate(
      parameters, denoising.t.rows,
      [&](std::int64_t first, std::int64_t n) {
        return sweeps.to_network(
            n, {denoising.t.data + first, denoising.x.data + first * d, denoising.target.data + first * d,
                denoising.weight ? denoising.weight.data + first : nullptr, conditions(denoising.condition, first)});
      },
      collocation.t.rows,
      [&](std::int64_t first, std::int64_t) {
        return CollocationRows<T>{collocation.t.data + first, collocation.x.data + first * d,
                                  conditions(collocation.condition, first)};
      },
      collocation.divergence, residual_weight, values, gradient);
}

class WideLossDouble final : public DeviceLoss<double> {
 public:
  WideLossDouble(const Queue& queue, const Architecture& architecture, const ForwardSde& sde, std::int64_t rows)
      : d_(architecture.dimension), sweeps_(queue, architecture, sde, rows) {}
  void evaluate(const double* parameters, const DenoisingBatch<double>& denoising,
                const CollocationBatch<double>& collocation, double residual_weight, double* values,
                double* gradient) override {
    evaluate_batches(sweeps_, d_, parameters, denoising, collocation, residual_weight, values, gradient);
  }
  std::size_t workspace_bytes() const override { return sweeps_.workspace_bytes(); }

 private:
  std::int64_t d_;
  WideSweeps<double> sweeps_;
};

class WideLoss final : public TrainingLoss {
 public:
  WideLoss(const Queue& queue, const Architecture& architecture, const ForwardSde& sde, std::int64_t rows,
           const Divergence& divergence, const Communicator* ranks)
      : stream_(queue.stream),
        form_(architecture.form),
        d_(architecture.dimension),
        divergence_(divergence),
        ranks_(ranks),
        sweeps_(queue, architecture, sde, rows) {
    if (ranks != nullptr) check(kernels::prepare_loss_sum(), "prepare_loss_sum");
  }
  void evaluate(const float* parameters, const DenoisingBatch<float>& denoising,
                const CollocationBatch<float>& collocation, double residual_weight, double* values,
                float* gradient) override {
    evaluate_batches(sweeps_, d_, parameters, denoising, collocation, residual_weight, values, gradient);
  }
  std::size_t workspace_bytes() const override { return sweeps_.workspace_bytes(); }

  // A model's products fill the device: one model after the other.
  void evaluate(std::span<TrainingLoss* const> losses, std::span<const kernels::LossTask> tasks) override {
    for (std::size_t k = 0; k < losses.size(); ++k) dynamic_cast<WideLoss&>(*losses[k]).evaluate(tasks[k]);
  }
  bool shares_launches_with(const TrainingLoss&) const override { return false; }

 private:
  // Each chunk's points are drawn into the workspace.
  void evaluate(const kernels::LossTask& task) {
    const kernels::TrainingDraw& draw = task.points;
    const auto denoising = [&](std::int64_t first, std::int64_t n) {
      float *const t = sweeps_.points(), *const weight = t + n, *const x = weight + n, *const target = x + n * d_;
      float* const condition = sweeps_.conditions();
      check(kernels::launch_denoising_points(draw, form_, first, n, t, x, target, weight, stream_, condition),
            "launch_denoising_points");
      return DenoisingRows<float>{t, x, target, weight, condition};
    };
    const auto collocation = [&](std::int64_t first, std::int64_t n) {
      float *const t = sweeps_.points(), *const x = t + n, *const condition = sweeps_.conditions();
      check(kernels::launch_collocation_points(draw, first, n, t, x, stream_, condition), "launch_collocation_points");
      return CollocationRows<float>{t, x, condition};
    };
    if (ranks_ != nullptr) return sweeps_.evaluate_on(*ranks_, task, denoising, collocation, divergence_);
    sweeps_.evaluate(task.parameters, draw.denoising_points, denoising, draw.collocation_points, collocation,
                     divergence_, task.residual_weight, task.values, task.gradient, task.squares, draw.iteration);
  }

  cudaStream_t stream_;
  NetworkForm form_;
  std::int64_t d_;
  Divergence divergence_;
  const Communicator* ranks_;  // or nullptr
  WideSweeps<float> sweeps_;
};

}  // namespace

std::unique_ptr<TrainingLoss> make_wide_loss(const Queue& queue, const Architecture& architecture,
                                             const ForwardSde& sde, std::int64_t rows, const Divergence& divergence,
                                             const Communicator* ranks) {
  return std::make_unique<WideLoss>(queue, architecture, sde, rows, divergence, ranks);
}

std::unique_ptr<DeviceLoss<double>> make_wide_loss_double(const Queue& queue, const Architecture& architecture,
                                                          const ForwardSde& sde, std::int64_t rows) {
  return std::make_unique<WideLossDouble>(queue, architecture, sde, rows);
}

}  // namespace fokker::cuda
