"""Samples, the gap between the two samplers, and distances."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Sequence

import numpy as np

from . import _core
from ._arrays import NUMPY, Array, as_array, flag, framework_of, number, numbers_of, numpy_of, shown, text, whole
from .data import Law, data_of
from .model import ADAPTIVE, Model, model_of, probes_of, times_of


def _times(grid: str | Sequence[float] | None, model: Model) -> str | list[float]:
    return model.usual_grid if grid is None else times_of(grid)


def _box(box: Any) -> list[float]:
    """The limits of x and of y, of a half width, (low, high) or ((x_low, x_high), (y_low, y_high))."""
    limits = numpy_of("box", box, "a half width, (low, high), or that of each axis")
    if limits.ndim == 0:
        limits = np.array([-limits, limits])
    if limits.shape not in ((2,), (2, 2)):
        raise _core.Error(f"a box of shape {list(limits.shape)} is given; allowed: a half width, (low, high), or that of each axis")
    return np.broadcast_to(limits, (2, 2)).ravel().tolist()


# What sample() takes for the schemes of fixed steps alone and for those of ADAPTIVE alone, with what it is where it is not given.
_OF_FIXED = {"grid": None, "log_density": False, "eta": None, "temperature": 1.0, "langevin": 0.0, "churn": (0.0, 0.0, math.inf, 1.0),
             "noise_in_last_step": False, "probes": 0}
_OF_ADAPTIVE = {"end": None, "tolerance": 1e-5}


def _refuse_ignored(scheme: str, **options: Any) -> None:
    """Of options that the scheme would not read."""
    adaptive = scheme in ADAPTIVE
    for name, usual in (_OF_FIXED if adaptive else _OF_ADAPTIVE).items():
        given = options[name]
        if given is usual or (name != "grid" and _plain_equal(given, usual)):
            continue
        others = "the schemes of fixed steps, as heun" if adaptive else ", ".join(ADAPTIVE)
        raise _core.Error(f"{name} is given to {scheme}, which does not read it; allowed: {name} with {others}")


def _plain_equal(given: Any, usual: Any) -> bool:
    return np.array_equal(given, usual) if isinstance(usual, tuple) else isinstance(given, (int, float)) and given == usual


def sample(model: Model, n: int | None = None, *, seed: int = 0, scheme: str = "euler-maruyama",
           grid: str | Sequence[float] | None = None, condition: Any = None, first_index: int = 0, eta: float | None = None,
           temperature: float = 1.0, langevin: float = 0.0, churn: Sequence[float] = (0.0, 0.0, math.inf, 1.0),
           noise_in_last_step: bool = False, end: float | None = None, tolerance: float = 1e-5, log_density: bool = False,
           probes: int = 0, law: str = "rademacher", probe_seed: int = 0, like: Array = None, out: Array = None) -> Any:
    """Samples [n, d] of a model: draws of the prior carried along a grid of times, float32. Sample i is a function of
    (seed, first_index + i), whatever n.

    scheme: "euler-maruyama" (or "sde"), of the reverse SDE; "euler" (or "ode"), "heun" or "rk4", of the probability flow;
    "exponential", "ddim", "dpm++2m" or "stochastic-heun", of the family between them in `eta`; or "tsit5", "dopri5" or "bs32", of
    the probability flow down to the time `end` (the SDE's t_min where it is not given) by steps that follow `tolerance`, which work
    in float64 too.
    grid: times as the command line has them, "paper", "uniform:100", "geometric:150:1e-3", "edm:18", …, or the times themselves;
    where it is not given, the one that suits the model.
    condition: [n, c] of each sample, or one [c] for all, of a model that takes one.
    temperature, langevin, churn (amount, from, to, noise), noise_in_last_step: as the C++ header sampler.hpp has them.
    log_density: returns (samples, log-densities [n] of the flow's law there) by "euler", "heun" or "rk4".
    like: an array whose framework and device the samples are to have; else that of `condition`; else NumPy. out: an array [n, d] of
    NumPy, PyTorch or CuPy that is written and returned.
    """
    text("scheme", scheme, "heun")
    model_of(model)
    whose = "condition" if like is None and out is None else "like"
    like = as_array(condition if whose == "condition" else like, whose)
    framework = framework_of(out, "out") if out is not None else NUMPY if like is None else framework_of(like, whose)
    place = out if out is not None else np.empty(0) if like is None else like
    bits = 32
    if scheme in ADAPTIVE and (out is not None or like is not None):
        bits = framework.bits(place, "out" if out is not None else whose)
    _refuse_ignored(scheme, grid=grid, log_density=log_density, temperature=temperature, langevin=langevin, churn=churn, eta=eta,
                    noise_in_last_step=noise_in_last_step, probes=probes, end=end, tolerance=tolerance)
    if out is not None and len(out.shape) == 0:
        raise _core.Error("out has no axes; allowed: an array [n, d]")
    if n is None:
        if out is None:
            raise _core.Error("neither n nor out is given; allowed: the number of samples, or an array for them")
        n = int(out.shape[0])
    n = whole("n", n, 2**40)
    if out is not None and out.shape[0] != n:
        raise _core.Error(f"n is {n} and out has {out.shape[0]} rows; allowed: the same number, or out alone")
    seed, first_index, probes = whole("seed", seed), whole("first_index", first_index), probes_of(probes, law, probe_seed, "probe_seed")
    noise_in_last_step, log_density = flag("noise_in_last_step", noise_in_last_step), flag("log_density", log_density)
    samples = framework.written(out) if out is not None else framework.output((n, model.dimension), bits, place)
    if model.condition_width and condition is not None:
        rows = as_array(condition, "condition")
        framework_of(rows, "condition")
        if len(rows.shape) == 1:
            model, condition = model.given(rows), None
        else:
            condition = rows.astype(f"float{bits}") if isinstance(rows, np.ndarray) else rows
    given = None
    if condition is not None:
        condition = as_array(condition, "condition")
        given = framework_of(condition, "condition").given(condition)
    with framework.on_device_of(place):
        if scheme in ADAPTIVE:
            _core.sample_adaptively(model, samples.memory, given, model.t_min if end is None else number("end", end), scheme,
                                    number("tolerance", tolerance), seed, first_index, framework.stream(place))
            return samples.result()
        density = framework.output((n,), 32, place) if log_density else None
        _core.sample(model, samples.memory, given, density.memory if density else None, _times(grid, model), scheme, seed, first_index,
                     None if eta is None else number("eta", eta), number("temperature", temperature), number("langevin", langevin),
                     noise_in_last_step, numbers_of("churn", churn), *probes, framework.stream(place))
    return (samples.result(), density.result()) if density else samples.result()


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far the law of a model's probability flow lies from that of its reverse SDE, and both from the data: W2² on a grid in the
    plane, sliced W2² in other dimensions, in squared units of x. A distance says something where it is above `noise_floor`, the
    distance of two draws of the data, and where few samples escaped.
    """

    ode_sde: float
    ode_truth: float
    sde_truth: float
    noise_floor: float
    escaped_ode: float  # shares of the samples that distances leave out
    escaped_sde: float
    escaped_truth: float
    samples: int  # of each
    certificate_gap: float  # the most that a distance on the grid may be too large, by its dual solution
    grid_share: float | None  # of ode_sde, extrapolated from half the spacing; where `in_detail` was asked for
    sliced: dict[str, float] | None  # the sliced distances in the plane, where they were asked for
    box: tuple[tuple[float, float], tuple[float, float]]
    histograms: dict[str, np.ndarray] | None = dataclasses.field(repr=False, default=None)  # truth, sde, ode: [nodes, nodes], row = y

    def __str__(self) -> str:
        lost = f"escaped {100 * self.escaped_ode:.2f} % (ODE), {100 * self.escaped_sde:.2f} % (SDE)"
        return (f"W2² ODE–SDE {self.ode_sde:.4f}, ODE–truth {self.ode_truth:.4f}, SDE–truth {self.sde_truth:.4f}, "
                f"noise floor {self.noise_floor:.4f}, {lost}")


def gap(model: Model, data: Law, *, grid: str | Sequence[float] | None = None, samples: int = 100_000, seed: int = 0,
        ode_scheme: str = "heun", box: Any = 3.5, nodes: int = 64, in_detail: bool = False, sliced: bool = False,
        device: str = "cpu") -> Gap:
    """Draws `samples` by the reverse SDE (Euler–Maruyama) and by the probability flow (`ode_scheme`: euler, heun or rk4) along `grid`,
    as ``sample``, from the same prior, and compares them with each other and with draws of `data`: a name ("circles2", a file), an
    array [N, d] or a ``DataSet``.

    box, nodes: of the histograms in the plane, a half width, (low, high) or that of each axis. in_detail: also on half the
    spacing. sliced: sliced distances in the plane too. device: "cpu" or "cuda".
    """
    limits = _box(box)
    samples, nodes = whole("samples", samples, 2**40), whole("nodes", nodes, 2**31 - 1)
    found = _core.gap(model_of(model), data_of(data), _times(grid, model), samples, whole("seed", seed),
                      text("ode_scheme", ode_scheme, "heun"), flag("in_detail", in_detail), flag("sliced", sliced), nodes, limits,
                      on_cuda(device))
    pairs = [found[name] for name in ("ode_sde", "ode_truth", "sde_truth")]
    planar = found["histograms"][0] is not None
    histograms = None
    if planar:
        laws = zip(("truth", "sde", "ode"), found["histograms"])
        histograms = {name: np.asarray(weights).reshape(nodes, nodes) for name, weights in laws}
    names = ("samples", "ode_sde", "ode_truth", "sde_truth", "noise_floor")
    return Gap(*(distance for distance, _ in pairs), found["noise_floor"], *found["escaped"], samples,
               max((slack for _, slack in pairs), default=0.0) if planar else 0.0, found["grid_share"],
               dict(zip(names, found["sliced"])) if found["sliced"] else None, ((limits[0], limits[1]), (limits[2], limits[3])),
               histograms)


def on_cuda(device: str) -> bool:
    if not isinstance(device, str) or device not in ("cpu", "cuda"):
        raise _core.Error(f"the device {shown(device)} is given; allowed: cpu, cuda")
    return device == "cuda"


def w2_squared(a: Array, b: Array, *, method: str | None = None, box: Any = 3.5, nodes: int = 64, projections: int = 256,
               seed: int = 0) -> float:
    """W2² of two sets of samples [N, d] and [M, d], float32, in squared units of x.

    method: "grid", exact optimal transport between histograms on nodes × nodes points of the box, of planar samples (the default for
    them); "points", exact between the points themselves, N M up to 2^25, which takes minutes there; "sliced", the mean over
    `projections` lines drawn by `seed` (the default for other dimensions). Samples outside the box and those that are not
    finite are left out.
    """
    a, b = _float32(as_array(a, "a")), _float32(as_array(b, "b"))
    framework = framework_of(a, "a")
    framework.bits(a, "a"), framework_of(b, "b").bits(b, "b")
    if method is None:
        method = "grid" if len(a.shape) == 2 and a.shape[1] == 2 else "sliced"
    text("method", method, "sliced")
    given = framework.given(a), framework_of(b, "b").given(b)
    with framework.on_device_of(a):
        stream = framework.stream(a)
        if method == "grid":
            return _core.w2_on_grid(*given, whole("nodes", nodes, 2**31 - 1), _box(box), stream)
        if method == "points":
            return _core.w2_of_points(*given, stream)
        if method == "sliced":
            return _core.sliced_w2(*given, whole("projections", projections, 2**31 - 1), whole("seed", seed), stream)
    raise _core.Error(f"the method {method!r} is given; allowed: grid, points, sliced")


def _float32(samples: Array) -> Array:
    """Lists, and NumPy arrays of float64, as float32."""
    return samples.astype(np.float32) if isinstance(samples, np.ndarray) and samples.dtype == np.float64 else samples


def w2(a: Array, b: Array, **options: Any) -> float:
    """The root of ``w2_squared``, in units of x."""
    return math.sqrt(max(0.0, w2_squared(a, b, **options)))
