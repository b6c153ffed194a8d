#include <cuda_runtime.h>
#include <curand_kernel.h>
#include <thrust/device_vector.h>
#include <thrust/execution_policy.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <thrust/reduce.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "fokker/formulas/data.hpp"
#include "fokker/formulas/integrator.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/formulas/train.hpp"
#include "library_peer.hpp"

#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
#include <cub/device/device_reduce.cuh>
#endif

namespace fokker::bench {
namespace {

constexpr int d = 2;

// Streams of a plane, in their order.
struct Streams {
  bool residual;  // with ∂_t and the Laplacian

  __host__ __device__ int count() const { return residual ? d + 3 : d + 1; }
  __host__ __device__ int space() const { return residual ? 2 : 1; }  // ∂_x; ∂_y follows
  __host__ __device__ int laplacian() const { return d + 2; }
};
constexpr int most_streams = d + 3;

__device__ PhiloxBlock words(std::uint64_t seed, std::uint64_t index, RandomUse use, std::uint32_t block,
                             std::uint64_t step) {
  curandStatePhilox4_32_10_t state;
  curand_init(seed, index, 4 * philox_offset(use, block, step), &state);
  const uint4 four = curand4(&state);
  return {{four.x, four.y, four.z, four.w}};
}

// A plane's numbers of one point and unit.
struct Jet {
  float* first;
  std::int64_t stride;  // from one stream to the next

  __device__ Jet(float* plane, int points, int width, int item)
      : first(plane + item), stride(static_cast<std::int64_t>(points) * width) {}
  __device__ float& operator[](int stream) const { return first[stream * stride]; }
};

// ---- pointwise steps, of an item each -------------------------------------------------------------------------------

// (t, x, y) of a point, and of each stream the derivatives of these.
struct SetInputs {
  const float *t, *x;
  float one_t;  // where t is null
  Streams streams;
  int points, count;  // of streams: 1 alone for values
  float* rows;        // [streams, points, 1 + d]

  __device__ void operator()(int i) const {
    for (int s = 0; s < count; ++s) {
      float* row = rows + (static_cast<std::int64_t>(s) * points + i) * (1 + d);
      row[0] = s == 0 ? (t != nullptr ? t[i] : one_t) : streams.residual && s == 1 ? 1.0f : 0.0f;
      for (int j = 0; j < d; ++j) {
        row[1 + j] = s == 0 ? x[d * static_cast<std::int64_t>(i) + j] : s == streams.space() + j ? 1.0f : 0.0f;
      }
    }
  }
};

// z becomes σ′(z + b), and h σ(z + b).
template <class Sigma>
struct ActivateValue {
  Sigma sigma;
  const float* bias;
  int width;
  float *z, *h;

  __device__ void operator()(int item) const {
    const auto a = sigma(z[item] + bias[item % width]);
    h[item] = a.value;
    z[item] = a.d1;
  }
};
// z becomes σ′(z + b) v, v the output's row.
template <class Sigma>
struct ActivateLast {
  Sigma sigma;
  const float *bias, *output;
  int width;
  float* z;

  __device__ void operator()(int item) const {
    const int unit = item % width;
    z[item] = sigma(z[item] + bias[unit]).d1 * output[unit];
  }
};
struct Scale {
  const float* factor;
  float* g;

  __device__ void operator()(int item) const { g[item] *= factor[item]; }
};

// h_k = σ′ z_k, and of the Laplacian σ′ z_Δ + σ″ |∇z|².
template <class Sigma>
struct ActivateJet {
  Sigma sigma;
  Streams streams;
  const float* bias;
  int points, width;
  float *z, *h;

  __device__ void operator()(int item) const {
    const Jet from(z, points, width, item), to(h, points, width, item);
    const auto a = sigma(from[0] + bias[item % width]);
    to[0] = a.value;
    float square = 0;
    for (int s = 1; s < streams.space() + d; ++s) {
      const float derivative = from[s];
      if (s >= streams.space()) square += derivative * derivative;
      to[s] = a.d1 * derivative;
    }
    if (streams.residual) to[streams.laplacian()] = a.d1 * from[streams.laplacian()] + a.d2 * square;
  }
};

// From the adjoints of h to those of z, in place.
template <class Sigma>
struct ReverseJet {
  Sigma sigma;
  Streams streams;
  const float* bias;
  int points, width;
  float *z, *bar;

