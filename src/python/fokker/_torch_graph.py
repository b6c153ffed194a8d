"""A torch module as a graph of operations (torch.fx), each with the line of the module that does it and with its value at
random points in double precision. The values make shapes known while the module is traced, so that code which asks for
them runs as usual, and they are what every later interpretation of an operation is held against."""

import copy
import linecache
import os
import sys
import traceback
from dataclasses import dataclass

import torch
from torch import fx, nn

from ._core import Error

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


@dataclass(frozen=True)
class Site:
    """Where a module does something: the submodule's path, the operation, and the line of the forward()."""
    path: str = ''
    operation: str = ''
    file: str = ''
    line: int = 0

    def __str__(self):
        text = f"'{self.operation}'" if self.operation else 'the module'
        if self.path:
            text += f" in '{self.path}'"
        if self.file:
            source = linecache.getline(self.file, self.line).strip()
            text += f' at {self.file}:{self.line}' + (f' ({source[:120]})' if source else '')
        return text


class UnmappableModule(Error):
    """What a module computes is no model of fokker's. `site` says where: path, operation, file and line."""

    def __init__(self, message, site=Site()):
        super().__init__(message)
        self.site = site


def refuse(site, what, allowed):
    raise UnmappableModule(f'{site} {what}; allowed: {allowed}', site)


def _is_users(filename):
    return not filename.startswith((_OWN, _TORCH, '<frozen', '<string>', '<eval_with_key>'))


# ---- everything in double ---------------------------------------------------------------------------------------------------

_CASTS = {'float', 'half', 'bfloat16'}


def _widened(name, args, kwargs):
    """A cast to a floating dtype, as one to double: the module in double computes in double throughout."""
    if name in _CASTS:
        return 'double', args[:1], {}
    if name in ('to', 'type'):
        wide = lambda a: torch.float64 if isinstance(a, torch.dtype) and a.is_floating_point else a
        return name, tuple(wide(a) for a in args), {key: wide(a) for key, a in kwargs.items()}
    return name, args, kwargs


class Doubles(torch.overrides.TorchFunctionMode):
    """Within it a cast to float is one to double."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, '__name__', '')
        if (name in _CASTS or name in ('to', 'type')) and isinstance(args[0], torch.Tensor):
            name, args, kwargs = _widened(name, args, kwargs or {})
            return getattr(torch.Tensor, name)(*args, **kwargs)
        return function(*args, **(kwargs or {}))


def double_copy(module):
    """A copy in double on the CPU, in the module's own mode; the module itself is left as it is."""
    memo = {}
    for part in module.modules():  # deepcopy refuses results of operations, as the weights of the older weight_norm
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise UnmappableModule(f'the module {type(module).__name__} cannot be copied: {error}; allowed: what '
                               'copy.deepcopy() copies') from error
    copied.to('cpu').double()
    for part in copied.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                vars(part)[name] = value.detach().to('cpu', torch.float64)
    return copied


# ---- the trace --------------------------------------------------------------------------------------------------------------

class _ValueProxy(fx.Proxy):
    """Stands for a tensor whose shape is known."""

    @property
    def _tensor(self):
        value = self.node.meta['value']
        if not isinstance(value, torch.Tensor):
            raise TypeError(f'an operation gave {type(value).__name__} where a tensor is needed')
        return value

    shape = property(lambda self: self._tensor.shape)
    ndim = property(lambda self: self._tensor.ndim)
    dtype = property(lambda self: self._tensor.dtype)
    device = property(lambda self: self._tensor.device)
    is_cuda = property(lambda self: False)
    requires_grad = property(lambda self: False)

    def size(self, *which):
        return self._tensor.size(*which)

    def dim(self):
        return self._tensor.dim()

    ndimension = dim

    def numel(self):
        return self._tensor.numel()

    def is_floating_point(self):
        return self._tensor.is_floating_point()

    def __getattr__(self, name):
        if name in ('T', 'mT', 'data'):
            return self.tracer.create_proxy('call_function', getattr, (self, name), {})
        return super().__getattr__(name)

    def __len__(self):
        return len(self.node.meta['value'])

    def __iter__(self):
        return iter([self[k] for k in range(len(self))])


