"""A fokker model from a torch.nn.Module.

`from_torch` traces the module (torch.fx), finds out which of fokker's networks it is, and holds the two against each other
at random points in double precision. The module itself is not changed, and no recipe is needed: what is read from the code
are the layers and their order, the activations, what is made of the time and of a condition and where it goes, and factors
of the input and the output, as 1/σ(t) or the preconditioning of Karras et al. (2022).

What the code cannot say the caller does: the forward SDE and what the module's output means.
"""

from __future__ import annotations

import inspect
import json
import re
import struct
from typing import Any, Mapping

import numpy as np
import torch

from . import _core
from ._arrays import number, shown
from ._torch_fit import OUTPUTS, TIME_MAPS, Fit, Schedule
from ._torch_forms import PARAMETERS, Interpreter
from ._torch_graph import Doubles, Error, UnmappableModule, double_copy, trace_graph
from .model import Model, mixture

_PROOF_POINTS = 48
_VALUE = 'proof.value'  # not in files
_TOLERANCE = 1e-9  # between the scores of model and module in double, of the points' largest


def from_torch(module: torch.nn.Module, example: Mapping[str, Any], *, sde: str | Model | None = None, output: str | None = None,
               sde_parameters: Mapping[str, Any] | None = None, data_deviation: float | None = None, time: str = 't') -> Model:
    """The model that a torch.nn.Module is.

    module: computes [N, d] of x [N, d], the time and perhaps a condition y [N, c]; of a potential [N] or [N, 1]. It is
        taken in the mode that it is in, and is not changed. Parameters of any floating dtype are taken as they are.
    example: a dict of arguments, of which only shapes matter: `x` [N, d], `t` [N], [N, 1] or [] (one time for all), and
        with a condition `y` [N, c]. Where forward() has parameters of these names they are passed by name, else in the
        dict's order; `example=dict(t=…, x=…)` is a forward(time, points).
    sde: the name of the forward SDE (ou, vp-linear, vp-cosine, subvp, ve, edm, flow, ddpm), or a model whose SDE it is;
        `sde_parameters` is a dict of the parameters that are not the defaults, as {'beta_max': 10}.
    output: what the module gives: score; noise, the ε of x_t = m x_0 + σ ε; denoised, x_0; v, m ε − σ x_0; velocity, dx/dt
        of the probability flow; velocity-to-data, its negative; edm, the F of Karras et al. (2022) inside their
        preconditioning, which is given x/√(m² σ_d² + σ²), with σ_d in `data_deviation`; or potential, log p, and
        potential:FORM, whose gradient is that of FORM.
    time: what the module is given for its time, [SCALE*]NAME[+OFFSET] with NAME one of t (in the SDE's unit), sigma,
        log-sigma, log-snr, as '1000*t-1' or '-1*t+1'.

    Returns a fokker.Model. Raises fokker.UnmappableModule where the module is none, with the operation, the submodule and
    the line of its forward(), and fokker.Error for arguments that are not allowed.

    Layouts that are mapped, in any spelling by torch's functions, methods and modules:

    | part | what it may be |
    | --- | --- |
    | layers | torch.nn.Linear or products with matrices, also weight-normed, spectral-normed, followed by batch norm in evaluation; one after another, with sums h + σ(W h + b) around one layer |
    | connections | any others, as blocks h + W₂ σ(W₁ h), skips over several layers, x taken again by later layers, past layers of SiLU, ReLU, LeakyReLU, GELU or Softplus, for which σ(z) − σ(−z) is a multiple of z: pairs of units carry what is taken later, so that those layers become wider by twice as many; not together with sums around a layer of another activation |
    | activations | SiLU, Tanh, ReLU, LeakyReLU, PReLU of one parameter, ELU, CELU, SELU, GELU, Mish, Softplus, Sigmoid, LogSigmoid, sin, cos; z·sigmoid(β z) and z·tanh(softplus(z)) written out |
    | time | t or any function of it that is a·u + b with u one of t, σ, ln σ, ln SNR of the SDE, by whatever operations; through sines and cosines, dense layers and activations; concatenated or added, to any layers |
    | condition | likewise, without the functions |
    | x | itself, or sines and cosines of it first |
    | factors | functions of time on x before the first layer and on the output, and a multiple of x (of potentials |x|²) added to the output, where they make one of fokker's forms |
    | ignored | dropout in evaluation, Identity, casts, reshapes |

    Dense layers with no activation between them become one. Units that carry connections are no parameters of the module, so that
    fokker.autograd refuses it beside such a model. Refused by name and line are others: attention, convolutions, layer
    norms, lookups in tables, products of embeddings with layers, connections past layers of other activations, the time itself
    beside its embedding, weights that two layers share, control flow that depends on values.
    """
    if isinstance(sde, str):  # any model of that SDE has its coefficients
        sde = mixture([1.0], [[0.0]], 1.0, sde=sde, sde_parameters=sde_parameters)
    elif sde is not None and not isinstance(sde, Model):
        raise Error(f"sde is {shown(sde)}; allowed: a name, as 'ou', or a fokker.Model")
    elif sde_parameters is not None:
        raise Error('sde_parameters are given, and no name of an SDE; allowed: with a name, as sde=vp-linear')
    metadata, tensors = trace(module, example, sde=sde, output=output, data_deviation=data_deviation, time=time)
    value = tensors.pop(_VALUE, None)
    try:
        model = _core.parse_model(contents(metadata, tensors))
    except Error as error:
        raise UnmappableModule(f'the module was mapped, and its scores are not those of its model: {error}') from error
    _check_in_double(model, tensors, value)
    return model


