#!/usr/bin/env python3
"""Figures and an HTML report from what `reproduce --out DIR` left in DIR.

Reads DIR/results.json and, for each run, its log.csv, histograms and along_the_way.npy; writes DIR/figures/*.png and one self-contained
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
LAWS = [("sde", "reverse SDE"), ("ode", "probability-flow ODE"), ("potential", "$e^\\varphi$ in the box")]

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
    def __init__(self, folder, entry, results):
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
        self.activation = entry["activation"]["name"]
        self.roughness = entry["activation"]["largest_second_derivative"]
        self.seed = entry["seed"]
        self.residual = self.gap["residual"] or {"mean_square": None, "centred_mean_square": None}
        # The statistics over seeds of which it is one.
        self.summary = next(s for s in results["summary"] if (s["data"], s["activation"]["name"], s["residual_weight"]) ==
                            (self.data, self.activation, self.weight))
        self.most_escaped = results["most_escaped"]
        # W2² between the samplers, and of each to e^φ, at times from T to the end; none where the data are not planar, or
        # not all seeds have it.
        self.way = self.gap.get("along_the_way") if self.summary["along_the_way"] else None
        self.diagnosis = entry.get("diagnosis")

    def few_left(self, escaped):
        """Whether so many samples are lost that a distance's ratio to the noise floor says nothing."""
        return escaped > self.most_escaped

    def file(self, name):
        return os.path.join(self.folder, name)

    def files(self):
        """All that is read of it."""
        return [self.file("log.csv"), *(self.file(name + ".npy") for name in [*HISTOGRAMS, "along_the_way"])]

    def histogram(self, name):
        """[n, n] density per unit area, row = y; truth, sde or ode."""
        weights = self.weights(name)
        n = math.isqrt(weights.size)
        if n < 2 or n * n != weights.size:
            raise ValueError(self.damaged(name, f"{weights.size} entries"))
        return weights.reshape(n, n)

    def laws_along_the_way(self):
        """{law: [times, n, n]} for those of LAWS that are there."""
        weights, times = self.weights("along_the_way"), len(self.way["times"])
        n = math.isqrt(weights.shape[-1])
        if weights.ndim != 2 or weights.shape[0] % times != 0 or n * n != weights.shape[1]:
            raise ValueError(self.damaged("along_the_way", f"shape {weights.shape}"))
        return {name: law for (name, _), law in zip(LAWS, weights.reshape(-1, times, n, n))}

    def weights(self, name):
        with open(self.file(name + ".npy"), "rb") as file:
            try:
                weights = np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                raise ValueError(self.damaged(name, error)) from error
        if weights.dtype.kind != "f" or weights.size == 0:
            raise ValueError(self.damaged(name, f"{weights.size} entries of type {weights.dtype}"))
        return weights

    def damaged(self, name, what):
        return (f"{self.file(name + '.npy')} is not a histogram of n² weights ({what}); reproduce measures again where it is "
                "not there")

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


def grouped(runs, key):
    groups = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def by_data(runs):
    return grouped(runs, lambda run: run.data)


def is_study(runs):
    """Whether activations are compared, which asks for figures of its own."""
    return len({run.activation for run in runs}) > 1


def mean_of(statistic):
    return math.nan if statistic is None else statistic["mean"]


def error_bars(axis, x, statistics, **style):
    """Means joined by a line, bars of one standard deviation over seeds; downwards to a tenth of the mean at most, since
    the axes are logarithmic."""
    means = np.array([mean_of(statistic) for statistic in statistics])
    deviations = np.array([math.nan if s is None else s["deviation"] or 0.0 for s in statistics])
    bars = np.array([np.minimum(deviations, 0.9 * means), deviations])
    axis.errorbar(x, means, yerr=np.maximum(bars, 0) if deviations.max(initial=0) > 0 else None, capsize=3, **style)


def note_in_panel(axis, text):
    axis.text(0.5, 0.03, text, transform=axis.transAxes, ha="center", va="bottom", fontsize=7.5, color="white")