  __device__ void operator()(int item) const {
    const Jet of_z(z, points, width, item), adjoint(bar, points, width, item);
    const auto a = sigma(of_z[0] + bias[item % width]);
    const float laplacian = streams.residual ? adjoint[streams.laplacian()] : 0;
    float square = 0, value = a.d1 * adjoint[0];
    for (int s = 1; s < streams.space() + d; ++s) {
      const float derivative = of_z[s], h = adjoint[s];
      value += a.d2 * derivative * h;
      float own = a.d1 * h;
      if (s >= streams.space()) {
        square += derivative * derivative;
        own += 2 * a.d2 * derivative * laplacian;
      }
      adjoint[s] = own;
    }
    if (streams.residual) {
      value += (a.d2 * of_z[streams.laplacian()] + a.d3 * square) * laplacian;
      adjoint[streams.laplacian()] = a.d1 * laplacian;
    }
    adjoint[0] = value;
  }
};

// The residual of outputs [streams][points], and its derivatives by them.
struct ResidualAt {
  SdeFormulas sde;
  const float *t, *x, *outputs;
  int points;

  __device__ float operator()(int i, float (&by)[most_streams]) const {
    const SdeCoefficients<float> c = sde.at(t[i]);
    const float half = 0.5f * c.diffusion_squared;
    const auto output = [this, i](int s) { return outputs[static_cast<std::int64_t>(s) * points + i]; };
    float r = output(1) + c.drift * d - half * output(d + 2);
    by[0] = 0, by[1] = 1, by[d + 2] = -half;
    for (int j = 0; j < d; ++j) {
      const float s = output(2 + j), ax = c.drift * x[d * static_cast<std::int64_t>(i) + j];
      r += (ax - half * s) * s;
      by[2 + j] = ax - 2 * half * s;
    }
    return r;
  }
};
struct WriteResidual {
  ResidualAt residual;
  float* out;

  __device__ void operator()(int i) const {
    float by[most_streams];
    out[i] = residual(i, by);
  }
};
// The square of a point, and the adjoints of the outputs for the mean of all.
struct ResidualSeeds {
  ResidualAt residual;
  float scale;    // 2 weight/points
  float* seeds;   // [streams, points]
  float* square;  // [points]

  __device__ void operator()(int i) const {
    float by[most_streams];
    const float r = residual(i, by);
    square[i] = r * r;
    for (int s = 0; s < most_streams; ++s)
      seeds[static_cast<std::int64_t>(s) * residual.points + i] = scale * r * by[s];
  }
};
struct DenoisingSeeds {
  const float *outputs, *target;
  int points;
  float scale;  // 2/(points d)
  float *seeds, *square;

  __device__ void operator()(int i) const {
    float sum = 0;
    seeds[i] = 0;
    for (int j = 0; j < d; ++j) {
      const std::int64_t at = static_cast<std::int64_t>(1 + j) * points + i;
      const float off = outputs[at] - target[d * static_cast<std::int64_t>(i) + j];
      seeds[at] = scale * off;
      sum += off * off;
    }
    square[i] = sum;
  }
};

struct Number {
  const float* of;
  double factor;
  __device__ double operator()(int i) const { return factor * of[i]; }
};
struct SquareOf {
  const float* of;
  __device__ double operator()(int i) const { return static_cast<double>(of[i]) * of[i]; }
};
struct AddLosses {
  double weight;
  bool residual;
  double* values;  // denoising, residual, total

  __device__ void operator()(int) const {
    if (!residual) values[1] = 0;
    values[2] = values[0] + weight * values[1];
  }
};
struct Fill {
  float* out;
  float value;
  __device__ void operator()(int i) const { out[i] = value; }
};

// ---- paths and training ---------------------------------------------------------------------------------------------

struct DrawPrior {
  std::uint64_t seed;
  float deviation;
  float* x;

  __device__ void operator()(int i) const {
    const PhiloxBlock w = words(seed, static_cast<std::uint64_t>(i), RandomUse::prior, 0, 0);
    float z[d];
    normals_from_words(w.word[0], w.word[1], z[0], z[1]);
    for (int j = 0; j < d; ++j) x[d * static_cast<std::int64_t>(i) + j] = deviation * z[j];
  }
};
struct StepPath {
  std::uint64_t seed, step;
  StepCoefficients<float> coefficients;
  const float* score;
  float* x;

