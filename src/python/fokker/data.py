"""Laws that data are drawn from."""

from __future__ import annotations

import os
from typing import Any, Union

import numpy as np

from . import _core
from ._arrays import NUMPY, Array, as_array, framework_of, is_array, path_of, refuse, whole


class DataSet:
    """A law to draw x_0 from: by its name, "blob", "circles2", "checker", or that of a file (a Gaussian mixture's .json, an array's
    .npy, .npz or .csv); or samples [N, d], float32 (lists and NumPy arrays of other types are taken as that), drawn uniformly with
    replacement.
    """

    def __init__(self, law: str | os.PathLike | Array) -> None:
        self._source = law
        self._law = _law_of("law", law)

    @property
    def name(self) -> str:
        return self._law.name

    @property
    def dimension(self) -> int:
        """d, or d + c where the last c columns are a condition."""
        return self._law.dimension

    def draw(self, n: int, *, seed: int = 0, first_index: int = 0, step: int = 0, like: Array = None) -> Array:
        """n draws [n, d], float32, in the framework and on the device of `like` (NumPy where it is not given). Draw i of
        (seed, step) is a function of those and first_index + i alone.
        """
        framework, place = (NUMPY, np.empty(0)) if like is None else (framework_of(like, "like"), like)
        output = framework.output((whole("n", n, 2**40), self.dimension), 32, place)
        with framework.on_device_of(place):
            self._law.draw(output.memory, whole("seed", seed), whole("first_index", first_index), whole("step", step),
                           framework.stream(place))
        return output.result()

    def __reduce__(self) -> tuple:
        return DataSet, (self._source,)

    def __repr__(self) -> str:
        return f"<fokker.DataSet: {self.name}, {self.dimension} columns>"


Law = Union[str, os.PathLike, Array, DataSet]


def _law_of(what: str, law: Any) -> Any:
    """What the library takes for a law."""
    if isinstance(law, (str, os.PathLike)):
        return _core.DataSet.named(path_of(what, law))
    samples = as_array(law, what)
    if not is_array(samples) or (isinstance(samples, np.ndarray) and samples.dtype.kind not in "fiu"):
        refuse(what, law, "a name, a file's name, samples [N, d], or a DataSet of one of those")
    if isinstance(samples, np.ndarray):
        samples = np.ascontiguousarray(samples, dtype=np.float32)
    framework = framework_of(samples, what)
    with framework.on_device_of(samples):
        return _core.DataSet.of(framework.given(samples), framework.stream(samples))


def data_of(law: Law) -> Any:
    """The library's law of an argument `data`: a DataSet, anything that DataSet takes, or a law of the library's."""
    if isinstance(law, _core.DataSet):
        return law
    return law._law if isinstance(law, DataSet) else _law_of("data", law)
