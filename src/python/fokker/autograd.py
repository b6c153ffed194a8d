"""PyTorch's autograd through the library's own derivatives.

``Model.value`` and ``Model.score`` of tensors that require gradients are differentiable: the value in x and t, and twice; the score
in x by a Hessian–vector product (a potential's Hessian is symmetric; of a vector net the Jacobian is formed, d up to 64), and in t, on
the CPU, for networks that take the time itself. A network's parameters are reached by the losses::

    model = fokker.from_torch(net, …)                        # the network as fokker has it, once
    residual = fokker.autograd.ResidualLoss(model, net)
    loss = own_loss(net) + weight * residual(t, x)           # in the training loop; loss.backward()
"""

from __future__ import annotations

import math
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from . import _core
from ._arrays import TORCH, Points, numpy_of, refuse, refuse_gradients
from .model import Model, model_of


def _tensors(t: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """t as [N] beside x, so that autograd sums what one time for all has of each point."""
    if not isinstance(x, torch.Tensor):
        refuse("x", x, "a torch tensor")
    if not isinstance(t, torch.Tensor):
        t = torch.as_tensor(numpy_of("t", t), dtype=x.dtype, device=x.device)
    if x.dim() == 0:
        raise _core.Error("x has no axes; allowed: [N, d]")
    if t.dim() > 1 or (t.dim() == 1 and t.shape[0] not in (1, x.shape[0])):
        raise _core.Error(f"t has shape {list(t.shape)}; allowed here: [1] or [{x.shape[0]}]")
    if t.dim() == 0:
        t = t.to(x)  # a number, whatever its type
    return t.expand(x.shape[0]).contiguous(), x


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, x: torch.Tensor, model: Model, condition: Any) -> torch.Tensor:
        ctx.save_for_backward(t, x)
        ctx.model, ctx.condition = model, condition
        return model.value(t, x, condition=condition)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple:
        t, x = ctx.saved_tensors
        of_t = of_x = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():
                raise _core.Error("a second derivative of the value in t is asked for; allowed: in x, with a t that requires no gradient")
            of_t = slope * ctx.model.dt(t, x, condition=ctx.condition)
        if ctx.needs_input_grad[1]:
            of_x = slope.reshape(-1, *[1] * (x.dim() - 1)) * ctx.model.score(t, x, condition=ctx.condition)
        return of_t, of_x, None, None


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, x: torch.Tensor, model: Model, condition: Any) -> torch.Tensor:
        ctx.save_for_backward(t, x)
        ctx.model, ctx.condition = model, condition
        return model.score(t, x, condition=condition)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple:
        t, x = ctx.saved_tensors
        slope = slope.contiguous()
        of_t = of_x = None
        if ctx.needs_input_grad[0]:
            rate = torch.empty_like(x)
            ctx.model.__dict__.setdefault("_rates", _core.TimeDerivatives(ctx.model)).evaluate(t.detach(), x.detach(), rate)
            of_t = (slope * rate).reshape(x.shape[0], -1).sum(1)
        if ctx.needs_input_grad[1]:
            if ctx.model.is_potential:
                of_x = ctx.model.hessian_vector(t, x, slope, condition=ctx.condition)
            else:
                jacobian = ctx.model.hessian(t, x, condition=ctx.condition)
                of_x = torch.einsum("ni,nij->nj", slope.reshape(x.shape[0], -1), jacobian).reshape(x.shape)
        return of_t, of_x, None, None


def value(model: Model, t: Any, x: torch.Tensor, condition: Any = None) -> torch.Tensor:
    """``Model.value``, differentiable in t and x."""
    refuse_gradients(["value"], condition)
    return _Value.apply(*_tensors(t, x), model_of(model), condition)


def score(model: Model, t: Any, x: torch.Tensor, condition: Any = None) -> torch.Tensor:
    """``Model.score``, differentiable in t and x."""
    refuse_gradients(["score"], condition)
    return _Score.apply(*_tensors(t, x), model_of(model), condition)


def parameters_of(module: torch.nn.Module, model: Model) -> torch.Tensor:
    """The parameters [P] of a model's network, in its order (``Model.parameters``), from those of the module that it was made of, so
    that gradients reach the module's. Layers are found by their names; columns for the time that stand last in the module are moved
    to the front. Raises Error where the two differ in more than that, as where ``from_torch`` added units that carry connections.
    """
    return _Parameters(module, model)()


