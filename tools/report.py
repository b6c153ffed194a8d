#!/usr/bin/env python3
"""Figures and an HTML report from what `reproduce --out DIR` left in DIR.

Reads DIR/results.json and, for each run, its log.csv and histograms; writes DIR/figures/*.png and one self-contained
HTML file (DIR/report.html), and prints its name. Needs numpy and matplotlib, from Debian's python3-numpy and
python3-matplotlib; where this Python lacks them and /usr/bin/python3 has them, that one does the work.

examples:
  report.py build/demo
  report.py results --out /tmp/report.html

exit codes: 0 done, 1 failed (one sentence on standard error), 2 wrong usage
"""

import argparse
import base64
import html
import json
import math
import os
import subprocess
import sys

INK, MUTED, GRID = "#1b1f24", "#6a737d", "#e4e7eb"
# Colours of Okabe and Ito, told apart by every kind of colour vision.
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
PAIRS = [("ode_sde", "ODE–SDE"), ("ode_truth", "ODE–truth"), ("sde_truth", "SDE–truth")]

LOG_COLUMNS = ["iteration", "denoising", "residual", "total", "gradient_norm", "rate"]
HISTOGRAMS = ["truth", "sde", "ode"]
# As reproduce has it: with more samples lost, a distance's ratio to the noise floor says nothing.
MOST_ESCAPED = 0.05

DISTRIBUTION_PYTHON = "/usr/bin/python3"


def import_packages():
    """numpy and matplotlib. Called once the arguments are parsed, so that --help works without them."""
    global np, plt, LogLocator, NullFormatter
    try:
        import numpy as np
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError as error:
        # A Python of the user's own often has neither, and Debian's does.
        imports = [DISTRIBUTION_PYTHON, "-c", "import numpy, matplotlib.pyplot"]
        if (sys.executable != DISTRIBUTION_PYTHON and os.access(DISTRIBUTION_PYTHON, os.X_OK)
                and subprocess.run(imports, stderr=subprocess.DEVNULL, check=False).returncode == 0):
            os.execv(DISTRIBUTION_PYTHON, [DISTRIBUTION_PYTHON, os.path.abspath(__file__), *sys.argv[1:]])
        raise ValueError(f"{sys.executable} cannot import numpy and matplotlib ({error}); install the Debian packages "
                         "python3-numpy and python3-matplotlib") from error
    plt.rcParams.update({
        "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "font.family": "DejaVu Sans",
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "grid.color": GRID, "grid.linewidth": 0.8, "legend.frameon": False, "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
    })


class Run:
    def __init__(self, folder, entry):
        self.folder = os.path.join(folder, entry["folder"])
        self.entry = entry
        self.data = entry["data"]
        self.weight = entry["residual_weight"]
        self.gap = entry["gap"]
        self.planar = self.gap["w2_squared"] is not None
        self.distances = self.gap["w2_squared"] if self.planar else self.gap["sliced_w2_squared"]
        # 0 where the data are one point; none where all of them lie outside the box.
        self.floor = self.gap["noise_floor"] or 0.0
        self.label = f"$w_R$ = {self.weight:g}"

    def file(self, name):
        return os.path.join(self.folder, name)

    def files(self):
        """All that is read of it."""
        return [self.file("log.csv"), *(self.file(name + ".npy") for name in HISTOGRAMS)]

    def histogram(self, name):
        """[n, n] density per unit area, row = y; truth, sde or ode."""
        path = self.file(name + ".npy")
        with open(path, "rb") as file:
            try:
                weights = np.lib.format.read_array(file, allow_pickle=False)
                n = math.isqrt(weights.size)
                if weights.dtype.kind != "f" or n < 2:
                    raise ValueError(f"{weights.size} entries of type {weights.dtype}")
                return weights.reshape(n, n)
            except ValueError as error:
                raise ValueError(f"{path} is not a histogram of n² weights ({error}); reproduce measures again where it is "
                                 "not there") from error

    def log(self):
        """The columns of log.csv, or None where there is no such file."""
        path = self.file("log.csv")
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            header, *lines = file.read().splitlines() or [""]
        if header.split(",") != LOG_COLUMNS:
            raise ValueError(f"{path} does not begin with the columns {','.join(LOG_COLUMNS)}; remove it, and the report "
                             "does without")
        rows = []
        for line in lines:
            try:
                rows.append([float(value) for value in line.split(",")])
            except ValueError:
                rows.append([])
            if len(rows[-1]) != len(LOG_COLUMNS):
                raise ValueError(f"{path}, line {len(rows) + 1} is not {len(LOG_COLUMNS)} numbers with commas between; remove "
                                 "the file, and the report does without")
        return dict(zip(LOG_COLUMNS, np.array(rows).reshape(-1, len(LOG_COLUMNS)).T))


