#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fokker/formulas/activation.hpp"
#include "fokker/formulas/form.hpp"
#include "fokker/mixture.hpp"
#include "fokker/public.hpp"
#include "fokker/sde.hpp"
#include "fokker/standardisation.hpp"

namespace FOKKER_PUBLIC fokker {

Activation parse_activation(std::string_view name);  // one of activation_names(); throws Error on any other name
std::string_view to_string(Activation activation);
std::vector<std::string_view> activation_names();
// Names of the activations' parameters, each with what it means: "beta", "sharpness of softplus, which is …".
std::map<std::string, std::string> activation_parameters();

// An activation with its parameter, where it has one.
struct LayerActivation {
  Activation activation = Activation::softplus;
  double beta = 100;
  bool operator==(const LayerActivation&) const = default;
};
// "silu", "softplus(100)"; throws Error on any other text.
LayerActivation parse_layer_activation(std::string_view text);
std::string to_string(const LayerActivation& activation);

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

// What stands side by side in the inputs of a layer: the condition y, the time and x, or what is made of them.
enum class LayerInput { condition, time, x };

// What a network takes, in words: the order of its inputs, x being all of its coordinates and y all of a condition, and
// what it takes for the time, as t,x or x,1000*t-1 or 0.25*log-sigma,y,x: [SCALE*]NAME[+OFFSET], NAME one of t, sigma,
// log-sigma, log-snr (ln m²/σ²). Sets the time of `form` and returns the order, in which the condition is where it is
// named; throws Error on any other text.
std::vector<LayerInput> parse_inputs(std::string_view text, NetworkForm& form);
std::string inputs_of(const NetworkForm& form);  // of a network without a condition, time first

// A dense layer of a branch: h_k = σ(W_k h_{k−1} + b_k).
struct BranchLayer {
  std::int64_t width = 32;  // ≥ 1
  LayerActivation activation = {Activation::silu, 1};
  bool fixed = false;  // training leaves its parameters as they are
  bool operator==(const BranchLayer&) const = default;
};

// What a network makes of its time τ, or of a condition y, before its layers take it: an embedding by dense layers, e(τ)
// or c(y), which those layers of the network that `into` names take beside their other inputs. A fixed layer of sines with
// the biases 0 and π/2 is the sinusoidal embedding. Without layers the embedding is τ or y itself.
struct Branch {
  std::vector<BranchLayer> layers = {};
  std::vector<std::int64_t> into = {0};  // ascending, of 0 … Architecture::layers() − 1; none: it is not taken at all
  std::vector<std::string> layer_names = {};  // tensor prefixes in files; empty: time1, time2, … and condition1, …
  std::int64_t inputs = 1;  // of its first layer: 1 for a time, the numbers of a condition, 0 for none

  std::int64_t width() const { return layers.empty() ? inputs : layers.back().width; }  // of the embedding
  bool raw() const { return layers.empty() && into == std::vector<std::int64_t>{0}; }
  // What layer k takes, and where its weights [width, inputs_of(k)] and then its biases begin among the branch's own
  // parameters. Throw Error for a layer that is not there; the weights of layer layers.size() begin at their end.
  std::int64_t inputs_of(std::int64_t layer) const;
  std::int64_t weight_offset(std::int64_t layer) const;
  std::int64_t bias_offset(std::int64_t layer) const;
  std::int64_t parameter_count() const { return weight_offset(static_cast<std::int64_t>(layers.size())); }
  bool operator==(const Branch&) const = default;
};

// A multilayer perceptron on τ and h_0 = C x, which are t and x unless its form says otherwise: hidden layers
//   h_l = σ_l(W_l [c, e, h_{l−1}] + b_l) [+ h_{l−1}],
// a linear output layer. The embeddings c(y) of a condition and e(τ) are part of a layer's inputs where Branch::into says
// so, the last summand is there where `residual` says so. Layer l = 0 … layers() − 1 of the formulas here is l + 1 there;
// it maps inputs(l) to outputs(l) numbers.
struct Architecture {
  std::int64_t dimension = 2;                       // d ≥ 1
  std::vector<std::int64_t> hidden = {80, 80, 80};  // widths ≥ 1, possibly unequal; at least one hidden layer
  Activation activation = Activation::softplus;
  double beta = 100;  // the activation's parameter, where it has one: β of softplus, α of ELU, …
  Output output = Output::potential;
  NetworkForm form = {};                      // what stands between the network and the score
  std::vector<std::string> layer_names = {};  // tensor prefixes in files; empty: input, hidden1, …, output
  Branch time = {};
  Branch condition = {{}, {0}, {}, 0};
  std::vector<LayerActivation> activations = {};  // of each hidden layer; empty: `activation` of all
  std::vector<std::int64_t> residual = {};  // hidden layers l ≥ 1 that add their input to their output, ascending
  std::vector<std::int64_t> fixed = {};     // layers whose parameters training leaves as they are, ascending