class _Tracer(fx.Tracer):
    def __init__(self, inputs):
        super().__init__()
        self._inputs = inputs
        self._quiet = False  # while an operation is evaluated
        self._paths = []

    def proxy(self, node):
        return _ValueProxy(node, self)

    def is_leaf_module(self, module, path):
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        return type(module).__module__.startswith(('torch.nn', 'torch.ao.nn')) and not isinstance(module, containers)

    def call_module(self, module, forward, args, kwargs):
        if self._quiet:
            return forward(*args, **kwargs)
        self._paths.append(_own_path(self.path_of_module(module)))
        result = super().call_module(module, forward, args, kwargs)
        self._paths.pop()
        return result

    def getattr(self, attribute, value, cache):
        return value if self._quiet else super().getattr(attribute, value, cache)

    def to_bool(self, proxy):
        refuse(self.site('bool'), 'decides by the values of its inputs how the forward() goes on',
               'decisions by shapes and by what belongs to the module')

    def site(self, operation):
        frame = sys._getframe(1)
        while frame and not _is_users(frame.f_code.co_filename):
            frame = None if frame.f_code is _Root.call.__code__ else frame.f_back  # beyond is who called this package
        return Site(self.path(), operation, frame.f_code.co_filename if frame else '', frame.f_lineno if frame else 0)

    def path(self):
        return self._paths[-1] if self._paths else ''

    def create_proxy(self, kind, target, args, kwargs, name=None, type_expr=None, proxy_factory_fn=None):
        operation = _operation(self.root, kind, target, args)
        site = self.site(operation)
        if operation == 'grad':
            refuse(site, 'is a gradient', "the potential whose gradient it is, with output='potential'")
        value = self._value(kind, target, args, kwargs, site)
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        proxy.node.meta.update(value=value, site=site, operation=operation)
        return proxy

    def create_node(self, *args, **kwargs):  # of a tensor among arguments too
        node = super().create_node(*args, **kwargs)
        if node.op == 'get_attr':
            node.meta.update(value=self._attribute(node.target), site=Site(operation=node.target), operation='get_attr')
        return node

    def _attribute(self, target):
        quiet, self._quiet = self._quiet, True
        value = self.root
        for part in target.split('.'):
            value = getattr(value, part)
        self._quiet = quiet
        return value

    def _value(self, kind, target, args, kwargs, site):
        if kind == 'placeholder':
            return self._inputs[target]
        if kind == 'get_attr':
            return self._attribute(target)
        args, kwargs = _concrete(args), _concrete(kwargs)
        self._quiet = True
        try:
            if kind == 'call_module':
                return self.root.get_submodule(target)(*args, **kwargs)
            if kind == 'call_method':
                target, args, kwargs = _widened(target, args, kwargs)
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        except UnmappableModule:
            raise
        except Exception as error:
            refuse(site, f'cannot be evaluated in double: {error}', 'operations on tensors of the dtype of their inputs')
        finally:
            self._quiet = False


def _own_path(path):
    return '' if path == 'module' else path.removeprefix('module.')


def _concrete(argument):
    """The values in place of their proxies; copies, for an operation may write into its input."""
    if isinstance(argument, fx.Proxy):
        return _concrete(argument.node.meta['value'])
    if isinstance(argument, torch.Tensor):
        return argument.detach().clone()
    if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
        return type(argument)(_concrete(entry) for entry in argument)
    if isinstance(argument, dict):
        return {key: _concrete(entry) for key, entry in argument.items()}
    if isinstance(argument, slice):
        return slice(_concrete(argument.start), _concrete(argument.stop), _concrete(argument.step))
    return argument


_RENAMED = {'truediv': 'div', 'true_divide': 'div', 'divide': 'div', 'multiply': 'mul', 'subtract': 'sub',
            'itruediv': 'div', 'rtruediv': 'rdiv', 'iadd': 'add', 'isub': 'sub', 'imul': 'mul', 'radd': 'add',
            'rmul': 'mul', 'negative': 'neg', 'absolute': 'abs', 'concat': 'cat', 'concatenate': 'cat', 'ipow': 'pow',
            'log_sigmoid': 'logsigmoid', 'imatmul': 'matmul', 'clip': 'clamp'}


def _operation(root, kind, target, args):
    """One name for what functions, methods, operators and modules of the same meaning do."""
    if kind == 'call_module':
        module = root.get_submodule(target)
        name = type(module).__name__
        return 'Linear' if isinstance(module, nn.Linear) else name
    if kind == 'call_function' and target is getattr:
        return args[1]
    name = target if isinstance(target, str) else getattr(target, '__name__', str(target))
    if kind in ('placeholder', 'get_attr'):
        return name
    name = name.removeprefix('__').removesuffix('__') if name.startswith('__') else name.rstrip('_')
    return _RENAMED.get(name, name)


class _Root(nn.Module):
    """The module with the arguments x, t and y."""

    def __init__(self, module, arrange):
        super().__init__()
        self.module = module
        self.arrange = arrange

    def call(self, **given):
        args, kwargs = self.arrange(given)
        return self.module(*args, **kwargs)


class _Unconditional(_Root):
    def forward(self, x, t):
        return self.call(x=x, t=t)


class _Conditional(_Root):
    def forward(self, x, t, y):
        return self.call(x=x, t=t, y=y)


def trace_graph(module, arrange, inputs):
    """The graph of module(*arguments) and its root: `inputs` holds x, t and perhaps y in double, `arrange` makes arguments
    of them. Every node has in its meta the value, the site and the operation."""
    root = (_Conditional if 'y' in inputs else _Unconditional)(module, arrange)
    tracer = _Tracer(inputs)
    try:
        with torch.no_grad():
            return tracer.trace(root), root
    except UnmappableModule:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
        site = Site(tracer.path(), '', frames[-1].filename, frames[-1].lineno) if frames else Site(tracer.path())
        text = ' '.join(str(error).split())
        raise UnmappableModule(f'{site} cannot be traced: {type(error).__name__}: {text[:300]}; allowed: a forward() of '
                               'torch operations whose order depends on shapes alone', site) from error