def _check_in_double(model, tensors, value):
    """The proof within the file is checked to float32's precision, and of the score; this is what double gives, and of a
    potential its value, for a function of the time alone in it has no part in the score."""
    t, x, expected = (np.ascontiguousarray(tensors[f'proof.{name}']) for name in ('t', 'x', 'score'))
    score = model.score(t, x, condition=tensors.get('proof.condition'))
    sigma = np.sqrt([model.coefficients(float(at))[3] for at in t])  # of the noise, and so of 1/score
    apart = sigma * np.abs(score - expected).max(axis=1) / np.max(sigma[:, None] * np.abs(expected))
    if not apart.max() <= _TOLERANCE:
        at = int(np.argmax(apart))
        raise UnmappableModule(f'the module was mapped, and its scores part from those of its model by {apart[at]:.3g} of '
                               f'the largest, at t = {t[at]:.6g}; allowed: {_TOLERANCE:g}, that of double')
    if value is not None:
        weight = sigma / np.sqrt(sigma ** 2 + [model.coefficients(float(at))[2] ** 2 for at in t])  # values grow as 1/sigma too
        apart = weight * np.abs(model.value(t, x, condition=tensors.get('proof.condition')) - value) / np.max(weight * np.abs(value))
        if not apart.max() <= _TOLERANCE:
            at = int(np.argmax(apart))
            raise UnmappableModule(f'the module was mapped, and its values part from those of its model by {apart[at]:.3g} of the '
                                   f'largest, at t = {t[at]:.6g}; allowed: {_TOLERANCE:g}, that of double, with no function of the '
                                   'time added that the model has not')


