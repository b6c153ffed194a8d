#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fokker/formulas/activation.hpp"
#include "fokker/formulas/form.hpp"
#include "fokker/mixture.hpp"
#include "fokker/sde.hpp"
#include "fokker/standardisation.hpp"

namespace fokker {

Activation parse_activation(std::string_view name);  // one of activation_names(); throws Error on any other name
std::string_view to_string(Activation activation);
std::vector<std::string_view> activation_names();
// Names of the activations' parameters, each with what it means: "beta", "sharpness of softplus, which is …".
std::map<std::string, std::string> activation_parameters();

// What an MLP is: a potential net, whose one output makes a potential φ(t, x) ≈ log p_t(x) up to a function of t, with
// score ∇φ; or a vector net, whose d outputs make the score. NetworkForm says how (formulas/form.hpp).
enum class Output { potential, score };

std::string_view to_string(Output output);

// What a network puts out, in one word: potential, score, or another form of a vector net, as noise; potential:FORM for
// a potential net in another form, as potential:edm.
struct NetworkOutput {
  Output output;
  Form form;
};
NetworkOutput parse_output(std::string_view name);  // one of output_names(); throws Error on any other name
std::string to_string(const NetworkOutput& output);
std::string_view to_string(Form form);
std::vector<std::string> output_names();

// What a network takes, in words: the order of its inputs, x being all of its coordinates, and what it takes for the
// time, as t,x or x,1000*t-1 or 0.25*log-sigma,x: [SCALE*]NAME[+OFFSET], NAME one of t, sigma, log-sigma, log-snr
// (ln m²/σ²). Sets the time of `form` and returns whether x comes first; throws Error on any other text.
bool parse_inputs(std::string_view text, NetworkForm& form);
std::string inputs_of(const NetworkForm& form);  // time first

// A multilayer perceptron on (τ, C x_1 … C x_d), which are t and x unless its form says otherwise: hidden layers with one
// activation, a linear output layer.
// Layer l = 0 … layers() − 1 maps inputs(l) to outputs(l) numbers by W_l h + b_l.
struct Architecture {
  std::int64_t dimension = 2;                       // d ≥ 1
  std::vector<std::int64_t> hidden = {80, 80, 80};  // widths ≥ 1, possibly unequal; at least one hidden layer
  Activation activation = Activation::softplus;
  double beta = 100;  // the activation's parameter, where it has one: β of softplus, α of ELU, …
  Output output = Output::potential;
  NetworkForm form = {};                      // what stands between the network and the score
  std::vector<std::string> layer_names = {};  // tensor prefixes in files; empty: input, hidden1, …, output

  std::int64_t layers() const { return static_cast<std::int64_t>(hidden.size()) + 1; }
  // These throw Error for a layer that is not there.
  std::int64_t inputs(std::int64_t layer) const;
  std::int64_t outputs(std::int64_t layer) const;
  // The parameter vector holds, layer after layer, W_l [outputs, inputs] row-major and then b_l [outputs]. The offset
  // of the weights of layer layers() is the number of parameters. These throw Error too where a size is out of its
  // range.
  std::int64_t weight_offset(std::int64_t layer) const;
  std::int64_t bias_offset(std::int64_t layer) const;
  std::int64_t parameter_count() const;
  // layer_names, or their default.
  std::vector<std::string> names() const;
  // "3–80–80–80–1, softplus(100), potential", or "…, silu, potential:edm(0.5) of 0.25*log-sigma,x".
  std::string describe() const;
  // Throws Error where a size, name or β is outside its range.
  void validate() const;
};

// An MLP and its parameters. They are held in double so that one type serves both working precisions; float32 files
// round-trip exactly.
struct Mlp {
  Architecture architecture = {};
  std::vector<double> parameters = {};

  // Weights and biases uniform on ±1/√inputs, as torch.nn.Linear draws them (not its bits). In a form that is not the
  // score's the last layer is zero: the score begins as A x.
  static Mlp initialise(const Architecture& architecture, std::uint64_t seed);
};

// A forward SDE and what stands for its score: a network, or the exact density of a Gaussian mixture. Both are of
// z = (x − mean)/deviation where there is a standardisation, and what takes a model speaks in x, unless it says
// otherwise.
struct Model {
  ForwardSde sde = {};
  std::variant<Mlp, GaussianMixture> network = {};
  Standardisation standardisation = {};

  std::int64_t dimension() const;
  Output output() const;     // a mixture is a potential
  NetworkForm form() const;  // a mixture gives the score itself
  Model of_z() const;        // without its standardisation: network and SDE as they are, whose x is z
  // Throws Error where a parameter is not finite or a size does not fit.
  void validate() const;
};

// What a safetensors file without our metadata leaves open; a key given here overrides the file's.
using ModelMetadata = std::map<std::string, std::string>;

// Model files. `.safetensors`: the MLP's tensors NAME.weight [out, in] and NAME.bias [out] in F32 (F64, F16 and BF16 are
// read too), with the metadata keys activation, its parameter by the name it has (beta, alpha, negative_slope), output,
// data_deviation (of edm), inputs, layers, sde, sde_parameters, and for a standardisation column_means and
// column_deviations, lists of d numbers as [1000, 0]; without `layers`, the natural sort of the tensor names, without
// `sde_parameters` the SDE's defaults. `.json`: a Gaussian mixture, which has no standardisation, {"weights": [K],
// "means": [K][d], "covariances": [K][d][d], [K][d] (diagonals), [K] (multiples of the identity) or one number, "sde":
// …, "sde_parameters": {…}}, whose score is exact under any SDE, so that without one it has ou; covariances that are
// not written out have at most 2^22 numbers. Throws Error with one sentence on anything unreadable, on a network
// without activation, output, inputs or SDE, and on a parameter that its activation does not have.
Model load_model(const std::string& path, const ModelMetadata& overrides = {});
// Written to a temporary name beside `path`, synced, renamed. `extra` metadata is kept as it is.
void save_model(const std::string& path, const Model& model, const ModelMetadata& extra = {});

}  // namespace fokker