def number(value, digits=5, style="f"):
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.{digits}{style}}"


def by_data(runs):
    groups = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return groups


def density_figure(runs, half_width):
    """Rows: w_R. Columns: truth, SDE, ODE, on one colour scale."""
    columns = [("truth", "truth", None), ("sde", "reverse SDE", "sde_truth"), ("ode", "probability-flow ODE", "ode_truth")]
    images = [[run.histogram(name) for name, _, _ in columns] for run in runs]
    n = images[0][0].shape[0]
    spacing = 2 * half_width / (n - 1)
    scale = 1 / spacing**2
    # Set by the truth: a sampler's few spikes must not darken everything else.
    top = 1.15 * scale * max(np.quantile(row[0], 0.999) for row in images) or scale
    edge = half_width + spacing / 2
    figure, axes = plt.subplots(len(runs), 3, figsize=(9.4, 2.78 * len(runs) + 0.3), squeeze=False, sharex=True, sharey=True)
    for row, run in enumerate(runs):
        for column, (_, title, key) in enumerate(columns):
            axis = axes[row][column]
            shown = axis.imshow(scale * images[row][column], origin="lower", extent=(-edge, edge, -edge, edge), vmin=0, vmax=top,
                                cmap="magma", interpolation="nearest")
            axis.spines[:].set_visible(False)
            axis.set_xticks([-3, 0, 3])
            axis.set_yticks([-3, 0, 3])
            axis.tick_params(length=0)
            if row == 0:
                axis.set_title(title, fontsize=11, fontweight="bold", pad=20)
            if key is not None:
                note = f"$W_2^2$ to truth {number(run.distances[key], 4)}, escaped {100 * run.gap['escaped'][key[:3]]:.2f} %"
                axis.text(0.5, 1.02, note, transform=axis.transAxes, ha="center", va="bottom", fontsize=8.5)
        axes[row][0].set_ylabel(f"{run.label}\nODE–SDE $W_2^2$ {number(run.distances['ode_sde'], 4)}", fontsize=11)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6 if len(runs) > 1 else 0.85, pad=0.02, extend="max", aspect=30)
    bar.set_label("density")
    bar.outline.set_visible(False)
    return figure


def smoothed(values):
    """Geometric mean over a window centred at each record, a quarter of its iteration wide: even on a logarithmic axis."""
    sums = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(values, 1e-300)))])
    index = np.arange(len(values))
    begins, ends = index - index // 8, np.minimum(index + index // 8 + 1, len(values))
    return np.exp((sums[ends] - sums[begins]) / (ends - begins))


def use_log_scale(set_scale, values):
    """Values that are all zero stay on a linear axis."""
    if any(value is not None and value > 0 for value in values):
        set_scale("log")


def label_short_axis(axis):
    """Fewer than one and a half decades need more labels than powers of ten."""
    low, high = axis.get_ylim()
    if axis.get_yscale() == "log" and high < 30 * low:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def curve_figure(runs):
    logs = [(run, run.log()) for run in runs]
    logs = [(run, log) for run, log in logs if log is not None and len(log["iteration"]) > 1]
    if not logs:
        return None
    panels = [("denoising", "denoising loss")]
    if any(run.weight > 0 for run, _ in logs):
        panels.append(("residual", "mean squared residual $R^2$"))
    figure, axes = plt.subplots(1, len(panels), figsize=(9.2 if len(panels) == 2 else 5.2, 3.3), squeeze=False)
    for axis, (key, title) in zip(axes[0], panels):
        for index, (run, log) in enumerate(logs):
            if key == "residual" and run.weight == 0:
                continue
            x, y = log["iteration"] + 1, log[key]
            colour = PALETTE[index % len(PALETTE)]
            axis.plot(x, y, color=colour, alpha=0.18, linewidth=0.6, rasterized=True)
            axis.plot(x, smoothed(y), color=colour, linewidth=1.6, label=run.label)
        axis.set_xscale("log")
        use_log_scale(axis.set_yscale, [value for _, log in logs for value in log[key]])
        axis.set_xlabel("iteration")
        axis.set_title(title, loc="left")
        axis.grid(True, which="major")
        label_short_axis(axis)
        axis.legend(fontsize=9)
    return figure


