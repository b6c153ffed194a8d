"""Whose arrays they are: NumPy's, PyTorch's, JAX's or CuPy's.

Arrays go to the library by DLPack without a copy. What comes out is allocated here, by the framework of what was given, on its
device; work on CUDA is queued on the stream that is current there.
"""

from __future__ import annotations

import contextlib
import numbers
import operator
import os
import sys
from typing import Any, Callable, NoReturn, Sequence

import numpy as np

from . import _core

Array = Any  # of one of the four frameworks

BITS = {"float32": 32, "float64": 64}


def shown(value: Any) -> str:
    """A value as part of a sentence: in one line, and not long."""
    try:
        line = " ".join(repr(value).split())
    except ValueError:  # of whole numbers of thousands of digits
        line = f"a {type(value).__name__} that is too long to be shown"
    return line if len(line) <= 100 else f"{line[:97]}..."


def refuse(what: str, value: Any, allowed: str) -> NoReturn:
    raise _core.Error(f"{what} is {shown(value)}; allowed: {allowed}")


def whole(what: str, value: Any, most: int = 2**64 - 1) -> int:
    """A whole number from 0 to `most`."""
    try:
        found = operator.index(value)
    except (TypeError, ValueError):
        found = -1
    if not 0 <= found <= most:
        refuse(what, value, f"a whole number from 0 to {most}")
    return found


def number(what: str, value: Any) -> float:
    """A real number, which may be infinite."""
    try:
        if not isinstance(value, (str, bytes, complex, np.complexfloating)):
            return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    refuse(what, value, "a number")


def numbers_of(what: str, values: Any) -> list[float]:
    """Numbers in one row, of a list or an array."""
    rows = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(rows, (list, tuple)):
        refuse(what, values, "numbers in a list or an array")
    return [number(f"a number of {what}", value) for value in rows]


def text(what: str, value: Any, one: str) -> str:
    """A name, as `one` is; which there are is known where it is used."""
    if not isinstance(value, str):
        refuse(what, value, f"a text, as {one!r}")
    return value