  __device__ void operator()(int i) const {
    float z[d] = {0, 0};
    if (coefficients.noise != 0) {
      const PhiloxBlock w = words(seed, static_cast<std::uint64_t>(i), RandomUse::noise, 0, step);
      normals_from_words(w.word[0], w.word[1], z[0], z[1]);
    }
    for (int j = 0; j < d; ++j) {
      const std::int64_t at = d * static_cast<std::int64_t>(i) + j;
      x[at] += increment(coefficients, x[at], score[at]) + coefficients.noise * z[j];
    }
  }
};

struct DrawDenoising {
  SdeFormulas sde;
  TimeDraw time;
  std::uint64_t seed, iteration;
  float *t, *x, *target;

  __device__ void operator()(int i) const {
    const auto index = static_cast<std::uint64_t>(i);
    const PhiloxBlock of_time = words(seed, index, RandomUse::time, 0, iteration);
    const PhiloxBlock of_ring = words(seed, index, RandomUse::data, 0, iteration);
    const PhiloxBlock of_data = words(seed, index, RandomUse::data, 1, iteration);
    const PhiloxBlock of_noise = words(seed, index, RandomUse::denoising, 0, iteration);
    float weight, z[4], noise[d];
    normals_from_words(of_data.word[0], of_data.word[1], z[0], z[1]);
    normals_from_words(of_data.word[2], of_data.word[3], z[2], z[3]);
    normals_from_words(of_noise.word[0], of_noise.word[1], noise[0], noise[1]);
    t[i] = time(uniform_from_word(of_time.word[0]), weight);
    const SdeCoefficients<float> c = sde.at(t[i]);
    const float deviation = std::sqrt(c.variance);
    const PlanePoint p = circles2_point(uniform_from_word(of_ring.word[0]), z[0], z[1], z[2]);
    const float x0[d] = {p.x, p.y};
    for (int j = 0; j < d; ++j) {
      x[d * i + j] = c.mean * x0[j] + deviation * noise[j];
      target[d * i + j] = -noise[j] / deviation;
    }
  }
};
struct DrawCollocation {
  TimeDraw time;
  std::uint64_t seed, iteration;
  float box;
  float *t, *x;

  __device__ void operator()(int i) const {
    const PhiloxBlock w = words(seed, static_cast<std::uint64_t>(i), RandomUse::collocation, 0, iteration);
    t[i] = time.t_min + (time.horizon - time.t_min) * uniform_from_word(w.word[0]);
    for (int j = 0; j < d; ++j) x[d * i + j] = box * (2 * uniform_from_word(w.word[1 + j]) - 1);
  }
};
struct UpdateParameter {
  AdamStep adam;
  double clip_norm;
  const double* square;  // of the gradient's norm
  const float* gradient;
  float *parameters, *first, *second;

  __device__ void operator()(int i) const {
    AdamStep step = adam;
    const double norm = std::sqrt(*square);
    if (clip_norm > 0 && norm > clip_norm) step.gradient_scale = static_cast<float>(clip_norm / norm);
    step(gradient[i], parameters[i], first[i], second[i]);
  }
};

}  // namespace

class LibraryPeer::Work {
 public:
  Work(const Mlp& potential, const ForwardSde& sde, cudaStream_t stream, Multiply multiply)
      : architecture_(potential.architecture),
        prior_deviation_(static_cast<float>(std::sqrt(sde.prior_variance()))),
        t_min_(static_cast<float>(sde.t_min())),
        horizon_(static_cast<float>(sde.horizon())),
        sde_(sde.formulas()),
        stream_(stream),
        multiply_(std::move(multiply)),
        planes_(architecture_.hidden.size()) {
    const Activation activation = architecture_.activation;
    if (architecture_.dimension != d || architecture_.output != Output::potential || !architecture_.plain() ||
        architecture_.form != NetworkForm() || sde.kind() == SdeKind::ddpm ||
        (activation != Activation::softplus && activation != Activation::silu)) {
      throw Error(
          architecture_.describe() + " under " + std::string(sde.name()) +
          ": allowed are potentials of the plane with softplus or silu and no form, under an SDE without a table");
    }
    const std::vector<float> from(potential.parameters.begin(), potential.parameters.end());
    parameters_.reserve(*this, std::ssize(from));
    if (multiply_) thrust::copy(from.begin(), from.end(), parameters_.numbers.begin());
  }