def gap_figure(runs):
    """The three distances against w_R, over the noise floor."""
    figure, axis = plt.subplots(figsize=(5.2, 3.3))
    runs = sorted(runs, key=lambda run: run.weight)
    positions = np.arange(len(runs))
    for index, (key, label) in enumerate(PAIRS):
        values = [math.nan if run.distances[key] is None else run.distances[key] for run in runs]
        axis.plot(positions, values, marker=MARKERS[index], color=PALETTE[index], linewidth=1.6, label=label)
    use_log_scale(axis.set_yscale, [run.distances[key] for run in runs for key, _ in PAIRS])
    floor = max(run.floor for run in runs)
    if floor > 0:
        bottom = min(axis.get_ylim()[0], 0.7 * floor)
        axis.axhspan(bottom, floor, color=GRID, label="noise floor", zorder=0)
        axis.set_ylim(bottom=bottom)
    label_short_axis(axis)
    axis.set_xticks(positions, [f"{run.weight:g}" for run in runs])
    axis.set_xlim(-0.3, len(runs) - 0.7)
    axis.set_xlabel("weight of the residual $w_R$")
    axis.set_ylabel("$W_2^2$" if runs[0].planar else "sliced $W_2^2$")
    axis.grid(True, axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def residual_figure(runs):
    """The gap against the centred mean squared residual, one point a run."""
    points = [run for run in runs if run.gap["residual"] is not None and run.distances["ode_sde"] is not None]
    if len(points) < 2:
        return None
    figure, axis = plt.subplots(figsize=(5.2, 3.3))
    for index, (data, group) in enumerate(by_data(points).items()):
        group = sorted(group, key=lambda run: run.weight)
        x = [run.gap["residual"]["centred_mean_square"] for run in group]
        y = [run.distances["ode_sde"] for run in group]
        axis.plot(x, y, color=PALETTE[index], linewidth=0.8, alpha=0.5)
        axis.scatter(x, y, s=42, marker=MARKERS[index], color=PALETTE[index], label=data, zorder=3)
        for run, a, b in zip(group, x, y):
            above = index % 2 == 0
            axis.annotate(f"{run.weight:g}", (a, b), xytext=(-4, 7) if above else (4, -7), textcoords="offset points", fontsize=8,
                          color=PALETTE[index], ha="right" if above else "left", va="bottom" if above else "top")
        if max(run.floor for run in group) > 0:
            axis.axhline(max(run.floor for run in group), color=PALETTE[index], linestyle=":", linewidth=1)
    use_log_scale(axis.set_xscale, [run.gap["residual"]["centred_mean_square"] for run in points])
    use_log_scale(axis.set_yscale, [run.distances["ode_sde"] for run in points])
    axis.margins(0.18)
    label_short_axis(axis)
    axis.set_xlabel("mean $R^2$, centred at each time")
    axis.set_ylabel("$W_2^2$ between ODE and SDE" if any(run.planar for run in points)
                    else "sliced $W_2^2$ between ODE and SDE")
    axis.grid(True)
    axis.legend(title="numbers: $w_R$; dotted: noise floor", fontsize=9, title_fontsize=8, loc="upper left")
    return figure


STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f24; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.lead { color: #57606a; margin-top: 0; } figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .88rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #e4e7eb; white-space: nowrap; }
th { color: #57606a; font-weight: 600; border-bottom: 2px solid #c4cbd3; } td:first-child, th:first-child { text-align: left; }
.key td { text-align: left; } .key td:first-child { color: #57606a; } .best { font-weight: 700; }
.verdict { background: #f3f6fa; border-left: 4px solid #0072b2; padding: .6rem 1rem; margin: .6rem 0; }
code { font-size: .88em; } li { margin: .3rem 0; }
"""


def table(header, rows, css=""):
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{css}">' + (f"<tr>{head}</tr>" if header else "") + body + "</table></div>"


def results_table(runs):
    header = ["data", "w<sub>R</sub>", "ODE–SDE", "ODE–truth", "SDE–truth", "noise floor", "escaped ODE", "escaped SDE",
              "mean R²", "centred", "training", "sampling"]
    rows = []
    for run in runs:
        gap = run.gap
        residual = gap["residual"] or {"mean_square": None, "centred_mean_square": None}
        rows.append([
            html.escape(run.data), f"{run.weight:g}", f'<span class="best">{number(run.distances["ode_sde"])}</span>',
            number(run.distances["ode_truth"]), number(run.distances["sde_truth"]), number(gap["noise_floor"]),
            number(gap["escaped"]["ode"]), number(gap["escaped"]["sde"]), number(residual["mean_square"], 3, "g"),
            number(residual["centred_mean_square"], 3, "g"), f'{run.entry["training"]["seconds"]:.0f} s',
            f'{gap["seconds"]["ode"] + gap["seconds"]["sde"]:.0f} s'])
    return table(header, rows)


def verdict(data, runs):
    with_weight = [run for run in runs if run.weight > 0]
    without = [run for run in runs if run.weight == 0]
    if not with_weight or not without:
        return ""
    a, b = without[0], min(with_weight, key=lambda run: abs(math.log(run.weight)))
    before, after, floor = a.distances["ode_sde"], b.distances["ode_sde"], a.floor
    escaped = max(fraction for run in (a, b) for fraction in run.gap["escaped"].values())
    if before is None or after is None:
        return (f'<p class="verdict"><b>{html.escape(data)}</b>: no distance between the samplers, since all samples of one '
                "lie outside the box or are not finite.</p>")
    what = "falls" if after < before else "rises"
    change = abs(before - after)
    by = f"{change:.4f}"
    if escaped > MOST_ESCAPED:
        samples = a.gap["samples"]
        by += f" (of {samples} samples as few as {round((1 - escaped) * samples)} were left, so that no noise floor compares)"
    elif floor > 0:
        by = f"{change / floor:.1f} noise floors ({'more' if change > floor else 'less'} than the noise can do)"
    return (f'<p class="verdict"><b>{html.escape(data)}</b>: the ODE–SDE gap {what} from {before:.4f} at w<sub>R</sub> = 0 to '
            f"{after:.4f} at w<sub>R</sub> = {b.weight:g}, by {by}; SDE–truth goes from "
            f"{number(a.distances['sde_truth'], 4)} to "
            f"{number(b.distances['sde_truth'], 4)}.</p>")


def recipe_table(results, runs):
    recipe = runs[0].entry["recipe"]
    points = f'{recipe["denoising_points"]} denoising'
    if any(run.weight > 0 for run in runs):
        points += f', and {recipe["collocation_points"]} residual points where w<sub>R</sub> > 0'
    average = recipe["average"]
    if average != "none":
        average += f', over the last {100 * recipe["average_fraction"]:g} % of the iterations'
    rate = recipe["schedule"] + (f', peak {recipe["peak_rate"]:g}' if "peak_rate" in recipe else "")
    options = results["gap_options"]
    backends = "; ".join(f'{b["name"]}: {b["detail"]}' for b in results["backends"])
    rows = [
        ("network", html.escape(runs[0].entry["model"]["summary"]) + f', {runs[0].entry["model"]["parameters"]} parameters'),
        ("forward SDE", html.escape(f'{recipe["sde"]["name"]} {json.dumps(recipe["sde"]["parameters"])}')),
        ("training", f'{recipe["iterations"]} iterations of Adam; fresh points each: {points}'),
        ("denoising times", recipe["time_law"]),
        ("rate", rate),
        ("average of the weights", average),
        ("sampling", f'{options["samples"]} samples each; reverse SDE by Euler–Maruyama, probability-flow ODE by '
                     f'{options["ode_scheme"]}; times: {html.escape(options["grid"])}'),
        ("seed", recipe["seed"]),
        ("machine", html.escape(f'{results["machine"]["cpu"]}; {results["threads"]} threads on the {results["backend"]} backend')),
        ("backends", html.escape(backends)),
        ("fokker", results["version"]),
        ("time of the last call", f'{results["seconds"]:.0f} s'),
    ]
    return table([], rows, "key")


def cautions(results, runs):
    half = results["box"]
    planar = any(run.planar for run in runs)
    worst = max(runs, key=lambda run: max(run.gap["escaped"].values()))
    items = [
        "<b>Noise floor.</b> Two independent draws of the truth of this size are this far apart: a perfect sampler would score "
        "no less. Differences below it mean nothing, and values near it are mostly the ruler.",
    ]
    if planar:
        items += [
            f"<b>Escape.</b> Samples with a coordinate outside (−{half:g}, {half:g}), or not finite, are left out of the "
            f"distance and counted; here at most {100 * max(worst.gap['escaped'].values()):.2f} % "
            f"({html.escape(worst.data)}, w<sub>R</sub> = {worst.weight:g}).",
            "<b>Grid bias.</b> Distances are between 64 × 64 histograms. Below the spacing of their nodes "
            f"({2 * half / 63:.3f}) W₂² grows with the first power of a shift rather than its square, so small values read "
            "too large.",
        ]
        gaps = [v for run in runs for v in (run.gap.get("certificate_gap") or {}).values() if v is not None]
        if gaps:
            worst_gap = max(abs(v) for v in gaps)
            items.append("<b>Certificate.</b> Each W₂² is solved exactly: its dual solution, which bounds it from below, "
                         + ("has the same value." if worst_gap == 0 else f"is at most {worst_gap:.1e} less."))
    items.append("<b>Residual.</b> The denoising loss leaves the potential free up to a function of time, which moves R and no "
                 "sample. The centred value has that freedom removed; compare that one. The mean is heavy-tailed: expect tens "
                 "of per cent between seeds.")
    items.append("<b>Seeds.</b> On a small training budget the gap at w<sub>R</sub> = 0 differs by a factor of two between "
                 "seeds. Run several before quoting a number.")
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def check_out(path, read):
    """What is read is not written."""
    if os.path.isdir(path):
        raise ValueError(f"--out {path} is a folder; allowed: a file name that ends in .html")
    for other in read:
        if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise ValueError(f"--out {path} is {other}, which is read; the report needs another name")


def write_page(path, page):
    """To a name beside it and then renamed, so that a failure leaves what was there."""
    temporary = f"{path}.{os.getpid()}.tmp"
    file = open(temporary, "x", encoding="utf-8")
    try:
        with file:
            file.write(page)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main():
    title, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(description=title, epilog=rest.strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="the --out folder of reproduce")
    parser.add_argument("--out", metavar="FILE.html", help="the report (default: DIR/report.html)")
    arguments = parser.parse_args()
    out = arguments.out if arguments.out is not None else os.path.join(arguments.folder, "report.html")
    if not out.endswith(".html"):
        parser.error(f"--out '{out}' given; allowed: a name that ends in .html")
    import_packages()
    results_file = os.path.join(arguments.folder, "results.json")
    with open(results_file, encoding="utf-8") as file:
        try:
            results = json.load(file)
        except ValueError as error:
            raise ValueError(f"{results_file} is not JSON ({error})") from error
    runs = [Run(arguments.folder, entry) for entry in results["runs"]]
    if not runs:
        raise ValueError(f"{results_file} holds no finished run")
    check_out(out, [results_file, *(path for run in runs for path in run.files())])
    planar = [run.planar for run in runs]
    figures = os.path.join(arguments.folder, "figures")
    os.makedirs(figures, exist_ok=True)

    def embed(figure, name, caption):
        if figure is None:
            return ""
        path = os.path.join(figures, name + ".png")
        figure.savefig(path, bbox_inches="tight", pad_inches=0.08)
        plt.close(figure)
        with open(path, "rb") as image:
            code = base64.b64encode(image.read()).decode()
        return (f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{code}">'
                f"<figcaption>{caption}</figcaption></figure>")

    parts = [
        "<h1>The gap between what the SDE and the ODE sample</h1>",
        '<p class="lead">A network trained on noisy data is a score for two samplers: the reverse SDE and the probability-flow '
        "ODE. They agree where its potential solves the Fokker–Planck equation; the weight w<sub>R</sub> of that equation's "
        "residual in the loss trades agreement for accuracy.</p>",
        "" if results.get("finished") else "<p><b>Not all runs are finished; this report shows those that are.</b></p>",
        "".join(verdict(data, group) for data, group in by_data(runs).items()),
        "<h2>Results</h2>", f"<p>{'W₂²' if any(planar) else 'Sliced W₂²'} of {results['gap_options']['samples']} samples each"
        + ("; the sliced distance where the data are not planar" if any(planar) and not all(planar) else "") + ".</p>",
        results_table(runs),
    ]
    for data, group in by_data(runs).items():
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in os.path.basename(data))
        parts.append(f"<h2>{html.escape(data)}</h2>")
        if all(run.planar for run in group):
            parts.append(embed(density_figure(group, results["box"]), f"density_{name}",
                               "Densities of the truth and of both samplers, on one colour scale set by the truth."))
        parts.append(embed(gap_figure(group), f"gap_{name}", "Squared distances against the weight of the residual."))
        parts.append(embed(curve_figure(group), f"training_{name}",
                           "Losses during training: each record (faint) and their running geometric mean."))
    parts += [
        "<h2>Residual and gap</h2>",
        embed(residual_figure(runs), "residual", "The ODE–SDE gap against the mean squared residual, one point a run."),
        "<h2>Read with these cautions</h2>", cautions(results, runs),
        "<h2>Recipe and machine</h2>", recipe_table(results, runs),
    ]
    page = ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>ODE–SDE gap</title>'
            f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n")
    write_page(out, page)
    print(out)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"report.py: {error.filename}: {error.strerror}" if error.filename else f"report.py: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyError, TypeError) as error:
        print(f"report.py: results.json is not as reproduce writes it ({type(error).__name__}: {error})", file=sys.stderr)
        sys.exit(1)