def trace(module: torch.nn.Module, example: Mapping[str, Any], *, sde: Any, output: str | None, data_deviation: float | None = None,
          time: str = 't') -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What from_torch makes a model of: (metadata, tensors), the content of a model's file with a proof in it, points and
    the scores that the module gives there, of a potential the values too. The arguments are from_torch's, but for `sde`: an
    object with sde_name, sde_parameters (JSON), horizon, t_min and coefficients(t) → (drift, g², m, σ²), as models have them."""
    with torch.inference_mode(False):
        return _trace(module, example, sde, output, data_deviation, time)


def _trace(module, example, sde, output, data_deviation, time):
    _check_meaning(sde, output, data_deviation)
    inputs = _Inputs(module, example, sde, time)
    data_deviation = None if data_deviation is None else float(data_deviation)
    copied = double_copy(module)
    low, high = sde.t_min, sde.t_min + 0.999 * (sde.horizon - sde.t_min)  # at T coefficients may be infinite
    last = _last_time(sde)
    grid = np.union1d(np.geomspace(low, high, 64), np.append(np.linspace(low, high, 64), last))
    schedule = Schedule(sde, grid)
    random = np.random.default_rng(20231127)
    points = inputs.draw(random, Schedule(sde, random.uniform(low, high, inputs.samples(copied))))
    graph, root = trace_graph(copied, inputs.arrange, points)
    interpreter = Interpreter(graph, root, points, inputs.times(schedule))
    value = interpreter.run()
    fit = Fit(value, interpreter.sums, schedule, inputs.dimension, inputs.condition, interpreter.output_site)
    network = fit.network(output, data_deviation)
    metadata, tensors = _file(network, sde)
    times = np.concatenate([np.exp(random.uniform(np.log(low), np.log(high), _PROOF_POINTS // 2)),
                            random.uniform(low, high, _PROOF_POINTS - _PROOF_POINTS // 2), [last]])
    tensors |= _proof(copied, inputs, Schedule(sde, times), output, data_deviation, random)
    return metadata, tensors


def _last_time(sde):
    """T, where samplers begin; just before it where coefficients are infinite there, or double says nothing of them."""
    with np.errstate(all='ignore'):
        _, diffusion_squared, mean, _ = sde.coefficients(float(sde.horizon))
    good = diffusion_squared <= 1e6 and mean >= 1e-8
    return sde.horizon if good else sde.t_min + (1 - 1e-5) * (sde.horizon - sde.t_min)


def _check_meaning(sde, output, data_deviation):
    if sde is None:
        raise Error('no sde is given, and the code of a module does not say it; allowed: ou, vp-linear, vp-cosine, subvp, '
                    've, edm, flow, ddpm, with sde_parameters, or a model')
    if output is None:
        raise Error(f'no output is given, what the module gives, and its code does not say it; allowed: {", ".join(OUTPUTS)}')
    if not isinstance(output, str) or output not in OUTPUTS:
        raise Error(f'the output {shown(output)} is given; allowed: {", ".join(OUTPUTS)}')
    edm = output.endswith('edm')
    if edm and data_deviation is None:
        raise Error(f"no data_deviation is given, which the output '{output}' needs; allowed: a number, the deviation that "
                    'the network was made for')
    if not edm and data_deviation is not None:
        raise Error(f"data_deviation is given, and the output '{output}' does not read it; allowed: with edm")
    if edm and not 1e-6 <= number('data_deviation', data_deviation) <= 1e6:
        raise Error(f'data_deviation = {data_deviation} is given; allowed: 1e-6 to 1e6')


# ---- what the module is given -----------------------------------------------------------------------------------------------

class _Inputs:
    """The shapes of x, t and y, and how the module takes them."""

    def __init__(self, module, example, sde, time):
        if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
            kind = type(module).__name__
            raise UnmappableModule(f'a {kind} is given; allowed: a torch.nn.Module whose forward() is Python')
        allowed = 'a dict of x [N, d], t [N], [N, 1] or [], and with a condition y [N, c]'
        if not isinstance(example, dict) or not {'x', 't'} <= set(example) <= {'x', 't', 'y'}:
            given = sorted(map(str, example)) if isinstance(example, dict) else type(example).__name__
            raise Error(f'the example is {given}; allowed: {allowed}')
        shapes = {}
        for name, array in example.items():
            try:
                shapes[name] = tuple(torch.as_tensor(array).shape)
            except (TypeError, ValueError, RuntimeError):
                raise Error(f"the example's {name} is {shown(array)}; allowed: {allowed}") from None
        good = len(shapes['x']) == 2 and shapes['x'][1] >= 1
        good &= shapes['t'] in ((), shapes['x'][:1], shapes['x'][:1] + (1,))
        good &= len(shapes.get('y', (0, 0))) == 2
        if not good:
            raise Error(f'the example has the shapes {", ".join(f"{n} {list(s)}" for n, s in shapes.items())}; '
                        f'allowed: {allowed}')
        self.dimension = shapes['x'][1]
        self.condition = shapes['y'][1] if 'y' in shapes else 0
        self._time_tail = None if shapes['t'] == () else shapes['t'][1:]
        self._names = list(example)
        self._by_name = self._check_signature(module)
        self._parse_time(time)

    def _check_signature(self, module):
        try:
            parameters = list(inspect.signature(module.forward).parameters.values())
        except (TypeError, ValueError):
            return False
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        by_name = set(self._names) <= set(names)
        positions = {name: names.index(name) for name in self._names if name in names}
        wrong = [name for name, at in positions.items() if at != self._names.index(name)]
        if not by_name and wrong:
            raise Error(f"the example's order is {', '.join(self._names)}, and forward({', '.join(names)}) has "
                        f"'{wrong[0]}' elsewhere; allowed: the names of all of them, or their order")
        several = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        if not by_name and not several and len(names) < len(self._names):
            raise Error(f'the example has {", ".join(self._names)}, and forward({", ".join(names)}) takes {len(names)}; '
                        'allowed: as many')
        required = [p.name for p in parameters if p.default is p.empty
                    and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)]
        left = [name for name in required if name not in self._names] if by_name else required[len(self._names):]
        if left:
            raise Error(f"forward() needs {', '.join(left)}, which the example has not; allowed: x, t and y alone, and "
                        'other parameters with defaults')
        return by_name

    def _parse_time(self, text):
        digits = r'[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?'
        match = re.fullmatch(rf'(?:({digits})\*)?(log-sigma|log-snr|sigma|t)([+-]{digits.removeprefix("[+-]?")})?', str(text))
        if match is None:
            raise Error(f'the time {shown(text)} is given; allowed: [SCALE*]NAME[+OFFSET], NAME one of {", ".join(TIME_MAPS)}, as '
                        '1000*t-1')
        self._scale, self._map, self._offset = float(match[1] or 1), match[2], float(match[3] or 0)

    def arrange(self, given):
        if self._by_name:
            return (), {name: given[name] for name in self._names}
        return [given[name] for name in self._names], {}

    def times(self, schedule):
        """What the module takes for the times of a schedule."""
        values = schedule.time_map(self._map)
        return self._scale * values + self._offset if (self._scale, self._offset) != (1, 0) else values

    def samples(self, module):
        """A number of samples that is no size in the module, so that the batch is known by it."""
        sizes = {size for tensor in [*module.parameters(), *module.buffers()] for size in tensor.shape}
        return next(prime for prime in (61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131)
                    if prime not in sizes | {self.dimension, self.condition})

    def draw(self, random, schedule):
        """x, t and y at random, a sample at each time of a schedule, or all at its first."""
        count = len(schedule.times)
        t = torch.from_numpy(self.times(schedule).copy())
        t = t[0] if self._time_tail is None else t.reshape((count,) + self._time_tail)
        points = {'x': torch.from_numpy(random.normal(size=(count, self.dimension))), 't': t}
        if self.condition:
            points['y'] = torch.from_numpy(random.normal(size=(count, self.condition)))
        return points

    def evaluate(self, module, times, x, y):
        """The module's output at points, in double, [N, columns]; `times` are what it takes."""
        with Doubles():
            if self._time_tail is None:
                rows = [self._call(module, x[i:i + 1], times[i], None if y is None else y[i:i + 1]) for i in range(len(x))]
                return torch.cat([row.reshape(1, -1) for row in rows])
            return self._call(module, x, times.reshape((len(x),) + self._time_tail), y).reshape(len(x), -1)

    def _call(self, module, x, t, y):
        args, kwargs = self.arrange({'x': x, 't': t} | ({} if y is None else {'y': y}))
        return module(*args, **kwargs)


