"""Hand-written kernels for score-based diffusion.

A model is a forward SDE and what stands for its score, an MLP that models a log-density φ(t, x) ≈ log p_t(x) or its gradient::

    model = fokker.load("circles2.safetensors")        # or fokker.from_torch(net, …), fokker.train("circles2")
    s = model.score(0.5, x)                             # NumPy in, NumPy out; PyTorch in, PyTorch out; JAX, CuPy
    samples = fokker.sample(model, 10000, scheme="heun")
    print(fokker.gap(model, "circles2"))                # the distance between the reverse SDE's law and the flow's

``fokker.autograd`` has losses that PyTorch differentiates in a network's parameters, ``fokker.plot`` the report's figures.
Everything that is refused raises ``fokker.Error``, a ValueError with one sentence.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import _core
from ._core import Error, TrainingStopped
from .data import DataSet
from .model import Model, compose, guided, initialise, load, mixture
from .sampling import Gap, gap, sample, w2, w2_squared
from .training import Record, Trainer, train

__version__: str = _core.version
backends = _core.backends

__all__ = ["DataSet", "Error", "Gap", "Model", "Record", "Trainer", "TrainingStopped", "backends", "compose", "gap", "guided",
           "initialise", "load", "mixture", "sample", "train", "w2", "w2_squared"]
# What needs PyTorch or matplotlib is imported when it is asked for, and not by *: a module, or what a module has.
_LATER = {"autograd": "autograd", "plot": "plot", "from_torch": "_from_torch", "UnmappableModule": "_from_torch"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fokker' has no attribute {name!r}")
    module = importlib.import_module(f"fokker.{_LATER[name]}")
    globals()[name] = module if _LATER[name] == name else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
