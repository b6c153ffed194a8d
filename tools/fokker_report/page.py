"""The HTML page of a reproduction: figures, tables and what they say."""

import base64
import io
import os

import matplotlib.pyplot as plt

from . import figures, tables
from .files import write_file
from .read import check_out, read_folder
from .runs import by_data, is_study, number
from .tables import W_R, Markup, escaped

E_PHI = Markup("e<sup>φ</sup>")
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f24; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.lead { color: #57606a; margin-top: 0; } figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .88rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .8rem 0 1.4rem; }
th, td { padding: .3rem .55rem; text-align: right; vertical-align: bottom; border-bottom: 1px solid #e4e7eb; }
th { color: #57606a; font-weight: 600; border-bottom: 2px solid #c4cbd3; } td { white-space: nowrap; }
td:first-child, th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.key td, .text td, .text th { text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere; }
.key td:first-child { color: #57606a; overflow-wrap: normal; } .text td:nth-child(3) { white-space: nowrap; }
.best { font-weight: 700; }
.verdict { background: #f3f6fa; border-left: 4px solid #0072b2; padding: .6rem 1rem; margin: .6rem 0; }
.warning { background: #fdf3ec; border-left: 4px solid #d55e00; padding: .6rem 1rem; margin: .6rem 0; }
code { font-size: .88em; } li { margin: .3rem 0; }
"""


class Figures:
    """Saves figures as PNG files in `folder` and puts them into the page."""

    def __init__(self, folder):
        self.folder = folder
        if os.path.islink(folder):
            raise ValueError(f"{folder} is a symbolic link, and figures are written into a folder beside the results; remove it")
        os.makedirs(folder, exist_ok=True)

    def embed(self, figure, name, alt, caption):
        """Empty where there is no figure. alt: what it shows, for those who cannot see it."""
        if figure is None:
            return ""
        path = os.path.join(self.folder, name + ".png")
        image = io.BytesIO()
        figure.savefig(image, bbox_inches="tight", pad_inches=0.08)
        plt.close(figure)
        write_file(path, image.getvalue())
        code = base64.b64encode(image.getvalue()).decode()
        return (f'<figure id="{escaped(name)}"><img alt="{escaped(alt)}" src="data:image/png;base64,{code}">'
                f"<figcaption>{caption}</figcaption></figure>")


def over_time_caption(runs, of_seeds):
    runs = [run for run in runs if run.over_time is not None]
    text = (f"The gap over time: W₂² between the laws of the two samplers, and from each to the model's own density {E_PHI}, "
            f"restricted to the box and normalised there, at times from the prior to the data{of_seeds}. The dotted line is "
            "the distance between two draws of the forward SDE's law. Distances can lie below it, since both samplers start "
            f"from one draw of the prior and {E_PHI} has no noise. ")
    open_runs = [run for run in runs if not all(run.over_time["potential_integrable"])]
    if open_runs:
        labels = dict.fromkeys((f"{escaped(run.activation)}, " if is_study(runs) else "") + f"{W_R} = {run.weight:g}"
                               for run in open_runs)
        share = max(max(run.over_time["share_of_growing_directions"]) for run in open_runs)
        text += (f"<b>Where {E_PHI} is not integrable</b> there is no Z, and the figure shows no more than {E_PHI} restricted "
                 f"to the box. That is so at some of these times for {'; '.join(labels)}: far out, φ grows in up to "
                 f"{100 * share:.0f} % of the directions, or does not fall. ")
    if runs and max(runs[0].over_time["times"][:2]) > 0.3 * runs[0].over_time["times"][0]:
        text += "The first steps of Euler–Maruyama are long; what they add near the prior is forgotten later."
    return text


def density_over_time_caption(run):
    text = f"{W_R} = {run.weight:g}: densities over time. Each time has a colour scale of its own"
    integrable = run.over_time["potential_integrable"]
    if not integrable:
        return text + "."
    if all(integrable):
        return f"{text}. The last row is {E_PHI}/Z, as far as it lies in the box."
    return (f"{text}. <b>{E_PHI} is not integrable</b> where a panel says so; the panel shows {E_PHI} restricted to the box "
            "and normalised there.")


def data_section(data, runs, results, pictures):
    """The figures of one data set."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in os.path.basename(data))
    title = os.path.basename(data)
    planar, study = all(run.planar for run in runs), is_study(runs)
    seeds = {run.seed for run in runs}
    first = [run for run in runs if run.seed == min(seeds)]
    of_seeds = "; bars are one standard deviation over seeds" if len(seeds) > 1 else ""
    weights = ", ".join(f"{weight:g}" for weight in sorted({run.weight for run in runs}))
    parts = [f"<h2>{escaped(data)}</h2>"]
    if study:
        parts.append(pictures.embed(
            figures.smoothness_figure(runs), f"smoothness_{name}",
            f"{title}: ODE–SDE, ODE–truth and SDE–truth distances and the centred residual against the largest second "
            f"derivative of each activation, for w_R = {weights}",
            "The ODE–SDE gap, both samplers' distances to the truth and the residual against the roughness of the activation, "
            f"the largest |σ″| of one unit (β/4 for softplus β). Lines join means over seeds{of_seeds}; dots are single seeds. "
            f"A marker is open where a seed lost more than {100 * results['most_escaped']:g} % of a sampler's samples: its "
            "distances are between the samples that are left."))
        if planar:
            parts.append(pictures.embed(
                figures.study_density_figure(runs, results["box"]), f"density_{name}",
                f"{title}: densities of the reverse SDE's and the probability-flow ODE's samples for each activation and "
                f"w_R = {weights}",
                "Densities of both samplers' samples, of the first seed, on one colour scale set by the truth. A panel gives the "
                "share of its samples that escaped where that is large; it shows the others."))
    else:
        if planar:
            parts.append(pictures.embed(
                figures.density_figure(first, results["box"]), f"density_{name}",
                f"{title}: densities of the truth and of the reverse SDE's and the probability-flow ODE's samples, a row for "
                f"each of w_R = {weights}",
                "Densities of the truth and of both samplers' samples, on one colour scale set by the truth."))
        parts.append(pictures.embed(
            figures.gap_figure(runs), f"gap_{name}",
            f"{title}: ODE–SDE, ODE–truth and SDE–truth distances against w_R = {weights}, with the noise floor shaded",
            f"Squared distances against the weight of the residual{of_seeds}."))
        parts.append(pictures.embed(
            figures.curve_figure(runs), f"training_{name}",
            f"{title}: denoising loss and mean squared residual against the iteration, for w_R = {weights}",
            "Losses during training: each record (faint) and the running geometric mean of the records."))
    parts.append(pictures.embed(
        figures.eta_figure(runs), f"eta_{name}",
        f"{title}: distances of the samplers between and beyond the ODE and the SDE to the ODE and to the truth against η, for "
        f"w_R = {weights}",
        "The gap as a curve: the samplers dx = [a x − ½ (1 + η²) g² s] dt + η g dW all have the forward SDE's marginals where "
        "s is a score, and are those of the ODE at η = 0 and of the reverse SDE at η = 1, here by Euler–Maruyama's steps from "
        f"one draw of the prior{of_seeds}. A marker is open where a seed lost more than {100 * results['most_escaped']:g} % of "
        "the samples."))
    parts.append(pictures.embed(
        figures.over_time_figure(runs), f"over_time_{name}",
        f"{title}: distances between the reverse SDE, the probability-flow ODE and e^φ against time, for w_R = {weights}",
        over_time_caption(runs, of_seeds)))
    if planar and not study and len(seeds) == 1:
        for run in runs:
            if run.over_time is None:
                continue
            parts.append(pictures.embed(
                figures.density_over_time_figure(run, results["box"]), f"over_time_{name}_w{run.weight:g}",
                f"{title}, w_R = {run.weight:g}: densities of the reverse SDE, the probability-flow ODE and e^φ at "
                f"{len(run.over_time['times'])} times from the prior to the data", density_over_time_caption(run)))
    return "".join(parts)


def published_section(summary, samples):
    """Empty where there is nothing to compare."""
    compared = tables.published_tables(summary)
    if not compared:
        return ""
    entries = [entry for entry in summary if entry.get("published")]
    floors = [entry["noise_floor"]["most"] for entry in entries if entry["noise_floor"]]
    return ("<h2>Beside the published numbers</h2><p>Our numbers are medians over seeds. The published ones are W₂² between "
            "the histograms of the paper's authors, by exact transport, and the residual of their checkpoints. Their noise "
            f'floor, of 3 000 000 samples, is {number(entries[0]["published"]["noise_floor"])}; ours, of {samples} samples, '
            f"is up to {number(max(floors, default=None))}. Where distances are near a floor, their ratio is mostly that of "
            "the floors.</p>" + compared)


def diagnosis_section(runs):
    """The upper bound beside the gap, and the energy identity; empty where they were not asked for."""
    runs = [run for run in runs if run.diagnosis is not None]
    if not runs:
        return ""
    notes = []
    for run in runs:
        slopes = run.diagnosis["radial_slopes"]
        refused = [] if slopes["integrable"] else [f"there is no Z: {slopes['reason']}"]
        notes += [f"<li>{tables.name_text(run, runs)}: {escaped(note)}.</li>" for note in
                  [*run.diagnosis["warnings"], *refused]]
    vacuous = [run for run in runs if run.diagnosis["upper_bound"]["over_samples"]["vacuous"]]
    diameter = runs[0].diagnosis["upper_bound"]["diameter"]
    text = ("<p>In continuous time, W₂ (not its square) between the samplers is at most ½ ∫ e<sup>∫L</sup> g² √e<sub>t</sub> dt. "
            "Here e<sub>t</sub> is the mean square of ∇ log p<sup>SDE</sup> − s, and L(t) bounds the largest eigenvalue of "
            "−∇f + ½ g² ∇²φ from above. For L we take the largest value found, over samples of both samplers or over points of "
            "the box, so the table has <b>an estimate of the bound (a maximum over samples is no bound)</b>. ")
    if vacuous:
        text += (f"For {'all' if len(vacuous) == len(runs) else len(vacuous)} of the {len(runs)} runs it is <b>vacuous</b>: it "
                 f"exceeds the diameter of the box, {diameter:.2f}, and says no more than that both laws lie in the box. ")
    text += ("W₂ is measured without the samples that escaped, while the bound is about laws that keep them. Where the energy "
             "e<sub>t</sub> is <b>not resolved</b>, trust neither it nor the estimate that is made of it.</p>")
    identity = ("<p>KL(p<sup>SDE</sup> ‖ q) + ½ ∫ g² e<sub>t</sub> dt = KL(prior ‖ q<sub>T</sub>) + ∫ (E<sub>p</sub> R − "
                f"E<sub>q</sub> R) dt, with q = {E_PHI}/Z, by quadrature on a grid. p<sup>SDE</sup> and q are taken at the end "
                "of the samplers' times. The number after ± is the change from half the nodes and half the times. The balance "
                "is the same identity without Z. That the two sides agree is a check of consistency: an error that both share "
                "cancels." + ("" if all(run.diagnosis.get("identity") for run in runs) else " A dash stands where there is no Z.")
                + "</p>")
    return ("<h2>Upper bound of the gap, and the energy identity</h2>" + text + tables.bound_table(runs) + identity
            + tables.energy_tables(runs)
            + ("<details><summary>Why an energy is not resolved or has no Z, and which samples are missing</summary>"
               f"<ul>{''.join(notes)}</ul></details>" if notes else ""))


def failed_section(failed):
    """The runs whose training broke off."""
    if not failed:
        return ""
    items = "".join(f'<li>{escaped(entry["folder"])}: {escaped(entry["failed"])}</li>' for entry in failed)
    return (f'<p><b>{len(failed)} run{"s" if len(failed) > 1 else ""} failed</b>; the numbers below are of the others:</p>'
            f"<ul>{items}</ul>")


def warnings_section(results, runs):
    """What is said of the data before the work and of each run's samples after it; empty where nothing is."""
    found = [*results["warnings"],
             *(f'{run.entry["folder"]}: {text}' for run in runs for text in run.gap["warnings"])]
    if not found:
        return ""
    items = "".join(f"<li>{escaped(text)}</li>" for text in found)
    return f'<div class="warning"><b>Numbers below that look like results and may be none</b><ul>{items}</ul></div>'


def acceptance_section(results):
    """What the paper's runs have to show; empty for other presets."""
    if not results.get("acceptance"):
        return ""
    return ("<h2>What the paper's runs have to show</h2><p>Medians over seeds. The distances of a run that lost more than "
            f"{100 * results['most_escaped']:g} % of a sampler's samples are not evaluated.</p>"
            + tables.acceptance_table(results["acceptance"]))


def verdicts(results, runs):
    """The experiment's statement for each data set and activation."""
    study = is_study(runs)
    return "".join(
        f'<p class="verdict"><b>{escaped(verdict["data"])}{", " + escaped(verdict["activation"]) if study else ""}</b>: '
        f'{escaped(verdict["text"]).replace("w_R", W_R)}.</p>' for verdict in results["verdicts"])


def cautions(results, runs):
    half = results["box"]
    spacing = 2 * half / 63
    items = [
        "<b>Noise floor.</b> This is the distance between two independent draws of the truth of the same size. A perfect "
        "sampler scores no less. Differences smaller than it mean nothing, and a value near it is mostly noise.",
    ]
    if any(run.planar for run in runs):
        def most(run):
            return max(run.gap["escaped"][sampler] for sampler in ("ode", "sde"))

        worst = max((run for run in runs if run.planar), key=most)
        items += [
            f"<b>Escape.</b> A sample with a coordinate outside (−{half:g}, {half:g}), or not finite, is left out of the "
            f"distances and counted. Here at most {100 * most(worst):.2f} % of a sampler's samples "
            f"escaped ({escaped(worst.data)}, {W_R} = {worst.weight:g}).",
            f"<b>The grid's share.</b> Distances are between 64 × 64 histograms. For shifts below the spacing h of their nodes, "
            f"{spacing:.3f}, W₂² on the grid grows with the shift and not with its square, so that small values come out too "
            f"large: a shift by 0.01 has the W₂² 0.0001, and on the grid 0.01 h = {0.01 * spacing:.4f}. The grid's share of "
            "the ODE–SDE gap, noise floor included, is estimated by linear extrapolation in the spacing: it is twice the "
            "difference to the gap of the same samples on 127 × 127 nodes.",
        ]
        gaps = [v for run in runs for v in (run.gap.get("certificate_gap") or {}).values() if v is not None]
        if gaps:
            worst_gap = max(abs(v) for v in gaps)
            items.append("<b>Certificate.</b> Each W₂² is solved exactly. Its dual solution bounds it from below and "
                         + ("has the same value." if worst_gap == 0 else f"lies at most {worst_gap:.1e} below it."))
    items.append("<b>Residual.</b> The denoising loss determines the potential up to a function of time, which changes R and "
                 "moves no sample. The centred value has that freedom removed and is the one to compare. The mean is "
                 "heavy-tailed: expect it to differ by tens of per cent between seeds.")
    items.append(f"<b>Seeds.</b> On a small training budget the gap at {W_R} = 0 differs by a factor of two between seeds. Run "
                 "several before you quote a number.")
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def page(results, runs, failed, figures_folder):
    """The whole page. Writes the figures into their folder."""
    pictures = Figures(figures_folder)
    planar = [run.planar for run in runs]
    parts = [
        "<h1>The gap between what the SDE and the ODE sample</h1>",
        '<p class="lead">A network trained on noisy data is the score of two samplers, the reverse SDE and the '
        "probability-flow ODE. Both sample one law where the network's potential solves the Fokker–Planck equation. The "
        f"weight {W_R} of that equation's residual in the loss trades this agreement for accuracy.</p>",
        '<p class="warning"><b>These numbers mean nothing.</b> The smoke preset shows that everything runs: its networks '
        "are trained for seconds.</p>" if results["preset"] == "smoke" else "",
        "" if results.get("finished") else "<p><b>Some runs are not finished; this report shows the others.</b></p>",
        failed_section(failed),
        verdicts(results, runs),
        warnings_section(results, runs),
        "<h2>Results</h2>", f"<p>{'W₂²' if any(planar) else 'Sliced W₂²'} of {results['gap_options']['samples']} samples each"
        + ("; the sliced distance where the data are not planar" if any(planar) and not all(planar) else "")
        + (". The grid's share is measured for ODE–SDE alone, the distance by which models are compared: its transport takes as "
           "long as a dozen others. The other distances have such a share too" if any(planar) else "") + ".</p>",
    ]
    if results["seeds"] > 1:
        parts += ["<p>Mean ± standard deviation over seeds. Each seed has a training, samples and a truth of its own.</p>",
                  tables.summary_tables(results["summary"]),
                  f"<details><summary>All {len(runs)} runs</summary>{tables.results_tables(runs)}</details>"]
    else:
        parts.append(tables.results_tables(runs))
    curve = tables.eta_table(runs)
    if curve:
        parts.append(f"<details><summary>The gap as a curve in η</summary>{curve}</details>")
    parts += [published_section(results["summary"], results["gap_options"]["samples"]), acceptance_section(results)]
    parts += [data_section(data, group, results, pictures) for data, group in by_data(runs).items()]
    residual_plot = pictures.embed(
        figures.residual_figure(runs), "residual",
        "The ODE–SDE gap and the denoising loss above the least of the data, each against the centred mean squared residual; "
        "a point for each run",
        "The ODE–SDE gap and the denoising loss against the mean squared residual, with a point for each run. The loss is taken "
        "at fresh points, the same for all runs of one data set and seed.")
    parts += [
        "<h2>Residual, gap and denoising loss</h2>",
        residual_plot or "<p>Nothing to plot: fewer than two runs have a residual and a distance between the samplers.</p>",
        diagnosis_section(runs),
        "<h2>Read with these cautions</h2>", cautions(results, runs),
        "<h2>Recipe and machine</h2>", tables.recipe_table(results, runs),
    ]
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>ODE–SDE gap</title>'
            f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n")


def write_report(folder, out):
    """The page of a folder of `reproduce` into a file, and its figures into DIR/figures."""
    results, runs, failed = read_folder(folder)
    check_out(out, [os.path.join(folder, "results.json"), *(path for run in runs for path in run.files())])
    with plt.rc_context(figures.STYLE):
        write_file(out, page(results, runs, failed, os.path.join(folder, "figures")).encode("utf-8", "replace"))