  bool operator==(const Architecture&) const = default;
  std::int64_t layers() const { return static_cast<std::int64_t>(hidden.size()) + 1; }
  // Whether it is hidden layers of one activation on (τ, h_0), all of them trained.
  bool plain() const {
    return time.raw() && !conditional() && activations.empty() && residual.empty() && fixed.empty();
  }
  bool conditional() const { return condition.inputs > 0; }
  // These throw Error for a layer that is not there.
  std::int64_t inputs(std::int64_t layer) const;  // with those of c and e
  std::int64_t outputs(std::int64_t layer) const;
  std::int64_t conditioned(std::int64_t layer) const;  // how many of a layer's inputs are c
  std::int64_t embedded(std::int64_t layer) const;     // how many are e
  LayerActivation activation_of(std::int64_t layer) const;
  bool is_residual(std::int64_t layer) const;
  bool is_fixed(std::int64_t layer) const;
  // The first activation of a hidden layer whose σ′ or σ″ jumps at 0: such a potential has no second derivatives.
  std::optional<Activation> kinked() const;
  // The parameter vector holds, layer after layer, those of the condition's branch first, then those of the time's,
  // W_l [outputs, inputs] row-major, the columns of c first, those of e next, and then b_l [outputs]. The offset of the
  // weights of layer layers() is the number of parameters.
  // These throw Error too where a size is out of its range.
  std::int64_t weight_offset(std::int64_t layer) const;
  std::int64_t bias_offset(std::int64_t layer) const;
  std::int64_t parameter_count() const;
  // Where the parameters of the time branch begin; those of the condition's begin at 0.
  std::int64_t time_offset() const { return condition.parameter_count(); }
  // layer_names, or their default; and those of the branches.
  std::vector<std::string> names() const;
  std::vector<std::string> time_names() const;
  std::vector<std::string> condition_names() const;
  // "3–80–80–80–1, softplus(100), potential", or "2–128–128–2, silu, noise, time branch fixed:sine:32,silu:32, time into
  // input,hidden1, condition 3, condition into input".
  std::string describe() const;
  // Throws Error where a size, name or β is outside its range.
  void validate() const;
};

// The parts of an architecture in words, as files and options have them; the readers throw Error on any other text.
// Activations of the hidden layers: "silu", or one for each, as "sine,silu,identity".
std::vector<LayerActivation> parse_activations(std::string_view text);
std::string activations_text(const Architecture& architecture);
// A branch's layers from the first to the last: [fixed:]ACTIVATION:WIDTH, as "fixed:sine:32,silu:32".
std::vector<BranchLayer> parse_branch(std::string_view text);
std::string branch_text(const std::vector<BranchLayer>& layers);
// What it takes, in the order in which it is held: t,x, or y,t,x of one that takes a condition.
std::string inputs_of(const Architecture& architecture);
// Layers by their names, as "input,hidden2"; "none" for none.
std::vector<std::int64_t> parse_layers(std::string_view text, const std::vector<std::string>& names);
std::string layers_text(const std::vector<std::int64_t>& layers, const std::vector<std::string>& names);

// An MLP and its parameters. They are held in double so that one type serves both working precisions; float32 files
// round-trip exactly.
struct Mlp {
  Architecture architecture = {};
  std::vector<double> parameters = {};

  // Weights and biases uniform on ±1/√inputs, as torch.nn.Linear draws them (not its bits), of the columns of each
  // embedding and of the others each by their own number. In a form that is not the score's the last layer is zero: the score begins as
  // A x. A time branch that begins with a fixed layer of sines has there, for each half of it, frequencies from π/8 to
  // 16 π in equal ratios, the second half with the phase π/2.
  static Mlp initialise(const Architecture& architecture, std::uint64_t seed);
};

// A weighted sum of models' scores, s = Σ_k w_k s_k, and of their potentials where all have one; compose() makes it
// (composition.hpp).
struct Term;
struct Composition {
  static constexpr std::size_t most_terms = 64;
  std::vector<Term> terms;  // 1 or more

  // Those of the one member, where Term is complete.
  Composition();
  Composition(const Composition&);
  Composition(Composition&&) noexcept;
  Composition& operator=(const Composition&);
  Composition& operator=(Composition&&) noexcept;
  ~Composition();
};

// A forward SDE and what stands for its score: a network, the exact density of a Gaussian mixture, or a sum of those.
// They are of z = (x − mean)/deviation where there is a standardisation, and what takes a model speaks in x, unless it
// says otherwise. A network that takes a condition y is the score of x given y: y is given with the points, or once for all
// by with_condition(). A standardisation has its columns after those of x.
struct Model {
  ForwardSde sde = {};
  std::variant<Mlp, GaussianMixture, Composition> network = {};
  Standardisation standardisation = {};