def flag(what: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        refuse(what, value, "True or False")
    return bool(value)


def path_of(what: str, value: Any) -> str:
    try:
        return os.fsdecode(value)
    except TypeError:
        refuse(what, value, "a file's name")


def function_of(what: str, value: Any) -> Callable | None:
    if value is not None and not callable(value):
        refuse(what, value, "a function, or None")
    return value


class Output:
    """Memory that the library writes, as it takes it, and what makes the caller's array of it afterwards."""

    def __init__(self, memory: Any, result: Callable[[], Array]) -> None:
        self.memory, self.result = memory, result


class NumPy:
    name = "numpy"

    def bits(self, array: Array, what: str) -> int:
        """32 or 64, of floating point numbers."""
        name = str(array.dtype).removeprefix("torch.")
        if name not in BITS:
            raise _core.Error(f"{what} is of type {name}; allowed: float32, float64")
        return BITS[name]

    def given(self, array: Array) -> Any:
        """What the library takes for the array."""
        return array

    def output(self, shape: Sequence[int], bits: int, like: Array) -> Output:
        return self.written(np.empty(shape, f"float{bits}"))

    def written(self, array: Array) -> Output:
        """An array of the caller's, to be written."""
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise _core.Error("an array that is read-only is given to be written; allowed: one that may be written")
        return Output(self.given(array), lambda: array)

    def full(self, number: float, bits: int, like: Array) -> Array:
        """[1], on the device of another array."""
        return np.full(1, number, f"float{bits}")

    def one(self, t: Any, bits: int, like: Array) -> Array:
        """A number as full()."""
        return self.full(number("t", t), bits, like)

    def stream(self, array: Array) -> int:
        """The framework's current CUDA stream on the array's device."""
        return 0

    def on_device_of(self, array: Array) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def is_on_cuda(self, array: Array) -> bool:
        return False


class PyTorch(NumPy):
    name = "torch"

    @property
    def torch(self) -> Any:
        return sys.modules["torch"]

    def given(self, array: Array) -> Any:
        array = array.detach()
        # -1: in the order of the stream that is current, on which the work is too.
        return array.__dlpack__(stream=-1) if array.is_cuda else array

    def output(self, shape: Sequence[int], bits: int, like: Array) -> Output:
        return self.written(self.torch.empty(tuple(shape), dtype=getattr(self.torch, f"float{bits}"), device=like.device))

    def full(self, number: float, bits: int, like: Array) -> Array:
        return self.torch.full((1,), number, dtype=getattr(self.torch, f"float{bits}"), device=like.device)

    def one(self, t: Any, bits: int, like: Array) -> Array:
        if isinstance(t, self.torch.Tensor) and not t.is_complex():  # without waiting for a GPU
            return t.detach().to(like).reshape(1)
        return super().one(t, bits, like)

    def stream(self, array: Array) -> int:
        return self.torch.cuda.current_stream(array.device).cuda_stream if array.is_cuda else 0

    def on_device_of(self, array: Array) -> contextlib.AbstractContextManager:
        return self.torch.cuda.device(array.device) if array.is_cuda else contextlib.nullcontext()

    def is_on_cuda(self, array: Array) -> bool:
        return array.is_cuda


class Jax(NumPy):
    name = "jax"

    def bits(self, array: Array, what: str) -> int:
        if isinstance(array, sys.modules["jax"].core.Tracer):
            raise _core.Error(f"{what} is a traced array of jax.jit, grad or vmap; allowed: arrays with numbers, outside of those")
        return super().bits(array, what)

    def given(self, array: Array) -> Any:
        # JAX has no stream that is current: its work has ended, and ours ends in result().
        return array.block_until_ready()

    def output(self, shape: Sequence[int], bits: int, like: Array) -> Output:
        jax = sys.modules["jax"]
        if 0 in shape:
            empty = jax.numpy.zeros(shape, f"float{bits}")
            return Output(np.empty(shape, f"float{bits}"), lambda: empty)
        memory = _core.empty(list(shape), bits == 64, self.is_on_cuda(like), self._device(like).id)

        def result() -> Array:
            _core.wait(self.is_on_cuda(like), self._device(like).id)
            return jax.dlpack.from_dlpack(memory)

        return Output(memory, result)

    def written(self, array: Array) -> Output:
        raise _core.Error("an array of JAX is given to be written, which cannot be; allowed: one of NumPy, PyTorch or CuPy")

    def full(self, number: float, bits: int, like: Array) -> Array:
        jax = sys.modules["jax"]
        return jax.device_put(np.full(1, number, f"float{bits}"), self._device(like))

    def _device(self, array: Array) -> Any:
        return next(iter(array.devices()))

    def is_on_cuda(self, array: Array) -> bool:
        return self._device(array).platform in ("gpu", "cuda")


class CuPy(NumPy):
    name = "cupy"

    def given(self, array: Array) -> Any:
        with array.device:
            return array.__dlpack__(stream=-1)

    def output(self, shape: Sequence[int], bits: int, like: Array) -> Output:
        with like.device:  # which is not always the current one
            return self.written(sys.modules["cupy"].empty(tuple(shape), f"float{bits}"))

    def full(self, number: float, bits: int, like: Array) -> Array:
        with like.device:
            return sys.modules["cupy"].full(1, number, f"float{bits}")

    def stream(self, array: Array) -> int:
        with array.device:
            return sys.modules["cupy"].cuda.get_current_stream().ptr

    def on_device_of(self, array: Array) -> contextlib.AbstractContextManager:
        return array.device

    def is_on_cuda(self, array: Array) -> bool:
        return True


NUMPY, TORCH, JAX, CUPY = NumPy(), PyTorch(), Jax(), CuPy()


def framework_of(array: Array, what: str = "x") -> NumPy:
    """The framework of an array; a package that is not imported has made none."""
    if isinstance(array, np.ndarray):
        return NUMPY
    for name, framework, kind in (("torch", TORCH, "Tensor"), ("jax", JAX, "Array"), ("cupy", CUPY, "ndarray")):
        module = sys.modules.get(name)
        if module is not None and isinstance(array, getattr(module, kind, ())):
            return framework
    raise _core.Error(f"{what} is a {type(array).__name__}; allowed: an array of NumPy, PyTorch, JAX or CuPy")


def is_array(value: Any) -> bool:
    try:
        framework_of(value)
    except _core.Error:
        return False
    return True


def is_plain(value: Any) -> bool:
    """Whether it is numbers in lists and no array."""
    return isinstance(value, (list, tuple, numbers.Number, np.generic))


def as_array(value: Any, what: str = "x") -> Array:
    """Lists of numbers become NumPy arrays of float64; arrays stay what they are."""
    if not is_plain(value):
        return value
    if isinstance(value, numbers.Number):
        value = number(what, value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # rows of several lengths, or what is no number
        array = None
    if array is None or array.dtype.kind not in "fiu":  # texts and None too would be cast
        refuse(what, value, "an array, or lists of numbers in rows of one length")
    return array.astype(np.float64)


def requires_gradients(*arrays: Any) -> bool:
    """Whether PyTorch is to differentiate in one of them."""
    return any(type(array).__module__.startswith("torch") and getattr(array, "requires_grad", False) for array in arrays) \
        and TORCH.torch.is_grad_enabled()


def refuse_gradients(names: Sequence[str], *arrays: Any) -> None:
    if requires_gradients(*arrays):
        raise _core.Error(f"{', '.join(names)} of tensors that require gradients: autograd goes through value and score of t "
                          "and x, one at a time; allowed for the others: detached tensors, or torch.no_grad()")


def numpy_of(what: str, value: Any, allowed: str = "numbers, in lists or an array") -> np.ndarray:
    """Numbers, lists of them, or an array of any framework without gradients, as a NumPy array of float64."""
    refuse_gradients([what], value)
    try:
        array = as_array(value, what)
        if str(array.dtype).removeprefix("torch.").startswith(("float", "int", "uint", "bfloat")):
            if type(array).__module__.startswith("torch"):
                array = array.detach().cpu().double()  # NumPy has no bfloat16
            return np.asarray(array.get() if type(array).__module__.startswith("cupy") else array, dtype=np.float64)
    except (AttributeError, TypeError, ValueError):
        pass
    refuse(what, value, allowed)


class Points:
    """Points of a call in one framework: x, t, and the condition of each or None."""

    def __init__(self, t: Any, x: Any, condition: Any = None) -> None:
        self.x = as_array(x, "x")
        self.framework = framework_of(self.x)
        self.bits = self.framework.bits(self.x, "x")
        if t is None or isinstance(t, str):
            refuse("t", t, "a number, or an array of times")
        if isinstance(t, numbers.Number) or getattr(t, "shape", None) == ():  # one time for all, whatever its type
            t = self.framework.one(t, self.bits, self.x)
        elif is_plain(t):
            t = np.asarray(as_array(t, "t"), dtype=f"float{self.bits}")
        framework_of(t, "t").bits(t, "t")
        self.t = t
        self.condition = None if condition is None else self.like(condition, "condition")

    @property
    def n(self) -> int:
        return int(self.x.shape[0]) if len(self.x.shape) else 0

    def like(self, value: Any, what: str) -> Array:
        """An array beside x; lists become one of its type."""
        if is_plain(value):
            return np.asarray(as_array(value, what), dtype=f"float{self.bits}")
        framework_of(value, what).bits(value, what)
        return value

    def given(self, array: Array) -> Any:
        return None if array is None else framework_of(array).given(array)

    def output(self, *shape: int) -> Output:
        return self.framework.output(shape, self.bits, self.x)

    def call(self, function: Any, *arguments: Any) -> Any:
        """The function with the arguments and the stream, on the device of x."""
        with self.framework.on_device_of(self.x):
            return function(*arguments, self.framework.stream(self.x))