  LibraryCost take_cost() {
    LibraryCost cost = std::exchange(cost_, {});
    cost.memory = memory_;
    return cost;
  }

  void score(const float* t, float one_t, const float* x, std::int64_t points, float* out) {
    const int n = checked(points);
    const float* const p = parameters_.data();
    float* h = inputs_.reserve(*this, points * (1 + d));
    each(n, 4 * (t != nullptr ? 2 * (1 + d) : 1 + 2 * d), SetInputs{t, x, one_t, {false}, n, 1, h});
    for (std::int64_t l = 0; l < layers(); ++l) {
      const std::int64_t width = this->width(l);
      Plane& plane = planes_[static_cast<std::size_t>(l)];
      float* const z = plane.z.reserve(*this, points * width);
      forward(l, points, h, z);
      const float* const bias = p + architecture_.bias_offset(l);
      const int items = n * static_cast<int>(width), w = static_cast<int>(width);
      with_sigma([&](auto sigma) {
        using Sigma = decltype(sigma);
        if (l + 1 == layers()) {
          each(items, 8, ActivateLast<Sigma>{sigma, bias, p + architecture_.weight_offset(layers()), w, z});
        } else {
          h = plane.h.reserve(*this, points * width);
          each(items, 12, ActivateValue<Sigma>{sigma, bias, w, z, h});
        }
      });
    }
    const float* g = planes_.back().z.data();
    for (std::int64_t l = layers() - 1; l > 0; --l) {
      Plane& below = planes_[static_cast<std::size_t>(l - 1)];
      float* const to = below.h.data();
      product({points, width(l - 1), width(l), g, width(l), p + architecture_.weight_offset(l), width(l - 1), false, to,
               width(l - 1)});
      each(n * static_cast<int>(width(l - 1)), 12, Scale{below.z.data(), to});
      g = to;
    }
    product({points, d, width(0), g, width(0), p + architecture_.weight_offset(0) + 1, 1 + d, false, out, d});
  }

  void residual(const Points<float>& at, float* out) {
    outputs({true}, parameters_.data(), at.t.data, at.x.data, at.t.rows);
    const int n = checked(at.t.rows);
    each(n, 4.0 * (1 + d + most_streams), WriteResidual{{sde_, at.t.data, at.x.data, outputs_.data(), n}, out});
  }

  void losses(const float* parameters, const DenoisingBatch<float>& denoising,
              const CollocationBatch<float>& collocation, double weight, double* values, float* gradient) {
    const float* const p = parameters != nullptr ? parameters : parameters_.data();
    const std::int64_t n = denoising.t.rows, m = collocation.t.rows;
    float* square = squares_.reserve(*this, std::max(n, m));
    float* seeds = seeds_.reserve(*this, std::max((d + 1) * n, most_streams * m));
    outputs({false}, p, denoising.t.data, denoising.x.data, n);
    each(checked(n), 4 * (d + d + 1 + d + 1),
         DenoisingSeeds{outputs_.data(), denoising.target.data, checked(n),
                        static_cast<float>(2.0 / static_cast<double>(n * d)), seeds, square});
    sum(checked(n), 4, Number{square, 1.0 / static_cast<double>(n * d)}, values);
    reverse({false}, p, n, gradient, false);
    if (m > 0) {
      outputs({true}, p, collocation.t.data, collocation.x.data, m);
      each(checked(m), 4 * (1 + d + 2 * most_streams),
           ResidualSeeds{{sde_, collocation.t.data, collocation.x.data, outputs_.data(), checked(m)},
                         static_cast<float>(2 * weight / static_cast<double>(m)),
                         seeds,
                         square});
      sum(checked(m), 4, Number{square, 1.0 / static_cast<double>(m)}, values + 1);
      reverse({true}, p, m, gradient, true);
    }
    each(1, 24, AddLosses{weight, m > 0, values});
  }