class _Parameters:
    """Where each of a model's parameters is in a module, found once, by its numbers."""

    def __init__(self, module: torch.nn.Module, model: Model) -> None:
        if not isinstance(module, torch.nn.Module):
            refuse("module", module, "a torch.nn.Module")
        self.module = module
        self.pieces: list[tuple[str | None, int, tuple[int, ...]]] = []  # name (None: zeros), columns to move to the front, shape
        model_of(model)
        try:
            self._find(model)
        except _core.Error:
            for name, count in self._carrying(model):
                raise _core.Error(f"the model has {count} units in its layer '{name}' that carry connections past it, which are no "
                                  "parameters of the module; allowed: modules whose layers are the model's") from None
            raise

    @staticmethod
    def _carrying(model: Model) -> Iterator[tuple[str, int]]:
        """The hidden layers that end with units σ(Q a) and σ(−Q a), as from_torch adds them, and how many those are."""
        wanted, at = model.parameters, 0
        for name, outputs, inputs in model.layers[:-1]:
            weight = wanted[at:at + outputs * inputs].reshape(outputs, inputs)
            at += (inputs + 1) * outputs
            bias = wanted[at - outputs:at]
            for half in range(outputs // 2, 0, -1):
                above, below = weight[outputs - 2 * half:outputs - half], weight[outputs - half:]
                if above.any(axis=1).all() and not bias[outputs - 2 * half:].any() and _Parameters._same(above, -below):
                    yield name, 2 * half
                    break

    def _find(self, model: Model) -> None:
        own, wanted, at = self._tensors(), model.parameters, 0
        for (name, outputs, inputs), leading in zip(model.layers, model.leading):
            weight = wanted[at:at + outputs * inputs].reshape(outputs, inputs)
            self.pieces.append((f"{name}.weight", self._moved(own, name, weight, leading), weight.shape))
            at += outputs * inputs
            bias = own.get(f"{name}.bias")
            found = np.zeros(outputs) if bias is None else self._numbers(bias).ravel()
            if found.shape != (outputs,) or not self._same(found, wanted[at:at + outputs]):
                raise _core.Error(f"the bias of the layer '{name}' is not that of the module; allowed: the module that the model "
                                  "was made of, as it was then")
            self.pieces.append((None if bias is None else f"{name}.bias", 0, (outputs,)))
            at += outputs

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Those that the module has now: others than before after load_state_dict(assign=True)."""
        return {**dict(self.module.named_buffers()), **dict(self.module.named_parameters())}

    @staticmethod
    def _numbers(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().cpu().numpy()

    @staticmethod
    def _same(a: np.ndarray, b: np.ndarray) -> bool:
        """Up to the rounding of a model file, which is in float32."""
        return bool(np.all(np.abs(a - b) <= 1e-6 * np.abs(b) + 1e-30))

    @classmethod
    def _moved(cls, own: dict[str, torch.Tensor], name: str, wanted: np.ndarray, leading: tuple[int, int]) -> int:
        weight = own.get(f"{name}.weight")
        if weight is None or tuple(weight.shape) != wanted.shape:
            found = "has none" if weight is None else f"has one of shape {list(weight.shape)}"
            raise _core.Error(f"the layer '{name}' has a weight {list(wanted.shape)}, and the module {found} of its name; "
                              "allowed: the module that the model was made of")
        numbers = cls._numbers(weight)
        condition, time = leading
        fits = [columns for columns in sorted({n % wanted.shape[1] for n in (0, time, condition, condition + time)})
                if cls._same(np.roll(numbers, columns, axis=1), wanted)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise _core.Error(f"the weight of the layer '{name}' is that of the module with {', '.join(map(str, fits))} of its last "
                              "columns moved to the front; allowed: weights that tell its columns apart")
        raise _core.Error(f"the weight of the layer '{name}' is not that of the module; allowed: the module that the model was "
                          "made of, as it was then")

    def __call__(self) -> torch.Tensor:
        own, like, parts = self._tensors(), next(self.module.parameters()), []
        for name, columns, shape in self.pieces:
            tensor = like.new_zeros(shape) if name is None else own.get(name)
            if tensor is None or tensor.numel() != math.prod(shape):
                found = "none" if tensor is None else f"one of shape {list(tensor.shape)}"
                raise _core.Error(f"the module has {found} for '{name}', of {list(shape)} when the loss was made; allowed: the module "
                                  "with the same layers")
            parts.append((tensor.roll(columns, dims=1) if columns else tensor).reshape(-1))
        return torch.cat(parts)


class _LossFunction(torch.autograd.Function):
    """values[which] of Loss::evaluate(), with the gradient that comes with it."""

    @staticmethod
    def forward(ctx: Any, parameters: torch.Tensor, loss: Any, noisy: tuple, free: tuple, weight: float) -> torch.Tensor:
        points = Points(noisy[0] if noisy else free[0], noisy[1] if noisy else free[1])
        theta = parameters.detach().contiguous()
        if theta.dtype != points.x.dtype or theta.device != points.x.device:
            raise _core.Error(f"parameters of {str(theta.dtype).removeprefix('torch.')} on {theta.device} and points of "
                              f"{str(points.x.dtype).removeprefix('torch.')} on {points.x.device} are given; allowed: the same type "
                              "on one device")
        values = torch.empty(3, dtype=torch.float64, device=theta.device)
        gradient = torch.empty_like(theta) if ctx.needs_input_grad[0] else None
        arrays = [None if array is None else TORCH.given(array) for array in (*(noisy or (None,) * 5), *(free or (None,) * 3))]
        points.call(loss.evaluate, TORCH.given(theta), *arrays, weight, TORCH.given(values),
                    None if gradient is None else TORCH.given(gradient))
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values[2].to(theta.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None, None, None


class _Loss:
    def __init__(self, model: Model, module: torch.nn.Module | None = None) -> None:
        self.model = model_of(model)
        self._loss = _core.Loss(model)
        self._parameters = None if module is None else _Parameters(module, model)

    def parameters(self) -> torch.Tensor:
        """The module's parameters [P] in the model's order, differentiable."""
        if self._parameters is None:
            raise _core.Error("a loss without a module has no parameters of its own; allowed: parameters=, or a module when it is made")
        return self._parameters()

    def _theta(self, given: torch.Tensor | None) -> torch.Tensor:
        if given is not None and not isinstance(given, torch.Tensor):
            refuse("parameters", given, "a tensor")
        return self.parameters() if given is None else given

    def current_model(self) -> Model:
        """The model with the parameters that the module has now."""
        return self.model.replaced(self.parameters())

    def _in_z(self, t: Any, x: torch.Tensor, **others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """t as [N], and x in the network's own coordinates; of no array of the points gradients are asked."""
        for name, array in {"t": t, "x": x, **others}.items():
            if name != "t" and array is not None and not isinstance(array, torch.Tensor):
                refuse(name, array, "a tensor")
            if torch.is_grad_enabled() and getattr(array, "requires_grad", False):
                raise _core.Error(f"a loss of points that require gradients is asked for, in {name}; allowed: points without, for "
                                  "gradients are those in the parameters")
        t, x = _tensors(t, x)
        means, deviations = self.model.standardisation()
        if means:
            x = (x - x.new_tensor(means[:x.shape[1]])) / x.new_tensor(deviations[:x.shape[1]])
        return t, x.contiguous()

    def _condition(self, condition: Any, x: torch.Tensor) -> torch.Tensor | None:
        means, deviations = self.model.standardisation()
        if condition is None or not means:
            return condition
        d = self.model.dimension
        return ((condition - x.new_tensor(means[d:])) / x.new_tensor(deviations[d:])).contiguous()


class ResidualLoss(_Loss):
    """The mean squared Fokker–Planck residual of a potential net, differentiable in its parameters: those of the module that the model
    was made of, or parameters [P] that a call is given. On CUDA in float32 and split precision. A module past whose layers
    ``from_torch`` carries connections by units of its own is refused.
    """

    def __call__(self, t: Any, x: torch.Tensor, *, condition: torch.Tensor | None = None,
                 parameters: torch.Tensor | None = None) -> torch.Tensor:
        """Mean over points of R² (a scalar): t one time or [N], x [N, d]; with the exact Laplacian, at a cost that grows with d. An
        estimate of it by probes is there for a ``fokker.Trainer`` alone (residual_probes).
        """
        t, z = self._in_z(t, x, condition=condition)
        theta = self._theta(parameters)
        return _LossFunction.apply(theta, self._loss, (), (t, z, self._condition(condition, x)), 1.0)


class DenoisingLoss(_Loss):
    """The denoising score-matching loss of a network, differentiable in its parameters, as ``ResidualLoss``, of the same modules."""

    def __call__(self, t: Any, x: torch.Tensor, target: torch.Tensor, *, weight: torch.Tensor | None = None,
                 condition: torch.Tensor | None = None, parameters: torch.Tensor | None = None) -> torch.Tensor:
        """Mean over points and coordinates of weight (s(t, x) − target)² (a scalar): x [N, d] is x_t, target [N, d] is
        ∇ log p(x_t | x_0) = −(x_t − m x_0)/σ², weight [N]. Of a standardised model in its own coordinates z, target too.
        """
        t, z = self._in_z(t, x, target=target, weight=weight, condition=condition)
        deviations: Sequence[float] = self.model.standardisation()[1]
        if deviations:
            target = (target * target.new_tensor(deviations[:target.shape[1]])).contiguous()
        theta = self._theta(parameters)
        return _LossFunction.apply(theta, self._loss, (t, z, target, weight, self._condition(condition, x)), (), 0.0)
