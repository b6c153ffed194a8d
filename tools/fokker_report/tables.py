"""Tables of a reproduction's runs, as HTML. Each is narrow enough for the page: what is wide is split by subject."""

import html
import json
import math

from .runs import PAIRS, is_study, mean_of, number

class Markup(str):
    """Text that is HTML already."""


def escaped(text):
    """The one way of anything into the page: what is not Markup is text."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


W_R = Markup("w<sub>R</sub>")


def table(header, rows, css=""):
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{css}">' + (f"<tr>{head}</tr>" if header else "") + body + "</table>"


def several_seeds(runs):
    return len({run.seed for run in runs}) > 1


def name_header(runs):
    return ["data", *(["activation"] if is_study(runs) else []), *(["seed"] if several_seeds(runs) else []), W_R]


def name_cells(run, runs):
    """What tells a run from the others, a cell for each column of name_header()."""
    return [run.data, *([run.activation] if is_study(runs) else []),
            *([run.seed] if several_seeds(runs) else []), f"{run.weight:g}"]


def name_text(run, runs):
    return Markup(", ".join([escaped(run.data), *([escaped(run.activation)] if is_study(runs) else []),
                             *([f"seed {run.seed}"] if several_seeds(runs) else []), f"{W_R} = {run.weight:g}"]))


def best(text):
    return Markup(f'<span class="best">{escaped(text)}</span>')


def escaped_cell(share, samples):
    """How many samples a distance leaves out."""
    return f"{round(share * samples)} ({100 * share:.3g} %)" if share > 0 else "0"


def results_tables(runs):
    """The distances of each run, then what was measured beside them."""
    distances, others = [], []
    for run in runs:
        gap, names = run.gap, name_cells(run, runs)
        distances.append([*names, best(number(run.distances["ode_sde"])), number(gap.get("grid_bias")),
                          number(run.distances["ode_truth"]), number(run.distances["sde_truth"]),
                          number(gap["noise_floor"])])
        others.append([*names, *(escaped_cell(gap["escaped"][key], gap["samples"]) for key in ("ode", "sde")),
                       number(run.residual["mean_square"], 3, "g"), number(run.residual["centred_mean_square"], 3, "g"),
                       number(gap["denoising_loss"], 5, "g"), f'{run.entry["training"]["seconds"]:.0f} s',
                       f'{gap["seconds"]["ode"] + gap["seconds"]["sde"]:.0f} s'])
    return (table([*name_header(runs), "ODE–SDE", "the grid's share of it", "ODE–truth", "SDE–truth", "noise floor"],
                  distances)
            + table([*name_header(runs), "escaped ODE", "escaped SDE", "mean R²", "mean R², centred", "denoising loss",
                     "training", "sampling"], others))


def eta_table(runs):
    """The gap's curve: a row for each η of a data set, activation and weight; empty where it was not measured."""
    rows = []
    for run in {id(run.summary): run for run in runs if run.along_eta is not None}.values():
        curve = run.along_eta
        for k, eta in enumerate(curve["eta"]):
            lost = curve["escaped"][k]
            rows.append([run.data, run.activation, f"{run.weight:g}", f"{eta:g}", best(spread(curve["ode"][k], 4)),
                         spread(curve["truth"][k], 4), number(mean_of(run.summary["noise_floor"]), 4),
                         f'{number(100 * lost["mean"], 2)} %' if lost else "–"])
    return table(["data", "activation", W_R, "η", "to the ODE", "to the truth", "noise floor", "escaped"], rows) if rows else ""


def spread(statistic, digits, style="f"):
    if statistic is None:
        return "–"
    text = number(statistic["mean"], digits, style)
    return text if statistic["deviation"] is None else f'{text} ± {number(statistic["deviation"], digits, style)}'


def summary_tables(summary):
    """Mean ± standard deviation over seeds."""
    distances, others = [], []
    for entry in summary:
        names = [entry["data"], entry["activation"]["name"], f'{entry["residual_weight"]:g}']
        distances.append([*names, entry["seeds"], best(spread(entry["ode_sde"], 4)),
                          number(mean_of(entry["grid_bias"]), 4), spread(entry["ode_truth"], 4),
                          spread(entry["sde_truth"], 4), number(mean_of(entry["noise_floor"]), 4)])
        lost = [f'{number(100 * entry[key]["mean"], 2)} %' if entry[key] else "–" for key in ("escaped_ode", "escaped_sde")]
        others.append([*names, f'{entry["activation"]["largest_second_derivative"]:.3g}', *lost,
                       spread(entry["centred_mean_square"], 2, "g"), spread(entry["denoising_loss"], 4)])
    return (table(["data", "activation", W_R, "seeds", "ODE–SDE", "the grid's share of it", "ODE–truth", "SDE–truth",
                   "noise floor"], distances)
            + table(["data", "activation", W_R, "largest |σ″|", "escaped ODE", "escaped SDE", "mean R², centred",
                     "denoising loss"], others))