  void sample(const std::vector<double>& times, std::uint64_t seed, View<float> samples) {
    const int n = checked(samples.rows);
    float* const score_at = seeds_.reserve(*this, samples.rows * d);
    each(n, 4 * d, DrawPrior{seed, prior_deviation_, samples.data});
    for (std::size_t k = 0; k + 1 < times.size(); ++k) {
      const auto exact = reverse_sde_step(sde_, times[k], times[k + 1] - times[k]);
      const bool last = k + 2 == times.size();  // adds no noise
      score(nullptr, static_cast<float>(times[k]), samples.data, samples.rows, score_at);
      each(n, 4 * 3 * d,
           StepPath{seed,
                    k,
                    {static_cast<float>(exact.linear), static_cast<float>(exact.score),
                     last ? 0.0f : static_cast<float>(exact.noise)},
                    score_at,
                    samples.data});
    }
  }

  void train(const TrainOptions& options, int iterations) {
    if ((options.time_law != TimeLaw::paper && options.time_law != TimeLaw::uniform) ||
        options.loss_weight != LossWeight::unit || options.schedule != RateSchedule::constant ||
        options.average != WeightAverage::none) {
      throw Error(
          "allowed are the paper's times or uniform ones, the loss weight unit, a constant rate and no average");
    }
    const std::int64_t n = options.denoising_points, m = options.residual_weight > 0 ? options.collocation_points : 0;
    const std::int64_t count = architecture_.parameter_count();
    float* const t = draws_.reserve(*this, (1 + 2 * d) * n + (1 + d) * m);
    float *const x = t + n, *const target = x + d * n, *const t_at = target + d * n, *const x_at = t_at + m;
    double* const values = values_.reserve(*this, 4);
    float* const gradient = gradient_.reserve(*this, count);
    if (iteration_ == 0) {
      for (DeviceNumbers<float>* moment : {&first_, &second_}) {
        each(static_cast<int>(count), 4, Fill{moment->reserve(*this, count), 0});
      }
    }
    const TimeDraw time{options.time_law, t_min_, horizon_, 0, nullptr};
    for (int k = 0; k < iterations; ++k, ++iteration_) {
      const auto step = static_cast<std::uint64_t>(iteration_);
      each(checked(n), 4 * (1 + 2 * d), DrawDenoising{sde_, time, options.seed, step, t, x, target});
      if (m > 0) {
        each(checked(m), 4 * (1 + d),
             DrawCollocation{time, options.seed, step, static_cast<float>(options.box), t_at, x_at});
      }
      losses(nullptr, {{t, n, 1}, {x, n, d}, {target, n, d}, {}}, {{t_at, m, 1}, {x_at, m, d}}, options.residual_weight,
             values, gradient);
      sum(static_cast<int>(count), 4, SquareOf{gradient}, values + 3);
      each(static_cast<int>(count), 4 * (4 + 3),
           UpdateParameter{AdamStep(options.peak_rate, iteration_ + 1, 1), options.clip_norm, values + 3, gradient,
                           parameters_.data(), first_.data(), second_.data()});
    }
  }

  std::vector<double> last_record() const {
    if (iteration_ == 0) throw Error("there is no iteration yet to tell of; train() makes one");
#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
    if (const cudaError_t status = cudaStreamSynchronize(stream_); status != cudaSuccess) {
      throw Error(std::string("cudaStreamSynchronize: ") + cudaGetErrorString(status));
    }
#endif
    std::vector<double> record(4);
    thrust::copy_n(values_.numbers.begin(), 4, record.begin());
    record[3] = std::sqrt(record[3]);
    return record;
  }

 private:
  // Device memory that grows.
  template <class T>
  struct DeviceNumbers {
    thrust::device_vector<T> numbers;
    std::int64_t size = 0;

    T* reserve(Work& work, std::int64_t count) {
      if (count > size) {
        work.memory_ += static_cast<double>(count - size) * sizeof(T);
        size = count;
        if (work.multiply_) numbers.resize(static_cast<std::size_t>(count));
      }
      return data();
    }
    T* data() { return thrust::raw_pointer_cast(numbers.data()); }
  };
  struct Plane {
    DeviceNumbers<float> z, h;  // [streams, points, width]
  };

