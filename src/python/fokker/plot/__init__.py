"""The report's figures, by matplotlib (``pip install fokker[plot]``): of a ``fokker.Gap``, or of a folder that `reproduce` filled.

Functions return a matplotlib Figure and leave matplotlib's backend and settings as they are::

    fokker.plot.densities(fokker.gap(model, "circles2")).savefig("densities.png")
"""

from __future__ import annotations

import os
from typing import Any, Callable, Union

import numpy as np

from .._arrays import path_of, refuse
from .._core import Error
from ..sampling import Gap

Folder = Union[str, os.PathLike]


class _GapRun:
    """A Gap as the figures take a run of `reproduce`."""

    def __init__(self, gap: Gap) -> None:
        if gap.histograms is None:
            raise Error("densities of a gap that is not of planar data are asked for; allowed: two dimensions")
        (low, high), other = gap.box
        if (low, high) != tuple(other) or low != -high:
            raise Error(f"densities on the box {gap.box} are asked for; allowed: [-b, b]² of one half width b")
        self.half_width = high
        self.label = "histograms"
        self.gap = {"escaped": {"ode": gap.escaped_ode, "sde": gap.escaped_sde}}
        self.distances = {"ode_sde": gap.ode_sde, "ode_truth": gap.ode_truth, "sde_truth": gap.sde_truth}
        self._histograms = gap.histograms

    def histogram(self, name: str) -> np.ndarray:
        return self._histograms[name]

    def few_left(self, escaped: float) -> bool:
        return escaped > 0.05  # as reproduce counts


def _figure(make: Callable, *arguments: Any) -> Any:
    import matplotlib.pyplot as plt

    from . import figures

    with plt.rc_context(figures.STYLE):
        figure = make(figures)(*arguments)
        if figure is None:
            raise Error("what was given has nothing for this figure; allowed: runs that measured it")
        figure.canvas.draw()  # in this style, whichever is set when it is shown
        plt.close(figure)
    return figure


def _runs(folder: Folder, data: str | None) -> tuple[dict, list]:
    from .read import read_folder

    results, runs, _ = read_folder(path_of("folder", folder))
    names = list(dict.fromkeys(run.data for run in runs))
    if data is not None and not isinstance(data, str):
        refuse("data", data, "a text, as 'blob', or None")
    if data is None and len(names) > 1:
        raise Error(f"the folder has runs of {', '.join(names)}, and data is not given; allowed: one of these")
    chosen = [run for run in runs if data in (None, run.data)]
    if not chosen:
        raise Error(f"the data {data!r} are asked for, and the folder has {', '.join(names)}; allowed: one of these")
    return results, chosen


def densities(source: Gap | Folder, *, data: str | None = None) -> Any:
    """The truth, the reverse SDE and the probability flow on one colour scale; of a folder a row for each weight of the first seed.
    data: which of a folder with several.
    """
    if isinstance(source, Gap):
        run = _GapRun(source)
        return _figure(lambda figures: figures.density_figure, [run], run.half_width)
    if not isinstance(source, (str, os.PathLike)):
        refuse("source", source, "a fokker.Gap, or a folder's name")
    results, runs = _runs(source, data)
    first = min(run.seed for run in runs)
    return _figure(lambda figures: figures.density_figure, [run for run in runs if run.seed == first], results["box"])


def curves(folder: Folder, *, data: str | None = None) -> Any:
    """Denoising loss and mean squared residual along the training, of every run."""
    return _figure(lambda figures: figures.curve_figure, _runs(folder, data)[1])


def gaps(folder: Folder, *, data: str | None = None) -> Any:
    """The three distances against the weight of the residual, over the noise floor."""
    return _figure(lambda figures: figures.gap_figure, _runs(folder, data)[1])


def gap_over_time(folder: Folder, *, data: str | None = None) -> Any:
    """The distance between the two samplers' laws and e^φ at times from the prior to the data."""
    return _figure(lambda figures: figures.over_time_figure, _runs(folder, data)[1])


def gap_along_eta(folder: Folder, *, data: str | None = None) -> Any:
    """Distances to the flow and to the truth along the family of samplers."""
    return _figure(lambda figures: figures.eta_figure, _runs(folder, data)[1])


def report(folder: Folder, out: Folder | None = None) -> str:
    """Writes the HTML page of a folder, as `report.py` does, and returns its name."""
    from .page import write_report

    folder = path_of("folder", folder)
    path = os.path.join(folder, "report.html") if out is None else path_of("out", out)
    write_report(folder, path)
    return path