def published_tables(summary):
    """The medians over seeds beside what the paper's authors published; empty where there is nothing to compare."""

    def median(statistic):
        return statistic["median"] if statistic else None

    distances, others = [], []
    for entry in summary:
        published = entry.get("published")
        if not published:
            continue
        names = [entry["data"], f'{entry["residual_weight"]:g}']
        row = [*names]
        for key, _ in PAIRS:
            ours, theirs = median(entry[key]), published["w2_squared"][key]
            row += [number(ours), number(theirs), number(ours / theirs, 2) if ours is not None and theirs else "–"]
        distances.append(row)
        row = [*names]
        for key in ("ode", "sde"):
            row += [number(median(entry["escaped_" + key])), number(published["escaped"][key])]
        others.append(row + [number(median(entry["mean_square"]), 3, "g"), number(published["mean_square"], 3, "g")])
    if not distances:
        return ""
    return (table(["data", W_R, *(cell for _, label in PAIRS for cell in (label, "published", "ratio"))], distances)
            + table(["data", W_R, "escaped ODE", "published", "escaped SDE", "published", "mean R²", "published"], others))


def bound_cell(bound):
    """A bound of W₂."""
    return number(None) if bound["text"] is None else bound["text"] + (" (vacuous)" if bound["vacuous"] else "")


def estimate_cell(estimate):
    """A value with its error from nodes, times or draws, where that is known."""
    error = math.hypot(estimate["standard_error"] or 0, estimate["step_error"] or 0)
    return number(estimate["value"], 4) + (f" ± {error:.1g}" if error else "")


def resolved_cell(run):
    return "yes" if run.diagnosis["resolved"] else Markup("<b>not resolved</b>")


def bound_table(runs):
    rows = []
    for run in runs:
        gap, bound = run.distances["ode_sde"], run.diagnosis["upper_bound"]
        rows.append([*name_cells(run, runs), number(None if gap is None else math.sqrt(gap), 4),
                     bound_cell(bound["over_samples"]), bound_cell(bound["over_box"]), resolved_cell(run)])
    return table([*name_header(runs), "W₂, measured", "estimate over samples", "estimate over the box",
                  Markup("e<sub>t</sub> resolved")], rows)


def energy_tables(runs):
    """The left side of the energy identity, then the right side and what the two leave."""
    left, right = [], []
    for run in runs:
        energy, identity = run.diagnosis["energy"], run.diagnosis.get("identity")
        side = lambda key: estimate_cell(identity[key]) if identity else "–"
        left.append([*name_cells(run, runs), side("kl_end"), estimate_cell(energy["dissipation"]), side("left"),
                     resolved_cell(run)])
        right.append([*name_cells(run, runs), *(side(key) for key in ("kl_prior", "residual_work", "right", "difference")),
                      estimate_cell(energy["balance"]["difference"])])
    return (table([*name_header(runs), "KL at the end", Markup("½ ∫ g² e<sub>t</sub> dt"), "left side", Markup("e<sub>t</sub> resolved")],
                  left)
            + table([*name_header(runs), "KL at T", "work of R", "right side", "left − right", "balance: left − right"],
                    right))


def acceptance_table(entries):
    return table(["data", "criterion", "outcome", "numbers"],
                 [[entry["data"], entry["criterion"], Markup(f'<b>{escaped(entry["outcome"])}</b>'), entry["numbers"]]
                  for entry in entries], "text")


def recipe_table(results, runs):
    recipe = runs[0].entry["recipe"]
    points = f'{recipe["denoising_points"]} denoising'
    if any(run.weight > 0 for run in runs):
        points = Markup(f'{points}, and {recipe["collocation_points"]} residual points where {W_R} > 0')
    average = recipe["average"]
    if average != "none" and recipe.get("average_fraction"):
        average += f', over the last {100 * recipe["average_fraction"]:g} % of the iterations'
    rate = recipe["schedule"] + (f', peak {recipe["peak_rate"]:g}' if recipe.get("peak_rate") is not None else "")
    options = results["gap_options"]
    backends = "; ".join(f'{b["name"]}: {b["detail"]}' for b in results["backends"])
    training = sum(entry["training"]["seconds"] for entry in results["runs"] if entry.get("training"))
    sampling = sum(run.gap["seconds"].get(key) or 0 for run in runs for key in ("ode", "sde", "along_eta"))
    rows = [
        ("network", "; ".join(dict.fromkeys(run.entry["model"]["summary"] for run in runs))
         + f'; {runs[0].entry["model"]["parameters"]} parameters'),
        ("forward SDE", f'{recipe["sde"]["name"]} {json.dumps(recipe["sde"]["parameters"])}'),
        ("training", Markup(f'{recipe["iterations"]} iterations of Adam; fresh points in each: {points}')),
        ("denoising times", recipe["time_law"]),
        ("rate", rate),
        ("average of the weights", average),
        ("sampling", f'{options["samples"]} samples each; reverse SDE by Euler–Maruyama, probability-flow ODE by '
                     f'{options["ode_scheme"]}; times: {options["grid"]}'),
        ("seed", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))),
        ("machine", f'{results["machine"]["cpu"]}; {results["threads"]} threads on the {results["backend"]} backend'),
        ("backends", backends),
        ("fokker", results["version"]),
        ("time", f'{training:.0f} s of training, {sampling:.0f} s of sampling, '
                 f'{sum(run.gap["seconds"]["measure"] for run in runs):.0f} s of measuring; {results["seconds"]:.0f} s in '
                 'all, upper bounds included where there are any'),
    ]
    return table([], rows, "key")