  std::int64_t layers() const { return std::ssize(architecture_.hidden); }
  std::int64_t width(std::int64_t layer) const { return architecture_.outputs(layer); }
  int checked(std::int64_t points) const {
    const std::int64_t widest = *std::max_element(architecture_.hidden.begin(), architecture_.hidden.end());
    if (points * widest > INT32_MAX) {
      throw Error(std::to_string(points) + " points of " + std::to_string(widest) +
                  " units: fewer than 2^31 units are allowed");
    }
    return static_cast<int>(points);
  }

  template <class Use>
  void with_sigma(const Use& use) const {
    with_activation(ActivationList<Softplus, Silu>(), architecture_.activation, architecture_.beta, use);
  }

  void count(double bytes, double flop, int launches = 1) {
    cost_.launches += launches;
    cost_.bytes += bytes;
    cost_.flop += flop;
    cost_.seconds +=
        std::max({launches * h200_seconds_a_launch, bytes / h200_bytes_per_second, flop / h200_flop_per_second});
  }

  // step(i) for each of n items.
  template <class Step>
  void each(int n, double bytes_each, const Step& step) {
    count(bytes_each * n, 0);
    if (!multiply_) return;
#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
    const auto policy = thrust::cuda::par_nosync.on(stream_);
#else
    const auto policy = thrust::device;
#endif
    thrust::for_each_n(policy, thrust::counting_iterator<int>(0), n, step);
  }

  // *out = Σ_i term(i), by two launches.
  template <class Term>
  void sum(int n, double bytes_each, const Term& term, double* out) {
    count(bytes_each * n, 0, 2);
    if (!multiply_) return;
    const auto terms = thrust::make_transform_iterator(thrust::counting_iterator<int>(0), term);
#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
    std::size_t bytes = 0;
    check_sum(cub::DeviceReduce::Sum(nullptr, bytes, terms, out, n, stream_));
    scratch_.reserve(*this, static_cast<std::int64_t>(bytes));
    check_sum(cub::DeviceReduce::Sum(scratch_.data(), bytes, terms, out, n, stream_));
#else
    *out = thrust::reduce(terms, terms + n, 0.0);
#endif
  }
  static void check_sum(cudaError_t status) {
    if (status != cudaSuccess) throw Error(std::string("cub::DeviceReduce::Sum: ") + cudaGetErrorString(status));
  }

  void product(const cuda::Product<float, float>& p) {
    const double rows = static_cast<double>(p.rows), columns = static_cast<double>(p.columns),
                 depth = static_cast<double>(p.depth);
    count(4 * (rows * depth + depth * columns + (p.add ? 2 : 1) * rows * columns), 2 * rows * columns * depth);
    if (multiply_) multiply_(p);
  }
  // z [rows, outputs] = h [rows, inputs] W_lᵀ, of the peer's parameters or of others.
  void forward(std::int64_t layer, std::int64_t rows, const float* h, float* z, const float* parameters = nullptr) {
    const std::int64_t inputs = architecture_.inputs(layer), outputs = architecture_.outputs(layer);
    const float* const p = parameters != nullptr ? parameters : parameters_.data();
    product({rows, outputs, inputs, h, inputs, p + architecture_.weight_offset(layer), inputs, true, z, outputs});
  }

  // The streams of the outputs into outputs_ [streams, points]; planes stay for the reverse.
  void outputs(Streams streams, const float* p, const float* t, const float* x, std::int64_t points) {
    const int n = checked(points);
    const std::int64_t rows = streams.count() * points;
    float* h = inputs_.reserve(*this, rows * (1 + d));
    each(n, 4 * (1 + d) * (1 + streams.count()), SetInputs{t, x, 0, streams, n, streams.count(), h});
    for (std::int64_t l = 0; l < layers(); ++l) {
      Plane& plane = planes_[static_cast<std::size_t>(l)];
      float* const z = plane.z.reserve(*this, rows * width(l));
      forward(l, rows, h, z, p);
      h = plane.h.reserve(*this, rows * width(l));
      const int w = static_cast<int>(width(l));
      with_sigma([&](auto sigma) {
        each(n * w, 8 * streams.count(),
             ActivateJet<decltype(sigma)>{sigma, streams, p + architecture_.bias_offset(l), n, w, z, h});
      });
    }
    forward(layers(), rows, h, outputs_.reserve(*this, rows), p);
  }