def note_escaped(axis, run, escaped):
    """Says in a panel of a density that it shows the survivors only."""
    if run.few_left(escaped):
        note_in_panel(axis, f"{100 * escaped:.0f} % escaped")


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
                note_escaped(axis, run, run.gap["escaped"][key[:3]])
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
    """Fewer than two decades need more labels than powers of ten."""
    low, high = axis.get_ylim()
    if axis.get_yscale() == "log" and high < 100 * low:
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
    groups = [group for _, group in sorted(grouped(runs, lambda run: run.weight).items())]
    positions = np.arange(len(groups))
    for index, (key, label) in enumerate(PAIRS):
        error_bars(axis, positions, [group[0].summary[key] for group in groups], marker=MARKERS[index], color=PALETTE[index],
                   linewidth=1.6, label=label)
    use_log_scale(axis.set_yscale, [run.distances[key] for run in runs for key, _ in PAIRS])
    shade_noise(axis, max(run.floor for run in runs))
    label_short_axis(axis)
    axis.set_xticks(positions, [f"{group[0].weight:g}" for group in groups])
    axis.set_xlim(-0.3, len(groups) - 0.7)
    axis.set_xlabel("weight of the residual $w_R$")
    axis.set_ylabel("$W_2^2$" if runs[0].planar else "sliced $W_2^2$")
    axis.grid(True, axis="y")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def shade_noise(axis, floor):
    if floor > 0:
        bottom = min(axis.get_ylim()[0], 0.7 * floor)
        axis.axhspan(bottom, floor, color=GRID, label="noise floor", zorder=0, linewidth=0)
        axis.set_ylim(bottom=bottom)


def smoothness_figure(runs):
    """Against the largest |σ″| of the activation: the gap, both samplers' distances to the truth, the centred residual."""
    panels = [("ODE–SDE gap", "ode_sde"), ("ODE–truth", "ode_truth"), ("SDE–truth", "sde_truth"),
              ("mean $R^2$, centred at each time", "centred_mean_square")]
    figure, axes = plt.subplots(1, len(panels), figsize=(13.4, 3.7))
    weights = sorted({run.weight for run in runs})
    activations = sorted({(run.roughness, run.activation) for run in runs})
    for index, (axis, (title, key)) in enumerate(zip(axes, panels)):
        value = lambda run: {**run.distances, **run.residual}[key]
        for k, weight in enumerate(weights):
            groups = [group for _, group in sorted(
                grouped([run for run in runs if run.weight == weight], lambda run: (run.roughness, run.activation)).items())]
            shift = 1.05 ** (k - 0.5 * (len(weights) - 1))  # so that bars do not hide each other
            x = [group[0].roughness * shift for group in groups]
            error_bars(axis, x, [group[0].summary[key] for group in groups], marker=MARKERS[k], color=PALETTE[k],
                       linewidth=1.4, label=f"$w_R$ = {weight:g}", zorder=3)
            for at, group in zip(x, groups):
                axis.scatter([at] * len(group), [value(run) for run in group], s=10, color=PALETTE[k], alpha=0.55, linewidth=0)
                if any(group[0].few_left(group[0].summary[sampler]["most"]) for sampler in ("escaped_ode", "escaped_sde")):
                    axis.plot(at, mean_of(group[0].summary[key]), marker=MARKERS[k], markersize=6, color=PALETTE[k],
                              markerfacecolor="white", markeredgewidth=1.4, zorder=4)
        axis.set_xscale("log")
        use_log_scale(axis.set_yscale, [value(run) for run in runs])
        if index < 3:
            shade_noise(axis, max(run.floor for run in runs))
        axis.set_xticks([roughness for roughness, _ in activations],
                        [f"{name}: {roughness:.2g}" for roughness, name in activations], fontsize=8,
                        rotation=35, ha="right", rotation_mode="anchor")
        axis.minorticks_off()
        axis.margins(x=0.08)
        axis.set_title(title, loc="left")
        axis.grid(True, axis="y")
        label_short_axis(axis)
    axes[0].set_ylabel("$W_2^2$")
    figure.supxlabel("activation: largest $|\\sigma''|$ of one unit", fontsize=10)
    axes[0].legend(fontsize=8.5, loc="upper left")
    return figure


