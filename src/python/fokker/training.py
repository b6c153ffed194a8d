"""Training."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable, NamedTuple, Sequence

from . import _core
from ._arrays import flag, function_of, path_of, whole
from .data import Law, data_of
from .model import Model, initialise, model_of
from .sampling import on_cuda


class Record(NamedTuple):
    """What an iteration found, before its update."""

    iteration: int  # counted from 0
    denoising: float  # the denoising loss, weighted
    residual: float  # mean R², or its estimate by probes, without its weight; 0 where residual_weight is 0
    total: float
    gradient_norm: float  # before clipping
    rate: float  # Adam's


class Progress:
    """A line on standard error that is written over; nothing where that is no terminal, unless it is asked for."""

    def __init__(self, wanted: bool | None, first: int, iterations: int) -> None:
        self.on = sys.stderr.isatty() if wanted is None else wanted
        self.first, self.iterations = first, iterations
        self.begun, self.written = time.monotonic(), 0.0

    def show(self, record: Record, last: bool = False) -> None:
        now = time.monotonic()
        if not self.on or (not last and now - self.written < 0.2):
            return
        self.written = now
        done = record.iteration + 1
        left = (now - self.begun) * (self.iterations - done) / max(1, done - self.first)
        bar = ("#" * (30 * done // self.iterations)).ljust(30, ".")
        residual = f", residual {record.residual:.4g}" if record.residual else ""
        line = f"[{bar}] {done}/{self.iterations}, denoising {record.denoising:.4g}{residual}, {left:.0f} s left"
        print(f"\r{line:<100}", end="\n" if last else "", file=sys.stderr, flush=True)


class Trainer:
    """Adam on the denoising loss + residual_weight · mean R², from a model's parameters on. Iteration k draws its points from
    (seed, k) alone, so that a trainer that was stopped, saved and resumed ends with the same bits.

    model: a network, with its forward SDE. data: as ``fokker.gap`` takes them; of a network that takes a condition the last columns
    are it. options, with the library's defaults: iterations 5000, denoising_points 4096, collocation_points 1024, residual_weight 0,
    residual_probes 0 (R² exactly; k: the product of two estimates of R by k probes each), probe_law "rademacher", box 3.5, time_law
    "importance", log_sigma_mean −1.2, log_sigma_deviation 1.2, loss_weight "unit", schedule "one-cycle", peak_rate 5e-3, average
    "exponential", average_decay 0.995, average_fraction 0.2, condition_drop 0, clip_norm 0, seed 0; the command line's help and
    trainer.hpp say what they are. device: "cpu" or "cuda".
    """

    OPTIONS = ("iterations", "denoising_points", "collocation_points", "residual_weight", "residual_probes", "probe_law",
               "box", "time_law", "log_sigma_mean", "log_sigma_deviation", "loss_weight", "schedule", "peak_rate", "average",
               "average_decay", "average_fraction", "condition_drop", "clip_norm", "seed")

    def __init__(self, model: Model, data: Law, *, device: str = "cpu", **options: Any) -> None:
        for name in options:
            if name not in self.OPTIONS:
                raise _core.Error(f"the option {name} is not known; allowed: {', '.join(self.OPTIONS)}")
        self._trainer = _core.Trainer(model_of(model), data_of(data), options, on_cuda(device))
        self.history: list[Record] = []

    @classmethod
    def resume(cls, path: str | os.PathLike, data: Law, *, device: str = "cpu") -> Trainer:
        """Goes on from a file that ``save_state`` wrote, on the same data."""
        trainer = cls.__new__(cls)
        trainer._trainer = _core.Trainer(path_of("path", path), data_of(data), on_cuda(device))
        trainer.history = []
        return trainer

    def run(self, count: int | None = None, *, callback: Callable[[Record], Any] | None = None,
            progress: bool | None = None) -> list[Record]:
        """Up to `count` more iterations, or all that are left, and their records, which `history` has too.

        callback: called with every record; False ends the run after the iterations that have begun. progress: a bar on standard
        error; where it is not given, if that is a terminal. On Ctrl-C, and on an exception of the callback, the iterations that have
        begun are finished, the trainer keeps what they did, and the exception goes on; run() goes on from there.
        """
        function_of("callback", callback)
        bar = Progress(None if progress is None else flag("progress", progress), self.iteration, self.iterations)
        records: list[Record] = []

        def news(found: Sequence[tuple]) -> bool:
            goes_on = True
            for numbers in found:
                records.append(Record(*numbers))
                self.history.append(records[-1])
                bar.show(records[-1])
                if callback is not None and callback(records[-1]) is False:
                    goes_on = False
            return goes_on

        try:
            self._trainer.run_with(self.iterations if count is None else whole("count", count), news)
        finally:
            if records:
                bar.show(records[-1], last=True)
        return records

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return self._trainer.iteration

    @property
    def iterations(self) -> int:
        """How many there are in all."""
        return self._trainer.iterations

    @property
    def model(self) -> Model:
        """What was trained so far, averaged where the options say so."""
        return self._trainer.make_model()

    def save_state(self, path: str | os.PathLike) -> None:
        """Everything that is needed to go on, in one safetensors file."""
        self._trainer.save_state_to(path_of("path", path))

    def __repr__(self) -> str:
        return f"<fokker.Trainer: {self.iteration} of {self.iterations} iterations>"


def train(data: Law, model: Model | None = None, *, state: str | os.PathLike | None = None,
          callback: Callable[[Record], Any] | None = None, progress: bool | None = None, device: str = "cpu",
          **options: Any) -> Model:
    """Trains a model on data and returns it; the options are those of ``Trainer``.

    model: where it begins; where it is not given, a potential of (t, x) with three layers of 80 softplus(20) units under ou, as the
    command line trains, initialised by the seed. Others are made by ``fokker.initialise``.
    state: a file for the state. Where it is there already, the training goes on from it, with its options; it is written at the end.
    On Ctrl-C the iterations that have begun are finished, the state is written to `state`, and KeyboardInterrupt is raised, whose
    attribute `trainer` is the ``Trainer`` with what was done: trainer.model, trainer.save_state(…), trainer.run(); so it is with
    TrainingStopped and an exception of the callback. A second Ctrl-C while the state is being written leaves the earlier file.
    """
    function_of("callback", callback)
    state = None if state is None else path_of("state", state)
    law = data_of(data)
    if state is not None and os.path.exists(state):
        if model is not None or options:
            raise _core.Error(f"the state '{state}' is there, and a model or options are given; allowed: to go on with "
                              "those of the state alone, or another file")
        trainer = Trainer.resume(state, law, device=device)
    else:
        if model is None:
            model = initialise(dimension=law.dimension, beta=20, seed=options.get("seed", 0))
        trainer = Trainer(model, law, device=device, **options)
    try:
        try:
            trainer.run(callback=callback, progress=progress)
        finally:
            if state is not None:
                trainer.save_state(state)
    except BaseException as error:
        error.trainer = trainer  # type: ignore[attr-defined]
        raise
    return trainer.model