  // The gradient of Σ seeds · outputs, of the planes that outputs() left.
  void reverse(Streams streams, const float* p, std::int64_t points, float* gradient, bool add) {
    const int n = checked(points);
    const std::int64_t rows = streams.count() * points;
    float* const ones = ones_.reserve(*this, points);
    if (points > ones_filled_) each(n, 4, Fill{ones, 1});
    ones_filled_ = std::max(ones_filled_, points);
    const auto gradient_of = [&](std::int64_t layer, const float* bar, const float* h) {
      const std::int64_t inputs = architecture_.inputs(layer), outputs = architecture_.outputs(layer);
      product({outputs, inputs, rows, bar, outputs, h, inputs, false, gradient + architecture_.weight_offset(layer),
               inputs, true, add});
      product({1, outputs, points, ones, points, bar, outputs, false, gradient + architecture_.bias_offset(layer),
               outputs, false, add});
    };
    const float* const seeds = seeds_.data();
    gradient_of(layers(), seeds, planes_.back().h.data());
    const std::int64_t last = width(layers() - 1);
    float* bar = bars_[0].reserve(*this, rows * last);
    product({rows, last, 1, seeds, 1, p + architecture_.weight_offset(layers()), last, false, bar, last});
    for (std::int64_t l = layers() - 1; l >= 0; --l) {
      Plane& plane = planes_[static_cast<std::size_t>(l)];
      const int w = static_cast<int>(width(l));
      with_sigma([&](auto sigma) {
        each(n * w, 12 * streams.count(),
             ReverseJet<decltype(sigma)>{sigma, streams, p + architecture_.bias_offset(l), n, w, plane.z.data(), bar});
      });
      const auto below = static_cast<std::size_t>(l - 1);
      gradient_of(l, bar, l > 0 ? planes_[below].h.data() : inputs_.data());
      if (l == 0) break;
      float* const to = bars_[(layers() - l) % 2].reserve(*this, rows * width(l - 1));
      product({rows, width(l - 1), width(l), bar, width(l), p + architecture_.weight_offset(l), width(l - 1), false, to,
               width(l - 1)});
      bar = to;
    }
  }

  Architecture architecture_;
  float prior_deviation_, t_min_, horizon_;
  SdeFormulas sde_;
  cudaStream_t stream_;
  Multiply multiply_;
  std::vector<Plane> planes_;  // of the hidden layers
  DeviceNumbers<float> parameters_, inputs_, outputs_, seeds_, squares_, ones_, draws_, gradient_, first_, second_;
  DeviceNumbers<float> bars_[2];
  DeviceNumbers<double> values_;
#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
  DeviceNumbers<char> scratch_;
#endif
  std::int64_t ones_filled_ = 0, iteration_ = 0;
  LibraryCost cost_;
  double memory_ = 0;
};

LibraryPeer::LibraryPeer(const Mlp& potential, const ForwardSde& sde, cudaStream_t stream, Multiply multiply)
    : work_(std::make_unique<Work>(potential, sde, stream, std::move(multiply))) {}
LibraryPeer::~LibraryPeer() = default;

void LibraryPeer::score(const Points<float>& at, View<float> score) {
  work_->score(at.t.data, 0, at.x.data, at.t.rows, score.data);
}
void LibraryPeer::residual(const Points<float>& at, View<float> residual) { work_->residual(at, residual.data); }
void LibraryPeer::losses(const float* parameters, const DenoisingBatch<float>& denoising,
                         const CollocationBatch<float>& collocation, double residual_weight, double* values,
                         float* gradient) {
  work_->losses(parameters, denoising, collocation, residual_weight, values, gradient);
}
void LibraryPeer::sample(const std::vector<double>& times, std::uint64_t seed, View<float> samples) {
  work_->sample(times, seed, samples);
}
void LibraryPeer::train(const TrainOptions& options, int iterations) { work_->train(options, iterations); }
std::vector<double> LibraryPeer::last_record() const { return work_->last_record(); }
LibraryCost LibraryPeer::take_cost() { return work_->take_cost(); }

}  // namespace fokker::bench
