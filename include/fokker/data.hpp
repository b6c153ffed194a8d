#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/formulas/data.hpp"
#include "fokker/mixture.hpp"
#include "fokker/public.hpp"
#include "fokker/standardisation.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

struct MixtureTables;  // internal: what draws need of a mixture, in float
struct DeviceSamples;  // internal: samples that are on a device alone

// A law to draw x_0 from: the paper's planar sets, a Gaussian mixture of any dimension, or samples drawn uniformly with
// replacement. Draw i of (seed, step) is a function of those three alone.
class DataSet {
 public:
  using Kind = DataKind;

  // Copies share what they hold. There is no move, which would leave a set without a law.
  DataSet(const DataSet&) = default;
  DataSet& operator=(const DataSet&) = default;

  // "blob", "circles2", "checker", "FILE.json" (a Gaussian mixture, as a model file) or the name of an array that
  // ends in .npy, .npz, .npz:NAME or .csv (samples [N, d], or [N] for d = 1; load_array()). Throws Error with the list of
  // names, and on a file that does not hold such a law.
  static DataSet named(const std::string& name);
  static DataSet mixture(GaussianMixture mixture);
  // samples [N, d], N ≥ 1, finite, d up to 262140. Throws Error.
  static DataSet samples(std::vector<float> samples, std::int64_t dimension);
  // The same of samples [N, d] on the context's device. On CUDA they are copied there, on the context's stream, and
  // never kept on the host (read once, to check and to identify them), so the view may go or change at return; the set
  // draws and trains on contexts of that device. Throws Error.
  static DataSet samples(const Context& context, View<const float> samples);

  Kind kind() const { return kind_; }
  const std::string& name() const { return name_; }
  std::int64_t dimension() const { return dimension_; }
  // The mixture of blob and of Kind::mixture; nullptr for the others.
  const GaussianMixture* exact() const { return mixture_.get(); }
  // The samples of Kind::samples, [N, d]; nullptr for the others, and where they are on a device.
  const std::vector<float>* stored() const { return samples_.get(); }

  // Which law this is, whatever its name: a file may have changed, or moved. "kind:dimension:hash of the contents",
  // wherever those are.
  std::string fingerprint() const;

  // out [N, d] on the context's device: draws first_index … first_index + N − 1 of (seed, step). Throws Error where the
  // shape or the device of `out` does not fit.
  void draw(const Context& context, View<float> out, std::uint64_t seed, std::uint64_t first_index = 0,
            std::uint64_t step = 0) const;

  // The law of z = (x − mean)/deviation, under the same name: of stored samples each number, wherever they are, of a
  // mixture its exact law. Throws Error for circles2 and checker, whose draws are formulas of one scale, and where the
  // standardisation does not fit. Waits where the samples are on a device.
  DataSet standardised(const Context& context, const Standardisation& standardisation) const;

  // Internal: throws Error where the samples are on a device and the context is not.
  void check_context(const Context& context) const;
  // Internal: what a backend's draws need of a mixture; nullptr for the others.
  const MixtureTables* tables() const { return tables_.get(); }
  const DeviceSamples* device_samples() const { return device_samples_.get(); }

 private:
  DataSet() = default;

  Kind kind_ = Kind::blob;
  std::string name_;
  std::int64_t dimension_ = 2;
  std::shared_ptr<const GaussianMixture> mixture_;
  std::shared_ptr<const MixtureTables> tables_;
  std::shared_ptr<const std::vector<float>> samples_;
  std::shared_ptr<const DeviceSamples> device_samples_;
};

// How large the numbers of a law are.
struct DataScale {
  double largest = 0;                  // |x_i| of any coordinate
  std::vector<double> deviation = {};  // [d] standard deviation of each coordinate
  std::vector<double> mean = {};       // [d]

  // Ten times the largest: a sample with a coordinate beyond is far out. Infinite where all numbers are 0.
  double far() const;
};
// Over all stored samples where they are on the host, else over some ten thousand draws, the same in every call. Not of
// the last `conditions` columns, which are a condition. Throws Error where no column is left. Waits for its result.
DataScale data_scale(const Context& context, const DataSet& data, std::int64_t conditions = 0);
// The mean and the standard deviation of each column: of a mixture exactly, else those of data_scale(). Of the last
// `conditions` columns, which are a condition, a constant one stays as it is. Throws Error where another is constant, which
// nothing can be divided by, or out of the range of a Standardisation.
Standardisation standardisation_of(const Context& context, const DataSet& data, std::int64_t conditions = 0);

}  // namespace fokker
