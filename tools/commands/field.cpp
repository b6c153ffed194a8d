// fokker field: value, score, derivatives and residual of a model at points.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "parts.hpp"
#include "ranks.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

class Field : public Command {
 public:
  explicit Field(CLI::App& parent) : Command(parent, "field", "Evaluate a model's fields at points") {
    explain(R"(
The output holds float32 tensors, which are
  of a potential phi  value [N], score [N, d], dt [N] (the derivative in t), laplacian [N], residual [N]
  of a score net      score [N, d], divergence [N]
The residual is that of the Fokker-Planck equation with phi as the log density. On CUDA with --precision half the
tensors are score and, of a potential, value alone. A potential whose activation has a kink has no laplacian and no
residual. Of a standardised model points and fields are those of the data's x; where its deviations are unequal there is
no laplacian or divergence beyond 64 columns, and --probes is refused.
)",
            files_help({"--model", "--points", "--condition"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  python3 -c 'import numpy; numpy.save("points.npy", [[0.001, 0.5, -0.5], [10, 0, 0]])'
  fokker field --model circles2.safetensors --points points.npy --out fields.safetensors
)");
    model_.add_to(*app_);
    model_.add_condition(*app_, "point");
    app_->add_option(
            "--points", points_,
            "file of points, an array [N, 1 + d] (.npy, .npz or .csv): each row is t, x_1 ... x_d, the time first")
        ->required()
        ->type_name("FILE");
    app_->add_option("--out", out_, "file for the fields, a .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".safetensors"}));
    app_->add_flag("--hessian", hessian_,
                   "write hessian [N, d, d] too, whose entry i, j is the derivative of score i along x_j; d <= 64");
    probes_.add_to(*app_);
    rank_.add_to_outputs(*app_, "points");
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  bool on_ranks() const override { return true; }

  void run() override {
    Divergence divergence = probes_.divergence();
    rank_.check();
    const std::vector<Claim> claims =
        claim_outputs(rank_.files_of({out_}), {model_.path, ArrayName(points_).file, model_.condition_file()});
    const Model model = model_.load();
    const std::int64_t d = model.dimension();
    Points points = read_points(model);
    const IndexRange range = rank_.range(std::ssize(points.t));
    const std::int64_t n = range.count, c = model.condition();
    const std::vector<float> conditions = range.of_rows(model_.conditions(model, points_, range.all), c);
    points = {range.of_rows(std::move(points.t), 1), range.of_rows(std::move(points.x), d)};
    divergence.first_index = static_cast<std::uint64_t>(range.first);

    const bool potential = model.output() == Output::potential;
    using Outputs = FieldOutputs<float>;
    const Context context = machine_.context();
    const Json call = shared_call(
        rank_.in_parts(), *app_, context, model, {"--out"},
        {{"--model", model_.path}, {"--points", ArrayName(points_).file}, {"--condition", model_.condition_file()}});
    std::vector<Wanted> wanted;
    wanted.push_back({"score", &Outputs::score, {n, d}});
    if (potential) wanted.push_back({"value", &Outputs::value, {n}});
    if (context.precision() != Precision::half) {
      const bool kinked = is_kinked(model);
      const Standardisation columns = model.standardisation.columns(0, d);
      const bool traced = columns.uniform() || d <= 64;
      if (!kinked && traced) wanted.push_back({potential ? "laplacian" : "divergence", &Outputs::divergence, {n}});
      if (potential) wanted.push_back({"dt", &Outputs::dt, {n}});
      if (potential && !kinked) wanted.push_back({"residual", &Outputs::residual, {n}});
    }
    if (hessian_) wanted.push_back({"hessian", &Outputs::hessian, {n, d, d}});

    const Stopwatch clock;
    const Fields<float> fields(context, model);
    // Chunk by chunk, so that a long evaluation shows how far it is; probes belong to points, not to chunks.
    std::int64_t widest = 1;
    for (const Wanted& w : wanted) widest = std::max(widest, w.columns());
    const std::int64_t chunk = std::min(n, std::clamp<std::int64_t>((1 << 22) / widest, 1, 1 << 16));
    Buffer<float> t_chunk(context, chunk), x_chunk(context, chunk, d), y_chunk(context, chunk, c);
    for (Wanted& w : wanted) {
      w.values.resize(static_cast<std::size_t>(n * w.columns()));
      w.buffer = Buffer<float>(context, chunk, w.columns());
    }
    Progress progress({{fmt::format("fields at {} points", n), "field", 1}});
    progress.begin();
    for (std::int64_t first = 0; first < n; first += chunk) {
      const std::int64_t count = std::min(chunk, n - first);
      const View<float> t_view{t_chunk.data(), count, 1, context.device()};
      const View<float> x_view{x_chunk.data(), count, d, context.device()};
      copy(context, {points.t.data() + first, count}, t_view);
      copy(context, {points.x.data() + first * d, count, d}, x_view);
      View<float> y_view;
      if (c > 0) {
        y_view = {y_chunk.data(), count, c, context.device()};
        copy(context, {conditions.data() + first * c, count, c}, y_view);
      }
      Outputs outputs;
      for (Wanted& w : wanted) outputs.*w.view = {w.buffer.data(), count, w.columns(), context.device()};
      Divergence probes = divergence;
      probes.first_index += static_cast<std::uint64_t>(first);
      fields.evaluate({t_view, x_view, y_view}, outputs, probes);
      for (Wanted& w : wanted) {
        copy(context, outputs.*w.view, View<float>(w.values.data() + first * w.columns(), count, w.columns()));
      }
      context.synchronize();
      progress.update(double(first + count) / double(n));
    }
    const std::int64_t written = rank_.in_parts() ? range.count : range.all;
    for (Wanted& w : wanted) {
      w.values = gather_rows(std::move(w.values), w.columns(), range);
      w.shape[0] = written;
    }
    progress.clear();
    if (!is_first_rank()) return;
    SafeTensors file;
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const Wanted& w : wanted) {
      file.tensors[w.name] = Tensor::from_float(w.shape, w.values.data());
      shapes[w.name] = w.shape;
    }
    file.save(out_);
    if (rank_.in_parts()) save_part({.file = out_, .holds = "points", .range = range, .call = call});
    Warnings warnings;
    std::map<std::string, std::int64_t> not_finite;
    for (const Wanted& w : wanted) {
      const std::int64_t count =
          std::count_if(w.values.begin(), w.values.end(), [](float v) { return !std::isfinite(v); });
      not_finite[w.name] = count;
      if (count == 0) continue;
      warnings.push_back(warning_of("numbers of " + w.name, {.count = std::ssize(w.values), .not_finite = count}));
    }
    warn(warnings);
    if (json_) {
      Json json{{"points", written}, {"dimension", d}, {"out", out_}};
      json["rank"] = rank_.describe(range);
      model_.describe_condition(json);
      json["tensors"] = shapes;
      json["sde"] = describe_sde(model.sde);
      json["not_finite"] = not_finite;
      json["warnings"] = warnings;
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = clock.seconds();
      print_json(json);
    } else {
      progress.say(fmt::format("fields at {} by {} in {}, in '{}'; SDE {}", counted(written, "point"),
                               counted(context.threads(), "thread"), format_duration(clock.seconds()), out_,
                               text_of(model.sde)));
    }
  }

 private:
  // Whether a potential net in it has no second derivatives.
  static bool is_kinked(const Model& model) {
    if (const auto* mlp = std::get_if<Mlp>(&model.network)) {
      return model.output() == Output::potential && mlp->architecture.kinked();
    }
    const auto* composition = std::get_if<Composition>(&model.network);
    return composition && std::any_of(composition->terms.begin(), composition->terms.end(),
                                      [](const Term& term) { return is_kinked(term.model); });
  }

  struct Points {
    std::vector<float> t, x;  // [N], [N·d]
  };

  // Throws Error where the file holds no finite points (t, x) with 0 ≤ t ≤ T.
  Points read_points(const Model& model) const {
    const std::int64_t d = model.dimension();
    const Array file = load_points(points_, 1 + d, fmt::format(", rows (t, x_1 … x_{})", d));
    const std::int64_t n = file.shape[0];
    // A float32 file rounds a horizon such as 0.7 up or down.
    const double horizon = model.sde.horizon(), slack = 1e-6 * horizon;
    const std::vector<float> rounded = finite_float32(file, points_);
    Points points{std::vector<float>(n), std::vector<float>(n * d)};
    for (std::int64_t i = 0; i < n; ++i) {
      points.t[i] = rounded[i * (1 + d)];
      for (std::int64_t k = 0; k < d; ++k) points.x[i * d + k] = rounded[i * (1 + d) + 1 + k];
      if (const double time = file.data[i * (1 + d)]; time < -slack || time > horizon + slack) {
        throw Error(fmt::format("row {} of '{}' has the time {}; allowed for this model's SDE: 0 to {}", i, points_,
                                time, horizon));
      }
    }
    return points;
  }

  // A field: its values at all points on the host, and a buffer for a chunk of them where they are computed.
  struct Wanted {
    std::string name;
    View<float> FieldOutputs<float>::*view;
    std::vector<std::int64_t> shape;
    std::vector<float> values = {};
    Buffer<float> buffer = {};

    std::int64_t columns() const {
      return std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<>());
    }
  };

  ModelOptions model_;
  RankOption rank_;
  ProbeOptions probes_;
  std::string points_, out_;
  bool hessian_ = false, json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> field_command(CLI::App& parent) { return std::make_unique<Field>(parent); }

}  // namespace fokker::tools