def study_density_figure(runs, half_width):
    """Rows: activations, of the first seed. Columns: SDE and ODE for each w_R."""
    first = min(run.seed for run in runs)
    runs = [run for run in runs if run.seed == first]
    weights = sorted({run.weight for run in runs})
    rows = [group for _, group in sorted(grouped(runs, lambda run: (-run.roughness, run.activation)).items())]
    n = runs[0].histogram("truth").shape[0]
    spacing = 2 * half_width / (n - 1)
    top = 1.15 * np.quantile(runs[0].histogram("truth"), 0.999) / spacing**2 or 1
    figure, axes = plt.subplots(len(rows), 2 * len(weights), figsize=(2.35 * 2 * len(weights), 2.35 * len(rows) + 0.5),
                                squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for index, (row, group) in enumerate(zip(axes, rows)):
        row[0].set_ylabel(group[0].activation, fontsize=11)
        for run in group:
            for column, (name, title) in enumerate([("sde", "reverse SDE"), ("ode", "probability-flow ODE")]):
                axis = row[2 * weights.index(run.weight) + column]
                axis.imshow(run.histogram(name) / spacing**2, origin="lower", vmin=0, vmax=top, cmap="magma",
                            interpolation="nearest")
                text = (f"to truth {number(run.distances['sde_truth'], 4)}" if name == "sde"
                        else f"ODE–SDE {number(run.distances['ode_sde'], 4)}")
                if index == 0:
                    text = f"{title}, {run.label}\n{text}"
                axis.set_title(text, fontsize=8.5)
                note_escaped(axis, run, run.gap["escaped"][name])
    return figure


def way_positions(times):
    """Times on a logarithmic axis; 0, which has no place on one, stands half a decade below the least of the others."""
    least = min(t for t in times if t > 0)
    return [t if t > 0 else least / math.sqrt(10) for t in times]


def finish_way_axis(axis, runs):
    times = runs[0].way["times"]
    axis.set_xscale("log")
    use_log_scale(axis.set_yscale, [value for run in runs for value in run.way["w2_squared"]["ode_sde"]])
    axis.invert_xaxis()
    # Every time that was looked at has its number.
    axis.set_xticks(way_positions(times), [f"{t:.2g}" for t in times])
    axis.minorticks_off()
    label_short_axis(axis)


def in_the_box_only(runs, k):
    """Whether e^φ of one of the runs is not integrable at the k-th time of the way."""
    return not all(run.way["potential_integrable"][k] for run in runs if run.way["potential_integrable"])


def way_figure(runs):
    """W2² between the two samplers' laws and e^φ against time, a panel for each w_R; of a study, a line for each
    activation and a row for each pair."""
    runs = [run for run in runs if run.way is not None]
    if not runs:
        return None
    pairs = [("ode_sde", "ODE–SDE"), ("potential_sde", "$e^\\varphi$–SDE"), ("potential_ode", "$e^\\varphi$–ODE")]
    pairs = [(key, label) for key, label in pairs if all(run.way["w2_squared"][key] for run in runs)]
    weights = sorted({run.weight for run in runs})
    study = is_study(runs)
    rows = pairs[:2] if study else [None]
    columns = len(weights)
    figure, axes = plt.subplots(len(rows), columns, figsize=(min(11.6, 2.2 + 3.4 * columns), 3.3 * len(rows)), squeeze=False,
                                sharey=True, sharex=True)
    for i, row in enumerate(rows):
        for axis, weight in zip(axes[i], weights):
            group = [run for run in runs if run.weight == weight]
            x = way_positions(group[0].way["times"])
            if study:
                key, label = row
                lines = [(runs_of[0].activation, key, runs_of) for _, runs_of in
                         sorted(grouped(group, lambda run: (-run.roughness, run.activation)).items())]
                axis.set_title(f"{label}, {group[0].label}", loc="left")
            else:
                lines = [(label, key, group) for key, label in pairs]
                axis.set_title(group[0].label, loc="left")
            for index, (label, key, runs_of) in enumerate(lines):
                statistics = runs_of[0].summary["along_the_way"]["w2_squared"][key]
                error_bars(axis, x, statistics, marker=MARKERS[index], markersize=4, color=PALETTE[index], linewidth=1.4,
                           label=label)
                open_at = [k for k in range(len(x)) if key != "ode_sde" and in_the_box_only(runs_of, k)]
                axis.plot([x[k] for k in open_at], [mean_of(statistics[k]) for k in open_at], marker=MARKERS[index], markersize=5,
                          color=PALETTE[index], markerfacecolor="white", linestyle="", zorder=4)
            axis.plot(x, [mean_of(floor) for floor in group[0].summary["along_the_way"]["noise_floor"]], color=MUTED,
                      linestyle=":", linewidth=1.2, label="noise floor")
    longest = max(len(f"{t:.2g}") for t in runs[0].way["times"])
    # The axes are shared, so this is once for all.
    finish_way_axis(axes[0][0], runs)
    for row in axes:
        row[0].set_ylabel("$W_2^2$")
        for axis in row:
            axis.grid(True)
            axis.tick_params(axis="x", labelsize=8 if columns < 3 and longest < 5 else 6.5)
    figure.supxlabel("time $t$, from the prior on the left to the data on the right", fontsize=10)
    lines = sorted(zip(*axes[0][-1].get_legend_handles_labels()), key=lambda line: line[1] == "noise floor")
    if any(in_the_box_only([run], k) for run in runs for k in range(len(run.way["times"]))):
        lines.append((plt.Line2D([], [], marker="o", color=MUTED, markerfacecolor="white", linestyle=""),
                      "$e^\\varphi$ not integrable,\nin the box only"))
    axes[0][-1].legend(*zip(*lines), title=None if study else "$W_2^2$ between", title_fontsize=8.5, fontsize=8.5,
                       loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")
    return figure


def way_density_figure(run, half_width):
    """Rows: SDE, ODE, e^φ. Columns: times."""
    laws = run.laws_along_the_way()
    times = run.way["times"]
    n = next(iter(laws.values())).shape[-1]
    spacing = 2 * half_width / (n - 1)
    figure, axes = plt.subplots(len(laws), len(times), figsize=(1.22 * len(times) + 0.4, 1.22 * len(laws) + 0.5), squeeze=False)
    for index, (name, title) in enumerate((name, title) for name, title in LAWS if name in laws):
        row = axes[index]
        for column, (axis, t) in enumerate(zip(row, times)):
            # Each time has its scale, set by the SDE's law there: densities sharpen on the way.
            top = 1.3 * np.quantile(laws["sde"][column], 0.995) / spacing**2
            axis.imshow(laws[name][column] / spacing**2, origin="lower", vmin=0, vmax=top or 1, cmap="magma",
                        interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if index == 0:
                axis.set_title(f"$t$ = {t:.2g}", fontsize=8.5)
            if name in run.way["escaped"]:
                note_escaped(axis, run, run.way["escaped"][name][column])
            elif in_the_box_only([run], column):
                note_in_panel(axis, "not integrable")
        row[0].set_ylabel(title.replace("probability-flow", "prob.-flow"), fontsize=8)
    return figure


def residual_figure(runs):
    """Against the centred mean squared residual, one point a run: the gap and the denoising loss."""
    points = [run for run in runs if run.residual["centred_mean_square"] is not None and run.distances["ode_sde"] is not None]
    if len(points) < 2:
        return None
    study = is_study(points)
    groups = grouped(points, lambda run: f"{run.data}, {run.activation}" if study else run.data)
    least = {data: min(run.gap["denoising_loss"] for run in group) for data, group in by_data(points).items()}
    figure, axes = plt.subplots(1, 2, figsize=(10.2, 3.7))
    panels = [(axes[0], lambda run: run.distances["ode_sde"]),
              (axes[1], lambda run: run.gap["denoising_loss"] - least[run.data])]
    for axis, value in panels:
        for index, (label, group) in enumerate(groups.items()):
            group = sorted(group, key=lambda run: run.weight)
            colour = PALETTE[index % len(PALETTE)]
            x = [run.residual["centred_mean_square"] for run in group]
            y = [value(run) for run in group]
            if len({run.seed for run in group}) == 1:
                axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
            for weight, runs_of in grouped(group, lambda run: run.weight).items():
                spot = runs_of[-1]
                axis.annotate(f"{weight:g}", (spot.residual["centred_mean_square"], value(spot)), xytext=(5, 4),
                              textcoords="offset points", fontsize=7.5, color=colour)
            axis.scatter(x, y, s=36, marker=MARKERS[index % len(MARKERS)], color=colour, label=label, zorder=3, linewidth=0)
            if axis is axes[0] and max(run.floor for run in group) > 0 and (not study or index == 0):
                axis.axhline(max(run.floor for run in group), color=MUTED if study else colour, linestyle=":", linewidth=1)
        use_log_scale(axis.set_xscale, [run.residual["centred_mean_square"] for run in points])
        axis.margins(0.1)
        axis.set_xlabel("mean $R^2$, centred at each time")
        axis.grid(True)
    use_log_scale(axes[0].set_yscale, [run.distances["ode_sde"] for run in points])
    label_short_axis(axes[0])
    axes[0].set_ylabel("$W_2^2$ between ODE and SDE" if any(run.planar for run in points)
                       else "sliced $W_2^2$ between ODE and SDE")
    axes[1].set_ylabel("denoising loss above the least" + (" of the data" if len(least) > 1 else ""))
    axes[1].legend(title="numbers: $w_R$; dotted: noise floor", fontsize=8.5, title_fontsize=8, loc="center left",
                   bbox_to_anchor=(1.0, 0.5))
    return figure


def way_density_caption(run):
    """What the last row shows of e^φ: all of it, or what is in the box."""
    if not run.way["potential_integrable"]:
        return "."
    if all(run.way["potential_integrable"]):
        return "; e<sup>φ</sup>/Z, of what is in the box."
    return ("; <b>e<sup>φ</sup> is not integrable</b> where the panel says so, and what is shown is e<sup>φ</sup> restricted to the "
            "box and normalised there.")


def way_caption(runs, of_seeds):
    runs = [run for run in runs if run.way is not None]
    text = ("The gap along the way: W₂² between the laws of the two samplers, and of each to the model's own density e<sup>φ</sup> "
            f"restricted to the box and normalised there, at times from the prior to the data{of_seeds}. Dotted: two draws of "
            "the forward SDE's law. Both samplers start from one draw of the prior, and e<sup>φ</sup> has no noise of its own, so "
            "distances can lie below it. ")
    open_runs = [run for run in runs if not all(run.way["potential_integrable"])]
    if open_runs:
        labels = list(dict.fromkeys((f"{run.activation}, " if is_study(runs) else "") + f"w<sub>R</sub> = {run.weight:g}"
                                    for run in open_runs))
        share = max(max(run.way["share_of_growing_directions"]) for run in open_runs)
        text += ("<b>Where e<sup>φ</sup> is not integrable</b> it has no Z, and what is shown is no more than e<sup>φ</sup> restricted to the "
                 f"box: at some or all of these times for {'; '.join(labels)} (far out φ grows in up to {100 * share:.0f} % of "
                 "the directions, or does not fall). ")
    if runs and max(runs[0].way["times"][:2]) > 0.3 * runs[0].way["times"][0]:
        text += ("What Euler–Maruyama's first, long steps add near the prior is forgotten later.")
    return text


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


def escaped_cell(share, samples):
    """How many samples a distance leaves out."""
    return f"{round(share * samples)} ({100 * share:.3g} %)" if share > 0 else "0"


def results_table(runs):
    study, several = is_study(runs), len({run.seed for run in runs}) > 1
    header = ["data", *(["activation"] if study else []), *(["seed"] if several else []), "w<sub>R</sub>", "ODE–SDE",
              "grid bias", "ODE–truth", "SDE–truth", "noise floor", "escaped ODE", "escaped SDE", "mean R²", "centred",
              "denoising loss", "training", "sampling"]
    rows = []
    for run in runs:
        gap = run.gap
        rows.append([
            html.escape(run.data), *([html.escape(run.activation)] if study else []), *([run.seed] if several else []),
            f"{run.weight:g}", f'<span class="best">{number(run.distances["ode_sde"])}</span>',
            number(gap.get("grid_bias")), number(run.distances["ode_truth"]), number(run.distances["sde_truth"]),
            number(gap["noise_floor"]), *(escaped_cell(gap["escaped"][key], gap["samples"]) for key in ("ode", "sde")),
            number(run.residual["mean_square"], 3, "g"), number(run.residual["centred_mean_square"], 3, "g"),
            number(gap["denoising_loss"], 5, "g"), f'{run.entry["training"]["seconds"]:.0f} s',
            f'{gap["seconds"]["ode"] + gap["seconds"]["sde"]:.0f} s'])
    return table(header, rows)


def spread(statistic, digits, style="f"):
    if statistic is None:
        return "–"
    text = number(statistic["mean"], digits, style)
    return text if statistic["deviation"] is None else f'{text} ± {number(statistic["deviation"], digits, style)}'


def summary_table(summary):
    """Mean ± standard deviation over seeds."""
    header = ["data", "activation", "largest |σ″|", "w<sub>R</sub>", "seeds", "ODE–SDE", "grid bias", "ODE–truth", "SDE–truth",
              "noise floor", "escaped ODE, SDE", "centred R²", "denoising loss"]
    rows = []
    for entry in summary:
        escaped = [number(100 * entry[key]["mean"], 2) if entry[key] else "–" for key in ("escaped_ode", "escaped_sde")]
        rows.append([
            html.escape(entry["data"]), html.escape(entry["activation"]["name"]),
            f'{entry["activation"]["largest_second_derivative"]:.3g}', f'{entry["residual_weight"]:g}', entry["seeds"],
            f'<span class="best">{spread(entry["ode_sde"], 4)}</span>', number(mean_of(entry["grid_bias"]), 4),
            spread(entry["ode_truth"], 4),
            spread(entry["sde_truth"], 4), number(mean_of(entry["noise_floor"]), 4),
            f"{escaped[0]} %, {escaped[1]} %", spread(entry["centred_mean_square"], 2, "g"),
            spread(entry["denoising_loss"], 4)])
    return table(header, rows)


def published_table(summary, samples):
    """Ours, the median over seeds, beside what the paper's authors published; empty where there is nothing to compare."""
    entries = [entry for entry in summary if entry.get("published")]
    if not entries:
        return ""

    def median(statistic):
        return statistic["median"] if statistic else None

    rows = []
    for entry in entries:
        published = entry["published"]
        row = [html.escape(entry["data"]), f'{entry["residual_weight"]:g}']
        for key, _ in PAIRS:
            ours, theirs = median(entry[key]), published["w2_squared"][key]
            row += [number(ours), number(theirs), "–" if ours is None else f"{ours / theirs:.2f}"]
        row += [f'{number(median(entry["escaped_" + key]))}, {number(published["escaped"][key])}' for key in ("ode", "sde")]
        row += [f'{number(median(entry["mean_square"]), 3, "g")}, {number(published["mean_square"], 3, "g")}']
        rows.append(row)
    header = ["data", "w<sub>R</sub>", *(cell for _, label in PAIRS for cell in (label, "published", "ratio")),
              "escaped ODE", "escaped SDE", "mean R²"]
    floors = [entry["noise_floor"]["most"] for entry in entries if entry["noise_floor"]]
    return ("<h2>Beside the published numbers</h2><p>Published: W₂² between the authors' histograms, by exact transport, and "
            f'their checkpoints; noise floor of their 3 000 000 samples {number(entries[0]["published"]["noise_floor"])}, of our '
            f"{samples} up to {number(max(floors, default=None))}: the ratio of "
            "distances near either floor is mostly that of the floors. Escapes and residual: ours, published.</p>"
            + table(header, rows))


def bound_cell(bound):
    """A bound of W₂."""
    return number(None) if bound["text"] is None else bound["text"] + (" (vacuous)" if bound["vacuous"] else "")


def estimate_cell(estimate):
    """A value, with what nodes, times or draws leave where that is known."""
    error = math.hypot(estimate["standard_error"] or 0, estimate["step_error"] or 0)
    return number(estimate["value"], 4) + (f" ± {error:.1g}" if error else "")


def diagnosis_section(runs):
    """The upper bound beside the gap, and the energy identity; empty where they were not asked for."""
    runs = [run for run in runs if run.diagnosis is not None]
    if not runs:
        return ""
    study, several = is_study(runs), len({run.seed for run in runs}) > 1

    def names(run):
        return [html.escape(run.data), *([html.escape(run.activation)] if study else []), *([run.seed] if several else []),
                f"{run.weight:g}"]

    header = ["data", *(["activation"] if study else []), *(["seed"] if several else []), "w<sub>R</sub>"]
    bounds, energies, notes = [], [], []
    for run in runs:
        bound, energy, identity = (run.diagnosis[key] for key in ("upper_bound", "energy", "identity"))
        gap = run.distances["ode_sde"]
        resolved = "yes" if run.diagnosis["resolved"] else "<b>not resolved</b>"
        bounds.append([*names(run), number(None if gap is None else math.sqrt(gap), 4),
                       *(bound_cell(bound[where]) for where in ("over_samples", "over_box")),
                       resolved])
        sides = ([estimate_cell(identity[key]) for key in
                  ("kl_end", "left", "kl_prior", "residual_work", "right", "difference")] if identity else ["–"] * 6)
        energies.append([*names(run), estimate_cell(energy["dissipation"]), *sides,
                         estimate_cell(energy["balance"]["difference"]), resolved])
        label = ", ".join([html.escape(run.data), *([html.escape(run.activation)] if study else []),
                           *([f"seed {run.seed}"] if several else []), f"w<sub>R</sub> = {run.weight:g}"])
        slopes = run.diagnosis["radial_slopes"]
        refused = [] if slopes["integrable"] else [f"there is no Z: {slopes['reason']}"]
        notes += [f"<li>{label}: {html.escape(note)}.</li>"
                  for note in [*run.diagnosis["warnings"], *(run.diagnosis["upper_bound"] or {}).get("warnings", []), *refused]]
    vacuous = [run for run in runs if run.diagnosis["upper_bound"]["over_samples"]["vacuous"]]
    diameter = runs[0].diagnosis["upper_bound"]["diameter"]
    text = ("<p>In continuous time, W₂ (not its square) between the samplers is at most ½ ∫ e<sup>∫L</sup> g² √e<sub>t</sub> dt, "
            "with e<sub>t</sub> the mean square of ∇ log p<sup>SDE</sup> − s and L(t) an upper bound of the largest eigenvalue of "
            "−∇f + ½ g² ∇²φ. L is the largest value found, over samples of both samplers or over points of the box: "
            "<b>an estimate of the bound (a maximum over samples is no bound)</b>. "
            + (f"For {'all' if len(vacuous) == len(runs) else len(vacuous)} of the {len(runs)} runs it is <b>vacuous</b>: larger "
               f"than the diameter of the box, {diameter:.2f}, it says no more than that both laws are in it."
               if vacuous else "")
            + " W₂ is measured without the samples that escaped; the laws that the bound is about keep them. Where the energy "
            "e<sub>t</sub> is <b>not resolved</b>, neither it nor the estimate made of it is to be trusted.</p>")

    return ("<h2>Upper bound of the gap, and the energy identity</h2>" + text
            + table([*header, "W₂, measured", "estimate over samples", "estimate over the box", "e<sub>t</sub> resolved"], bounds)
            + "<p>KL(p<sup>SDE</sup> ‖ q) + ½ ∫ g² e<sub>t</sub> dt = KL(prior ‖ q<sub>T</sub>) + ∫ (E<sub>p</sub> R − E<sub>q</sub> "
            "R) dt, with q = e<sup>φ</sup>/Z, by quadrature on a grid; p<sup>SDE</sup> and q are at the end of the "
            "samplers' times. After ± stands how much each changes from half the nodes and half the times. The difference of the "
            "sides, and that of the balance which needs no Z, is a check of consistency: an error that both sides share cancels "
            "in it."
            + ("" if all(run.diagnosis["identity"] for run in runs) else " Dashes: there is no Z.") + "</p>"
            + table([*header, "½ ∫ g² e", "KL at the end", "left side", "KL at T", "work of R", "right side", "left − right",
                     "of the balance", "e<sub>t</sub> resolved"], energies)
            + (f"<details><summary>Why not resolved, or no Z, and which samples are missing</summary><ul>{''.join(notes)}</ul>"
               "</details>" if notes else ""))


def failed_section(failed):
    """The runs whose training broke off."""
    if not failed:
        return ""
    items = "".join(f'<li>{html.escape(entry["folder"])}: {html.escape(entry["failed"])}</li>' for entry in failed)
    return f'<p><b>{len(failed)} run{"s" if len(failed) > 1 else ""} failed</b> and no number here has a part of them:</p><ul>{items}</ul>'


def acceptance_section(results):
    """What the paper's runs have to show; empty for other presets."""
    rows = [[html.escape(entry["data"]), html.escape(entry["criterion"]), f'<b>{entry["outcome"]}</b>', html.escape(entry["numbers"])]
            for entry in results.get("acceptance", [])]
    return ("<h2>What the paper's runs have to show</h2><p>Medians over seeds; distances of runs that lost more than "
            f"{100 * results['most_escaped']:g} % of a sampler's samples are not evaluated.</p>"
            + table(["data", "criterion", "outcome", "numbers"], rows)) if rows else ""


def verdicts(results, runs):
    """The experiment's statement for each data set and activation."""
    study = is_study(runs)
    return "".join(
        f'<p class="verdict"><b>{html.escape(verdict["data"])}{", " + html.escape(verdict["activation"]) if study else ""}</b>: '
        f'{html.escape(verdict["text"]).replace("w_R", "w<sub>R</sub>")}.</p>' for verdict in results["verdicts"])


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
        ("network", html.escape("; ".join(dict.fromkeys(run.entry["model"]["summary"] for run in runs)))
         + f'; {runs[0].entry["model"]["parameters"]} parameters'),
        ("forward SDE", html.escape(f'{recipe["sde"]["name"]} {json.dumps(recipe["sde"]["parameters"])}')),
        ("training", f'{recipe["iterations"]} iterations of Adam; fresh points each: {points}'),
        ("denoising times", recipe["time_law"]),
        ("rate", rate),
        ("average of the weights", average),
        ("sampling", f'{options["samples"]} samples each; reverse SDE by Euler–Maruyama, probability-flow ODE by '
                     f'{options["ode_scheme"]}; times: {html.escape(options["grid"])}'),
        ("seed", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))),
        ("machine", html.escape(f'{results["machine"]["cpu"]}; {results["threads"]} threads on the {results["backend"]} backend')),
        ("backends", html.escape(backends)),
        ("fokker", results["version"]),
        ("time", f'{sum(entry["training"]["seconds"] for entry in results["runs"] if "training" in entry):.0f} s '
                 f'of training, {sum(run.gap["seconds"][key] for run in runs for key in ("ode", "sde")):.0f} s of sampling, '
                 f'{sum(run.gap["seconds"]["measure"] for run in runs):.0f} s of measuring; with the upper bounds, '
                 f'where there are any, {results["seconds"]:.0f} s in all'),
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
            "<b>Grid bias.</b> Distances are between 64 × 64 histograms. Below the spacing h of their nodes "
            f"({2 * half / 63:.3f}) W₂² grows with the first power of a shift rather than its square, so small values read "
            f"too large: a shift by 0.01, whose W₂² is 0.0001, reads 0.01 h = {0.01 * 2 * half / 63:.4f}. The column “grid "
            "bias” is an estimate of the grid's share of the ODE–SDE gap, noise floor included: twice what the gap of the same "
            "samples falls by on 127 × 127 nodes, by extrapolation linear in the spacing.",
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
    if "runs" in results and "verdicts" not in results:
        raise ValueError(f"{results_file} is of an earlier version of reproduce; the same call of reproduce makes it anew, and trains again where folders do not name activation and seed")
    runs = [Run(arguments.folder, entry, results) for entry in results["runs"] if "failed" not in entry]
    failed = [entry for entry in results["runs"] if "failed" in entry]
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
        failed_section(failed),
        verdicts(results, runs),
        "<h2>Results</h2>", f"<p>{'W₂²' if any(planar) else 'Sliced W₂²'} of {results['gap_options']['samples']} samples each"
        + ("; the sliced distance where the data are not planar" if any(planar) and not all(planar) else "")
        + (". Grid bias: the grid's share of ODE–SDE; the other distances have one too, but it is measured for the distance alone "
           "that models are compared by, since each takes as long as a dozen others" if any(planar) else "") + ".</p>",
    ]
    if results["seeds"] > 1:
        parts += ["<p>Mean ± standard deviation over seeds, of which each has its own training, samples and truth.</p>",
                  summary_table(results["summary"]),
                  f"<details><summary>All {len(runs)} runs</summary>{results_table(runs)}</details>"]
    else:
        parts.append(results_table(runs))
    parts += [published_table(results["summary"], results["gap_options"]["samples"]), acceptance_section(results)]
    for data, group in by_data(runs).items():
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in os.path.basename(data))
        planar_group, study = all(run.planar for run in group), is_study(group)
        seeds = len({run.seed for run in group})
        of_seeds = "; bars: one standard deviation over seeds" if seeds > 1 else ""
        parts.append(f"<h2>{html.escape(data)}</h2>")
        if study:
            parts.append(embed(smoothness_figure(group), f"smoothness_{name}",
                               "Against the roughness of the activation, the largest |σ″| of one unit (β/4 for softplus β): the "
                               f"ODE–SDE gap, both samplers' distances to the truth and the residual. Means over seeds{of_seeds}; "
                               f"dots: single seeds; open markers: more than {100 * results['most_escaped']:g} % of the samples of a sampler "
                               "escaped for some seed, so that the distances are between the survivors."))
            if planar_group:
                parts.append(embed(study_density_figure(group, results["box"]), f"density_{name}",
                                   "Densities of both samplers, of the first seed, on one colour scale set by the truth; where "
                                   "samples escaped, of those that did not, with the escaped share written in the panel."))
        else:
            if planar_group:
                first = min(run.seed for run in group)
                parts.append(embed(density_figure([run for run in group if run.seed == first], results["box"]),
                                   f"density_{name}", "Densities of the truth and of both samplers, on one colour scale set by "
                                   "the truth."))
            parts.append(embed(gap_figure(group), f"gap_{name}",
                               f"Squared distances against the weight of the residual{of_seeds}."))
            parts.append(embed(curve_figure(group), f"training_{name}",
                               "Losses during training: each record (faint) and their running geometric mean."))
        parts.append(embed(way_figure(group), f"way_{name}", way_caption(group, of_seeds)))
        if planar_group and not study and seeds == 1:
            for run in group:
                if run.way is None:
                    continue
                parts.append(embed(way_density_figure(run, results["box"]), f"way_{name}_w{run.weight:g}",
                                   f"w<sub>R</sub> = {run.weight:g}: densities on the way, each time on a scale of its own"
                                   + way_density_caption(run)))
    residual_plot = embed(
        residual_figure(runs), "residual",
        "The ODE–SDE gap, and the denoising loss at the same fresh points for all runs of a data set and seed, against the mean "
        "squared residual; one point a run.")
    parts += [
        "<h2>Residual, gap and denoising loss</h2>",
        residual_plot or "<p>Nothing to plot: fewer than two runs have a residual and a distance between the samplers.</p>",
        diagnosis_section(runs),
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
