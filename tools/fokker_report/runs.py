"""The runs of a reproduction, read from results.json and from their folders."""

import math
import os

import numpy as np

LOG_COLUMNS = ["iteration", "denoising", "residual", "total", "gradient_norm", "rate"]
HISTOGRAMS = ["truth", "sde", "ode"]
# The laws of along_the_way.npy, in its order.
LAWS = ["sde", "ode", "potential"]
PAIRS = [("ode_sde", "ODE–SDE"), ("ode_truth", "ODE–truth"), ("sde_truth", "SDE–truth")]


class Run:
    """A finished run of results.json, with its files."""

    def __init__(self, folder, entry, results):
        self.folder = os.path.join(folder, entry["folder"])
        self.entry = entry
        self.data = entry["data"]
        self.weight = entry["residual_weight"]
        self.gap = entry["gap"]
        self.planar = self.gap.get("w2_squared") is not None
        self.distances = self.gap["w2_squared"] if self.planar else self.gap["sliced_w2_squared"]
        # 0 where the data are one point.
        self.floor = self.gap["noise_floor"] or 0.0
        self.label = f"$w_R$ = {self.weight:g}"
        self.activation = entry["activation"]["name"]
        self.roughness = entry["activation"]["largest_second_derivative"]
        self.seed = entry["seed"]
        self.residual = self.gap.get("residual") or {"mean_square": None, "centred_mean_square": None}
        # The statistics over the seeds, of which this run has one.
        self.summary = next((s for s in results["summary"] if (s["data"], s["activation"]["name"], s["residual_weight"]) ==
                             (self.data, self.activation, self.weight)), None)
        if self.summary is None:
            raise ValueError(f"results.json has no summary of {self.data}, {self.activation}, w_R = {self.weight:g}, of which it "
                             "has a run; the same call of reproduce makes it anew")
        self.most_escaped = results["most_escaped"]
        # W2² between the samplers, and from each to e^φ, at times from T to the end; None where the data are not planar,
        # and where a seed has none.
        self.over_time = self.gap.get("along_the_way") if self.summary.get("along_the_way") else None
        if self.over_time is not None:
            way, times = self.summary["along_the_way"], len(self.over_time["times"])
            if any(len(values) not in (0, times) for values in [*way["w2_squared"].values(), way["noise_floor"]]):
                raise ValueError(f"results.json has a summary of {self.data} over other times than its runs")
        # W2² of the family's members to the ODE and to the truth, over seeds; None where a seed has none.
        self.along_eta = self.summary.get("along_eta") if self.gap.get("along_eta") else None
        if self.along_eta is not None:
            etas = [point["eta"] for point in self.gap["along_eta"]]
            if etas != self.along_eta["eta"] or any(len(self.along_eta[key]) != len(etas) for key in ("ode", "truth", "escaped")):
                raise ValueError(f"results.json has a summary of {self.data} over other eta than its runs")
        self.diagnosis = entry.get("diagnosis")

    def few_left(self, escaped):
        """Whether so many samples are lost that a distance's ratio to the noise floor says nothing."""
        return escaped > self.most_escaped

    def file(self, name):
        return os.path.join(self.folder, name)

    def files(self):
        """All files of the run that are read."""
        return [self.file("log.csv"), *(self.file(name + ".npy") for name in [*HISTOGRAMS, "along_the_way"])]

    def histogram(self, name):
        """[n, n] density per unit area, row = y; truth, sde or ode."""
        weights = self.weights(name)
        n = math.isqrt(weights.size)
        if n < 2 or n * n != weights.size:
            raise ValueError(self.damaged(name, f"{weights.size} entries"))
        return weights.reshape(n, n)

    def laws_over_time(self):
        """{law: [times, n, n]} for those of LAWS that are there."""
        weights, times = self.weights("along_the_way"), len(self.over_time["times"])
        n = math.isqrt(weights.shape[-1])
        if weights.ndim != 2 or weights.shape[0] % times != 0 or n * n != weights.shape[1]:
            raise ValueError(self.damaged("along_the_way", f"shape {weights.shape}"))
        return {name: law for name, law in zip(LAWS, weights.reshape(-1, times, n, n))}

    def weights(self, name):
        with open(self.file(name + ".npy"), "rb") as file:
            try:
                weights = np.lib.format.read_array(file, allow_pickle=False)
            except OSError:
                raise
            except Exception as error:  # of many kinds, since NumPy reads the header as Python
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


def number(value, digits=5, style="f"):
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if style == "f" and abs(value) >= 1e6:  # whose digits in fixed point say nothing
        style = "e"
    return f"{value:.{digits}{style}}"


def in_the_box_only(runs, k):
    """Whether e^φ of one of the runs is not integrable at the k-th time of the gap over time."""
    return not all(run.over_time["potential_integrable"][k] for run in runs if run.over_time["potential_integrable"])