  std::int64_t dimension() const;
  std::int64_t condition() const;  // how many numbers y has; 0 for none
  Output output() const;           // a mixture is a potential, and so is a composition of potentials
  // A mixture gives the score itself. A composition has the form of its terms where that is one and their weights add up
  // to 1, so that A and B of all are its own: it is then a sum of the networks' outputs. Else it gives the score itself.
  NetworkForm form() const;
  Model of_z() const;  // without its standardisation: network and SDE as they are, whose x is z
  // Throws Error where a parameter is not finite or a size does not fit.
  void validate() const;
};

// Part of a composition. Its model has the SDE of the whole, no standardisation beside that of the whole, is no composition
// itself and takes no condition.
struct Term {
  double weight = 1;  // finite in float32
  Model model = {};
};

// The model given the condition y [Model::condition()], which takes none any more: c(y) is part of its biases. Throws Error
// where the sizes differ or a number is not finite.
Model with_condition(const Model& model, const std::vector<double>& y);
// The same for the condition that training drops to (TrainOptions::condition_drop): 0 for what the network takes.
Model without_condition(const Model& model);

// What a safetensors file without our metadata leaves open; a key given here overrides the file's.
using ModelMetadata = std::map<std::string, std::string>;

// Points and the scores that the author of a network computed there: t [N], x [N, d], score [N, d], and for a network that
// takes one the condition [N, c].
struct Proof {
  std::vector<double> t = {}, x = {}, score = {}, condition = {};
};
// Throws Error where the model's scores, in double on the CPU, are not the proof's: by more than 1e-3 of a point's score
// and, times the deviation σ of its noise, 1e-4 of the root mean square of all; float32 is well within both.
void check_proof(const Model& model, const Proof& proof);

// Model files. `.safetensors`: the MLP's tensors NAME.weight [out, in] and NAME.bias [out] in F32 (F64, F16 and BF16 are
// read too), with the metadata keys activation, its parameter by the name it has (beta, alpha, negative_slope), output,
// data_deviation (of edm), inputs, layers, sde, sde_parameters, and where there are any time_branch, time_layers,
// time_into, condition (how many numbers), condition_branch, condition_layers, condition_into, residual and fixed (in the
// words above; layers by their names), and for a standardisation column_means and column_deviations, lists of a number a
// column as [1000, 0]; without `layers`, the natural sort of the tensor names, without
// `sde_parameters` the SDE's defaults. `.json`: a Gaussian mixture, which has no standardisation, {"weights": [K],
// "means": [K][d], "covariances": [K][d][d], [K][d] (diagonals), [K] (multiples of the identity) or one number, "sde":
// …, "sde_parameters": {…}}, whose score is exact under any SDE, so that without one it has ou; covariances that are
// not written out have at most 2^22 numbers. Or a composition, {"terms": [{"weight": …, "model": "FILE", "condition": [c] or
// "none"}, {"weight": …, "mixture": {…}}, {"weight": …, "likelihood": {"matrix": [k][d], "offset": [k], "covariance": [k][k], [k] or one number,
// "observation": [k], "prior": {…}}}], "sde": …, "sde_parameters": {…}}: FILE is a network or a mixture, its name
// relative to the folder of the composition, and has a condition where the network takes one; a mixture
// and a prior hold the keys above; weights are 1 and offsets 0 where they are left out, and a mixture that names no SDE has
// that of the others. Throws Error with one sentence on anything unreadable,
// on a network without activation, output, inputs or SDE, on a parameter that its activation does not have, and on a
// network that does not give the scores of the proof in its file (tensors proof.t, proof.x, proof.score, proof.condition).
Model load_model(const std::string& path, const ModelMetadata& overrides = {});
// The same of the contents of a .safetensors file.
Model parse_model(std::span<const std::byte> contents, const ModelMetadata& overrides = {});
// Written to a temporary name beside `path`, synced, renamed. `extra` metadata is kept as it is.
// A proof that is not empty is written too, and is for networks. Throws Error for a composition, whose file names those
// of its terms and is written by hand.
void save_model(const std::string& path, const Model& model, const ModelMetadata& extra = {}, const Proof& proof = {});
// What save_model() writes of a network, without a loss: parameters that float32 does not hold make all tensors F64. Throws
// Error for a mixture and a composition.
std::vector<std::byte> model_contents(const Model& model);

}  // namespace fokker
