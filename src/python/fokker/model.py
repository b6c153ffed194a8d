"""Models and their fields."""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, Sequence

import numpy as np

from . import _core
from ._arrays import Array, Points, number, numbers_of, numpy_of, path_of, refuse, refuse_gradients, requires_gradients, text, whole

FIELDS = ("value", "dt", "score", "divergence", "hessian", "residual")
ADAPTIVE = ("tsit5", "dopri5", "bs32")  # the schemes whose steps follow a tolerance


def _text(what: str, value: Any) -> str:
    """The value of an option as the library's options have it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return json_of(what, value)
    if _is_row(value) and not any(_is_row(item) for item in value):
        return ",".join(_text(what, item) for item in value)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(what, value, "texts, numbers, and lists or objects of those")
    number(what, value)  # whole numbers may be too long to be one
    return repr(value)


def _is_row(value: Any) -> bool:
    """Whether it is a list, or an array that may be gone through as one."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def json_of(what: str, value: Any) -> str:
    """Parameters of an SDE."""
    try:
        if isinstance(value, Mapping):
            return json.dumps(dict(value))
    except (TypeError, ValueError):
        pass
    refuse(what, value, "a dict of texts and numbers")


def times_of(grid: Any) -> str | list[float]:
    return grid if isinstance(grid, str) else numbers_of("grid", grid)


def probes_of(probes: Any, law: Any, seed: Any, what: str = "seed") -> tuple[int, str, int]:
    return whole("probes", probes, 2**31 - 1), text("law", law, "gaussian"), whole(what, seed)


def model_of(value: Any, what: str = "model") -> Model:
    if not isinstance(value, _core.Model):
        refuse(what, value, "a fokker.Model")
    return value


def options_text(options: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(key, value) for key, value in options.items()}