# ---- the file ---------------------------------------------------------------------------------------------------------------

def _proof(module, inputs, schedule, output, data_deviation, random):
    """Points and the scores of the module there, for the reader of the file to check."""
    form = output.removeprefix('potential').removeprefix(':') or 'score'
    a, b, c = (column[:, None] for column in schedule.coefficients(form, data_deviation))
    count = len(schedule.times)
    x = random.normal(size=(count, inputs.dimension)) * np.sqrt(schedule.mean ** 2 + schedule.deviation ** 2)[:, None]
    y = torch.from_numpy(random.normal(size=(count, inputs.condition))) if inputs.condition else None
    given = torch.from_numpy(c * x).requires_grad_(output.startswith('potential'))
    times = torch.from_numpy(np.ascontiguousarray(inputs.times(schedule)))
    with torch.set_grad_enabled(given.requires_grad):
        result = value = inputs.evaluate(module, times, given, y)
        if given.requires_grad:
            result, = torch.autograd.grad(result.sum(), given)
    proof = {'proof.t': schedule.times, 'proof.x': x, 'proof.score': a * x + b * result.detach().numpy()}
    if given.requires_grad:
        proof[_VALUE] = (a / 2 * np.sum(x ** 2, axis=1, keepdims=True) + b / c * value.detach().numpy()).ravel()
    if y is not None:
        proof['proof.condition'] = y.numpy()
    return proof


