"""Figures of a reproduction's runs."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter

from .runs import LAWS, PAIRS, by_data, grouped, in_the_box_only, is_study, mean_of, number

INK, MUTED, GRID = "#1b1f24", "#6a737d", "#e4e7eb"
# Colours of Okabe and Ito, told apart by every kind of colour vision.
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
LAW_TITLES = {"sde": "reverse SDE", "ode": "prob.-flow ODE", "potential": "$e^\\varphi$ in the box"}

# For plt.rc_context() around what makes and saves a figure.
STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "font.family": "DejaVu Sans",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.8, "legend.frameon": False, "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}


def plain(text):
    """A name as the text of a figure: no formula ($) and not hidden from legends (_)."""
    line = "".join(c if c.isprintable() else "?" for c in text[:60]).replace("$", r"\$")
    return " " + line if line.startswith("_") else line


def error_bars(axis, x, statistics, **style):
    """Means joined by a line, with bars of one standard deviation over seeds. The axes are logarithmic, so a bar ends at
    a tenth of its mean at the latest."""
    means = np.array([mean_of(statistic) for statistic in statistics])
    deviations = np.array([math.nan if s is None else s["deviation"] or 0.0 for s in statistics])
    bars = np.array([np.minimum(deviations, 0.9 * means), deviations])
    axis.errorbar(x, means, yerr=np.maximum(bars, 0) if np.nanmax(deviations, initial=0) > 0 else None, capsize=3, **style)


def note_in_panel(axis, text):
    # The outline keeps it legible on bright pixels.
    axis.text(0.5, 0.03, text, transform=axis.transAxes, ha="center", va="bottom", fontsize=8, color="white",
              path_effects=[withStroke(linewidth=2.5, foreground="black")])


def note_escaped(axis, run, escaped):
    """Says in a panel of a density that it shows no more than the samples that did not escape."""
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
    """Geometric mean over a window centred at each record and a quarter of its iteration wide, which on a logarithmic
    axis is equally wide everywhere."""
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


def eta_figure(runs):
    """The distances to the ODE and to the truth against η: a row for each, a panel for each w_R, a line for each
    activation. A point is open where a seed lost many samples."""
    runs = [run for run in runs if run.along_eta is not None]
    if not runs:
        return None
    floor = max(run.floor for run in runs)

    def shown(statistics):
        # The distance of the ODE to itself has no place on a logarithm's axis.
        return [None if s is None or s["mean"] <= 1e-3 * floor else s for s in statistics]

    weights = sorted({run.weight for run in runs})
    figure, axes = plt.subplots(2, len(weights), figsize=(min(11.6, 2.2 + 3.4 * len(weights)), 6.2), squeeze=False,
                                sharex=True, sharey="row")
    for row, (key, label) in zip(axes, [("ode", "to the ODE"), ("truth", "to the truth")]):
        for axis, weight in zip(row, weights):
            group = [run for run in runs if run.weight == weight]
            for index, (activation, of) in enumerate(grouped(group, lambda run: run.activation).items()):
                curve, style = of[0].along_eta, dict(marker=MARKERS[index % 6], color=PALETTE[index % 6])
                error_bars(axis, curve["eta"], shown(curve[key]), linewidth=1.6, label=plain(activation), **style)
                lost = [k for k, share in enumerate(curve["escaped"]) if share is None or of[0].few_left(share["most"])]
                axis.plot([curve["eta"][k] for k in lost], [mean_of(shown(curve[key])[k]) for k in lost],
                          linestyle="", markerfacecolor="white", zorder=4, **style)
            axis.grid(True)
            axis.set_title(f"{label}, {group[0].label}", loc="left")
        row[0].set_ylabel("$W_2^2$" if runs[0].planar else "sliced $W_2^2$")
        use_log_scale(row[0].set_yscale, [mean_of(s) for run in runs for s in shown(run.along_eta[key])])
        for axis in row:
            shade_noise(axis, floor)
        label_short_axis(row[0])
    figure.supxlabel("$\\eta$: 0 is the probability-flow ODE, 1 the reverse SDE", fontsize=10)
    axes[0][-1].legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def shade_noise(axis, floor):
    if floor > 0:
        bottom = min(axis.get_ylim()[0], 0.7 * floor)
        axis.axhspan(bottom, floor, color=GRID, label="noise floor", zorder=0, linewidth=0)
        axis.set_ylim(bottom=bottom)


def smoothness_figure(runs):
    """The gap, both samplers' distances to the truth and the centred residual against the activation's largest |σ″|."""
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
                        [f"{plain(name)}: {roughness:.2g}" for roughness, name in activations], fontsize=8,
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
    """Densities of the first seed. Rows: activations. Columns: SDE and ODE for each w_R."""
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
        row[0].set_ylabel(plain(group[0].activation), fontsize=11)
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


def time_positions(times):
    """Times on a logarithmic axis, where 0 has no place: it stands half a decade below the least of the others."""
    least = min(t for t in times if t > 0)
    return [t if t > 0 else least / math.sqrt(10) for t in times]


def finish_time_axis(axis, runs):
    times = runs[0].over_time["times"]
    axis.set_xscale("log")
    use_log_scale(axis.set_yscale, [value for run in runs for value in run.over_time["w2_squared"]["ode_sde"]])
    axis.invert_xaxis()
    # Each of the times has its label.
    axis.set_xticks(time_positions(times), [f"{t:.2g}" for t in times])
    axis.minorticks_off()
    label_short_axis(axis)


def over_time_figure(runs):
    """W2² between the two samplers' laws and e^φ against time, with a panel for each w_R. A study has a row for each pair
    and a line for each activation."""
    runs = [run for run in runs if run.over_time is not None]
    if not runs:
        return None
    pairs = [("ode_sde", "ODE–SDE"), ("potential_sde", "$e^\\varphi$–SDE"), ("potential_ode", "$e^\\varphi$–ODE")]
    pairs = [(key, label) for key, label in pairs if all(run.over_time["w2_squared"][key] for run in runs)]
    weights = sorted({run.weight for run in runs})
    study = is_study(runs)
    rows = pairs[:2] if study else [None]
    columns = len(weights)
    figure, axes = plt.subplots(len(rows), columns, figsize=(min(11.6, 2.2 + 3.4 * columns), 3.3 * len(rows)), squeeze=False,
                                sharey=True, sharex=True)
    for i, row in enumerate(rows):
        for axis, weight in zip(axes[i], weights):
            group = [run for run in runs if run.weight == weight]
            x = time_positions(group[0].over_time["times"])
            if study:
                key, label = row
                lines = [(plain(runs_of[0].activation), key, runs_of) for _, runs_of in
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
    longest = max(len(f"{t:.2g}") for t in runs[0].over_time["times"])
    # The axes are shared, so this is once for all.
    finish_time_axis(axes[0][0], runs)
    for row in axes:
        row[0].set_ylabel("$W_2^2$")
        for axis in row:
            axis.grid(True)
            axis.tick_params(axis="x", labelsize=8 if columns < 3 and longest < 5 else 6.5)
    figure.supxlabel("time $t$, from the prior on the left to the data on the right", fontsize=10)
    lines = sorted(zip(*axes[0][-1].get_legend_handles_labels()), key=lambda line: line[1] == "noise floor")
    if any(in_the_box_only([run], k) for run in runs for k in range(len(run.over_time["times"]))):
        lines.append((plt.Line2D([], [], marker="o", color=MUTED, markerfacecolor="white", linestyle=""),
                      "$e^\\varphi$ not integrable,\nin the box only"))
    axes[0][-1].legend(*zip(*lines), title=None if study else "$W_2^2$ between", title_fontsize=8.5, fontsize=8.5,
                       loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")
    return figure


def density_over_time_figure(run, half_width):
    """Rows: SDE, ODE, e^φ. Columns: times."""
    laws = run.laws_over_time()
    times = run.over_time["times"]
    n = next(iter(laws.values())).shape[-1]
    spacing = 2 * half_width / (n - 1)
    figure, axes = plt.subplots(len(laws), len(times), figsize=(1.22 * len(times) + 0.4, 1.22 * len(laws) + 0.5), squeeze=False)
    for index, (name, title) in enumerate((name, LAW_TITLES[name]) for name in LAWS if name in laws):
        row = axes[index]
        for column, (axis, t) in enumerate(zip(row, times)):
            # Each time has a scale of its own, set by the SDE's law there: densities sharpen towards the data.
            top = 1.3 * np.quantile(laws["sde"][column], 0.995) / spacing**2
            axis.imshow(laws[name][column] / spacing**2, origin="lower", vmin=0, vmax=top or 1, cmap="magma",
                        interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if index == 0:
                axis.set_title(f"$t$ = {t:.2g}", fontsize=8.5)
            if name in run.over_time["escaped"]:
                note_escaped(axis, run, run.over_time["escaped"][name][column])
            elif in_the_box_only([run], column):
                note_in_panel(axis, "not integrable")
        row[0].set_ylabel(title, fontsize=8)
    return figure


def residual_figure(runs):
    """The gap and the denoising loss against the centred mean squared residual, with a point for each run."""
    points = [run for run in runs if None not in (run.residual["centred_mean_square"], run.distances["ode_sde"],
                                                  run.gap["denoising_loss"])]
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
            axis.scatter(x, y, s=36, marker=MARKERS[index % len(MARKERS)], color=colour, label=plain(label), zorder=3,
                         linewidth=0)
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