class Model(_core.Model):
    """A forward SDE, dx = a(t) x dt + g(t) dW on [0, T], and what stands for its score: a network, the exact density of a
    Gaussian mixture, or a weighted sum of those. It does not change.

    Times are in the units of the horizon T, x in those of the data, densities in nats. Methods take x [N, d] and t, one time or
    [N], and, of a model that takes one, the condition [N, c] of each point; float32 or float64, dense and row-major, of NumPy,
    PyTorch, JAX or CuPy. They work where x is, in its precision, and give arrays of its framework. Lists of numbers count as
    NumPy arrays of float64. Methods may be called from several threads at once. What does not fit raises ``fokker.Error``.

    Models are made by ``fokker.load``, ``from_torch``, ``initialise``, ``mixture``, ``train``, ``compose`` and ``guided``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model_of(model))

    @property
    def sde(self) -> dict[str, Any]:
        """The forward SDE: its name and its parameters."""
        return {"name": self.sde_name, **json.loads(self.sde_parameters)}

    def __repr__(self) -> str:
        condition = f", condition of {self.condition_width}" if self.condition_width and not self.is_network else ""
        scaled = ", standardised" if self.standardisation()[0] else ""
        return f"<fokker.Model: {self.line()}, T {self.horizon:g}{condition}{scaled}>"

    def __reduce__(self) -> tuple:
        return _made, self.reduced()

    # ---- fields ----

    def fields(self, t: Any, x: Array, names: Sequence[str], *, condition: Any = None, probes: int = 0, law: str = "rademacher",
               seed: int = 0) -> dict[str, Array]:
        """Several fields in one evaluation: {name: array} for names of value [N], dt [N], score [N, d], divergence [N],
        hessian [N, d, d], residual [N]. `probes`, `law` and `seed` are those of ``divergence``.
        """
        if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
            refuse("names", names, f"a list of {', '.join(FIELDS)}")
        for name in names:
            if name not in FIELDS:
                raise _core.Error(f"the field {name!r} is asked for; allowed: {', '.join(FIELDS)}")
        points = Points(t, x, condition)
        refuse_gradients(names, t, x, condition)
        n, d = points.n, self.dimension
        shapes = {"score": tuple(points.x.shape), "hessian": (n, d * d)}
        outputs = {name: points.output(*shapes.get(name, (n,))) for name in names}
        points.call(self._evaluate, points.given(points.t), points.given(points.x), points.given(points.condition),
                    {name: output.memory for name, output in outputs.items()}, *probes_of(probes, law, seed), 0)
        results = {name: output.result() for name, output in outputs.items()}
        if "hessian" in results:
            results["hessian"] = results["hessian"].reshape(n, d, d)
        return results

    def value(self, t: Any, x: Array, *, condition: Any = None) -> Array:
        """φ(t, x) [N], log p_t(x) up to a function of t; of potentials. Differentiable by PyTorch in t and x."""
        if requires_gradients(t, x):
            from . import autograd

            return autograd.value(self, t, x, condition)
        return self.fields(t, x, ["value"], condition=condition)["value"]

    def dt(self, t: Any, x: Array, *, condition: Any = None) -> Array:
        """∂_t φ(t, x) [N], of potentials."""
        return self.fields(t, x, ["dt"], condition=condition)["dt"]

    def score(self, t: Any, x: Array, *, condition: Any = None) -> Array:
        """∇ log p_t(x) [N, d]. Differentiable by PyTorch in x; and in t, on the CPU, of networks without a time branch."""
        if requires_gradients(t, x):
            from . import autograd

            return autograd.score(self, t, x, condition)
        return self.fields(t, x, ["score"], condition=condition)["score"]

    def divergence(self, t: Any, x: Array, *, condition: Any = None, probes: int = 0, law: str = "rademacher",
                   seed: int = 0) -> Array:
        """∇·s [N], the Laplacian of a potential: exactly, or with `probes` above 0 by Hutchinson's mean over so many, whose law is
        "rademacher" or "gaussian"; probe j of point i is a function of (seed, i, j).
        """
        return self.fields(t, x, ["divergence"], condition=condition, probes=probes, law=law, seed=seed)["divergence"]

    def hessian(self, t: Any, x: Array, *, condition: Any = None) -> Array:
        """∂_j s_i [N, d, d] at [n, i, j], exactly; d up to 64."""
        return self.fields(t, x, ["hessian"], condition=condition)["hessian"]

    def hessian_vector(self, t: Any, x: Array, direction: Array, *, condition: Any = None) -> Array:
        """(∂s/∂x) direction [N, d], direction [N, d]; in any dimension."""
        points = Points(t, x, condition)
        refuse_gradients(["hessian_vector"], t, x, condition, direction)
        along = points.like(direction, "direction")
        output = points.output(*points.x.shape)
        points.call(self._hessian_vector, points.given(points.t), points.given(points.x), points.given(points.condition),
                    points.given(along), output.memory)
        return output.result()

    def residual(self, t: Any, x: Array, *, condition: Any = None, probes: int = 0, law: str = "rademacher",
                 seed: int = 0) -> Array:
        """R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²) [N] with f = a x: what is left of the Fokker–Planck equation; of potentials.
        The Laplacian as ``divergence``.
        """
        found = self.fields(t, x, ["residual"], condition=condition, probes=probes, law=law, seed=seed)
        return found["residual"]

    def log_density(self, t: float, x: Array, *, condition: Any = None, scheme: str = "tsit5", tolerance: float = 1e-5,
                    grid: str | Sequence[float] | None = None, probes: int = 0, law: str = "rademacher", seed: int = 0) -> Array:
        """log density [N] of the probability flow's law at x [N, d] and one time t below T: the flow is followed from there to T, and
        d log p/dt = −∇·(a x − ½ g² s) integrated along it.

        scheme: "tsit5", "dopri5" or "bs32", whose steps follow `tolerance`, in x's precision; or "heun", "euler" or "rk4" along
        `grid`, in float32: a text of the command line's, as "geometric:150:1e-3", or times that fall from T, the last of them t.
        The divergence as ``divergence``; probes stay fixed along a path. Raises Error where a path does not reach T.
        """
        points = Points(0.0, x, condition)
        refuse_gradients(["log_density"], t, x, condition)
        t = number("t", t)
        output = points.output(points.n)
        given = (self, points.given(points.x), points.given(points.condition), output.memory)
        how = probes_of(probes, law, seed)
        tolerance = number("tolerance", tolerance)
        if text("scheme", scheme, "heun") in ADAPTIVE:
            if grid is not None:
                raise _core.Error(f"a grid is given to {scheme}, whose steps follow the tolerance; allowed: heun, euler or rk4 with "
                                  "it")
            points.call(_core.log_density_adaptively, *given, t, scheme, tolerance, *how)
        else:
            if grid is None:
                raise _core.Error(f"{scheme} is given without a grid; allowed: with one whose last time is t, or tsit5, dopri5, "
                                  "bs32")
            times = times_of(grid)
            end = _core.end_of(self, times)
            if abs(end - t) > 1e-6 * self.horizon:
                raise _core.Error(f"the grid ends at {end:g}, and the log-density is asked for at t = {t:g}; allowed: the "
                                  "same time")
            points.call(_core.log_density, *given, times, scheme, *how)
        return output.result()

    # ---- other models of it ----

    def given(self, condition: Sequence[float]) -> Model:
        """The model given one condition for all samples, which takes none any more."""
        return self._given(numpy_of("condition", condition).ravel().tolist())

    @property
    def parameters(self) -> np.ndarray:
        """A copy of a network's parameters, float64 [P]: layer after layer those of the condition's branch, the time's, and the
        network, W [outputs, inputs] row-major, whose columns for the condition come first, those for the time next, and then b.
        """
        return self.parameter_vector

    def replaced(self, parameters: Array) -> Model:
        """The same network with other parameters [P]."""
        values = parameters.detach() if requires_gradients(parameters) else parameters
        return self._replaced(numpy_of("parameters", values).ravel().tolist())

    def coefficients(self, t: float) -> tuple[float, float, float, float]:
        """Of the forward SDE at a time: drift a, squared diffusion g², the mean's factor m and the variance σ² of x_t given x_0."""
        return self._coefficients(number("t", t))

    def save(self, path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
        """To a .safetensors file (a network, in float32) or a .json file (a Gaussian mixture). `metadata` is kept in it."""
        kept = {} if metadata is None else metadata
        if not isinstance(kept, Mapping) or not all(isinstance(part, str) for pair in kept.items() for part in pair):
            refuse("metadata", metadata, "a dict of texts")
        self._save(path_of("path", path), dict(kept))


def _made(name: str, arguments: tuple) -> Model:
    """A model that was pickled."""
    return getattr(_core, name)(*arguments)


def load(path: str | os.PathLike, **options: Any) -> Model:
    """A model file: a network (.safetensors), a Gaussian mixture or a sum of models (.json). What the file does not say, or says
    otherwise, is in `options`: activation, output, inputs, layers, sde, sde_parameters, …
    """
    return _core.load_model(path_of("path", path), options_text(options))


def initialise(*, seed: int = 0, **options: Any) -> Model:
    """A network that is not trained, with the initial weights of a seed. Options with their defaults: dimension 2, hidden
    (80, 80, 80), activation "softplus", beta 100 (or another activation's parameter), output "potential", inputs "t,x",
    data_deviation 1, sde "ou", sde_parameters of the SDE's defaults.
    """
    return _core.initialise(options_text(options), whole("seed", seed))


def mixture(weights: Any, means: Any, covariances: Any, *, sde: str = "ou", sde_parameters: Mapping[str, Any] | None = None) -> Model:
    """The exact model of data from Σ_k w_k N(μ_k, C_k): weights [K], means [K, d], covariances [K, d, d], [K, d] (diagonals), [K]
    or one number (multiples of the identity).
    """
    weights, means, covariances = numpy_of("weights", weights), numpy_of("means", means), numpy_of("covariances", covariances)
    if weights.ndim != 1 or means.ndim != 2 or len(weights) != len(means):
        raise _core.Error(f"weights of shape {list(weights.shape)} and means of {list(means.shape)} given; allowed: [K] and [K, d]")
    k, d = means.shape
    if covariances.ndim < 2:
        covariances = np.broadcast_to(covariances.reshape(-1, 1), (k, d)) if covariances.size in (1, k) else covariances
    if covariances.shape == (k, d):
        covariances = covariances[:, :, None] * np.eye(d)
    if covariances.shape != (k, d, d):
        raise _core.Error(f"covariances of shape {list(covariances.shape)} given; allowed for {k} components in {d} dimensions: "
                          f"[{k}, {d}, {d}], [{k}, {d}], [{k}] or a number")
    return _core.mixture(weights.tolist(), means.ravel().tolist(), covariances.ravel().tolist(), d, text("sde", sde, "ou"),
                         "" if sde_parameters is None else json_of("sde_parameters", sde_parameters), [], [])


def compose(terms: Sequence[tuple[float, Model]]) -> Model:
    """The model with the score Σ_k w_k s_k of terms (w_k, model), which have one SDE and one dimension: a product of experts."""
    if not isinstance(terms, (list, tuple)) or not all(isinstance(term, (list, tuple)) and len(term) == 2 for term in terms):
        refuse("terms", terms, "a list of pairs (weight, model)")
    return _core.compose([(number("a weight of terms", weight), model_of(model, "a model of terms")) for weight, model in terms])


def guided(given: Model, without: Model, scale: float) -> Model:
    """s_without + scale (s_given − s_without): classifier-free guidance, or autoguidance by a worse model."""
    return _core.guided(model_of(given, "given"), model_of(without, "without"), number("scale", scale))