def _file(network, sde):
    hidden = network.layers[:-1]
    names = [layer.name for layer in network.layers]
    listed = lambda chosen: ','.join(layer.name for layer in network.layers if chosen(layer)) or 'none'
    metadata = {'output': network.output, 'layers': ','.join(names), 'sde': sde.sde_name,
                'inputs': ('y,' if network.condition_width else '') + network.time_map + ',x',
                'sde_parameters': sde.sde_parameters, 'time_into': listed(lambda layer: 't' in layer.takes)}
    activations = [layer.activation_text() for layer in hidden]
    if len(set(activations)) == 1:
        metadata['activation'] = hidden[0].activation
        if hidden[0].parameter is not None:
            metadata[PARAMETERS[hidden[0].activation]] = repr(hidden[0].parameter)
    else:
        metadata['activation'] = ','.join(activations)
    if network.data_deviation is not None:
        metadata['data_deviation'] = repr(float(network.data_deviation))
    if network.condition_width:
        metadata['condition'] = str(network.condition_width)
        metadata['condition_into'] = listed(lambda layer: 'y' in layer.takes)
    for what, branch in (('time', network.time), ('condition', network.condition)):
        if branch:
            metadata[f'{what}_branch'] = ','.join(f'{"fixed:" if layer.fixed else ""}{layer.activation_text()}:'
                                                  f'{len(layer.bias)}' for layer in branch)
            metadata[f'{what}_layers'] = ','.join(layer.name for layer in branch)
    for key, chosen in (('residual', lambda layer: layer.residual), ('fixed', lambda layer: layer.fixed)):
        if any(map(chosen, hidden)):
            metadata[key] = listed(chosen)
    tensors = {}
    for layer in [*network.condition, *network.time, *network.layers]:
        tensors[f'{layer.name}.weight'], tensors[f'{layer.name}.bias'] = layer.weight, layer.bias
    return metadata, tensors


def contents(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file as bytes: numbers in float32 where that holds all of a tensor, else in float64."""
    header, data = {'__metadata__': metadata}, []
    begin = 0
    for name, tensor in tensors.items():
        tensor = np.ascontiguousarray(tensor, '<f8')
        with np.errstate(over='ignore'):
            short = tensor.astype('<f4')
        exact = np.array_equal(short.astype('<f8'), tensor)
        data.append((short if exact else tensor).tobytes())
        header[name] = {'dtype': 'F32' if exact else 'F64', 'shape': list(tensor.shape),
                        'data_offsets': [begin, begin + len(data[-1])]}
        begin += len(data[-1])
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + b''.join(data)
