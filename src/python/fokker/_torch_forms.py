"""What each operation of a traced module computes, as a sum over atoms: numbers that a sample has are

    columns = Σ  f_k(t) · M_k a_k,

a_k an atom (an input x, t or y, the number 1, or an activation of such a sum, elementwise), M_k a matrix of numbers and f_k
a function of time, known by its values at some times. Concatenations, slices, reshapes, dense layers, sums and factors
change matrices; activations make atoms. So whatever order a module does them in, what is left is which layer takes what.

Every sum is evaluated at the samples at which the module was traced, and an operation whose values are others is refused.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ._torch_graph import Site, refuse

_TOLERANCE = 1e-9  # of what a sum gives, relative to the largest number; both are in double


# ---- functions of time, atoms, sums -----------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Function:
    """A function of time: at the grid's times [G], and at those of the samples [N] or [1]."""
    grid: np.ndarray
    sample: np.ndarray


@dataclass(eq=False)
class Atom:
    """Numbers [width] of each sample. `of` says which inputs they depend on; `grid` [G, width] is there of those that depend
    on the time alone. `pre` is the sum that an activation is of."""
    operation: str
    width: int
    number: int
    of: frozenset
    sample: np.ndarray
    grid: np.ndarray = None
    pre: 'Form' = None
    parameter: float = None
    site: Site = Site()


@dataclass
class Term:
    atom: Atom
    function: Function
    matrix: np.ndarray  # [columns, atom.width]
    site: Site


@dataclass
class Form:
    """A sum over atoms, [columns]. `learned`: parameters of the module are in its matrices. `name`: of its dense layer."""
    columns: int
    terms: list
    learned: bool = False
    name: str = ''

    @property
    def of(self):
        return frozenset().union(*(term.atom.of for term in self.terms))

    def key(self):
        return (self.columns, tuple((id(term.atom), id(term.function), term.matrix.tobytes()) for term in self.terms))


class Sums:
    """Makes atoms and sums, the same one for the same thing."""

    def __init__(self, grid_count):
        self.constant = Function(np.ones(grid_count), np.ones(1))
        self._functions = [self.constant]
        self._atoms = {}
        self._count = 0
        self.one = self.atom('one', 1, frozenset(), np.ones((1, 1)), np.ones((grid_count, 1)))

    def atom(self, operation, width, of, sample, grid=None, pre=None, parameter=None, site=Site()):
        self._count += 1
        return Atom(operation, width, self._count, of, sample, grid, pre, parameter, site)

    def function(self, grid, sample):
        """The factor and the function of that shape: proportional ones are one function."""
        at = int(np.argmax(np.abs(grid)))
        factor = grid[at]
        if factor == 0:
            return 0.0, self.constant
        grid, sample = grid / factor, sample / factor
        for known in self._functions:
            scale = known.grid[at]
            if scale != 0 and np.all(np.abs(grid * scale - known.grid) <= 1e-13 * np.abs(known.grid)):
                return float(factor / scale), known
        self._functions.append(Function(grid, sample))
        return float(factor), self._functions[-1]

    def of_atom(self, atom, learned=False, name='', site=Site()):
        return Form(atom.width, [Term(atom, self.constant, np.eye(atom.width), site)], learned, name)

    def numbers(self, values, learned=False):
        values = np.asarray(values, float).reshape(-1, 1)
        return Form(len(values), [Term(self.one, self.constant, values, Site())], learned)

    def collect(self, columns, terms, learned, name=''):
        merged = {}
        for term in terms:
            if not term.matrix.any():
                continue
            key = id(term.atom), id(term.function)
            if key in merged:
                term = Term(term.atom, term.function, merged[key].matrix + term.matrix, merged[key].site)
            merged[key] = term
        kept = sorted((term for term in merged.values() if term.matrix.any()), key=lambda term: term.atom.number)
        return Form(columns, kept, learned, name)

    def add(self, forms):
        name = next((form.name for form in forms if form.name), '')
        return self.collect(forms[0].columns, [term for form in forms for term in form.terms],
                            any(form.learned for form in forms), name)

    def rows(self, form, scale):
        """Each column times a number."""
        terms = [Term(term.atom, term.function, scale[:, None] * term.matrix, term.site) for term in form.terms]
        return self.collect(form.columns, terms, form.learned, form.name)

    def times(self, form, grid, sample, site):
        """Times a function of time."""
        terms = []
        for term in form.terms:
            factor, function = self.function(term.function.grid * grid, term.function.sample * sample)
            terms.append(Term(term.atom, function, factor * term.matrix, site))
        return self.collect(form.columns, terms, form.learned, form.name)

    def dense(self, form, weight, bias, learned, name):
        terms = [Term(term.atom, term.function, _product(weight, term.matrix), term.site) for term in form.terms]
        if bias is not None:
            terms.append(Term(self.one, self.constant, np.asarray(bias, float).reshape(-1, 1), Site()))
        return self.collect(len(weight), terms, form.learned or learned, name)

    def pointwise(self, operation, pre, sample, grid=None, parameter=None, site=Site()):
        """The atom of an activation; one that was made before, if it is of the same sum."""
        key = operation, parameter, pre.key()
        if key not in self._atoms:
            of = pre.of
            if any(term.function is not self.constant for term in pre.terms):
                of |= {'t'}
            self._atoms[key] = self.atom(operation, pre.columns, of, sample, grid, pre, parameter, site)
        return self._atoms[key]

    def function_atom(self, pre, sample, grid, site):
        key = 'function', grid.tobytes()
        if key not in self._atoms:
            self._atoms[key] = self.atom('function', grid.shape[1], frozenset('t'), sample, grid, pre, None, site)
        return self._atoms[key]


def _product(weight, matrix):
    identity = matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))
    return weight if identity else weight @ matrix


def sample_of(form):
    """Its values at the samples, [N or 1, columns]."""
    total = np.zeros((1, form.columns))
    for term in form.terms:
        total = total + term.function.sample[:, None] * (term.atom.sample @ term.matrix.T)
    return total


def grid_of(form):
    """Those of a sum that depends on the time alone, at the times of the grid, [G, columns]."""
    return sum(term.function.grid[:, None] * (term.atom.grid @ term.matrix.T) for term in form.terms)


@dataclass
class Value:
    """A tensor [N, *tail] or, of what is the same for all samples, [*tail]."""
    form: Form
    tail: tuple
    batched: bool

    def shape(self, samples):
        return ((samples,) if self.batched else ()) + self.tail


@dataclass
class Constant:
    """What depends on no input: a tensor, or anything else. `learned`: a parameter is in it that training changes."""
    value: object
    learned: bool = False
    parameter: bool = False
    key: object = None


# ---- activations ------------------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    'softplus': lambda z, beta: functional.softplus(z, beta), 'tanh': lambda z, _: torch.tanh(z),
    'silu': lambda z, _: functional.silu(z), 'sine': lambda z, _: torch.sin(z), 'relu': lambda z, _: torch.relu(z),
    'leaky-relu': lambda z, slope: functional.leaky_relu(z, slope), 'elu': lambda z, alpha: functional.elu(z, alpha),
    'selu': lambda z, _: functional.selu(z), 'gelu': lambda z, _: functional.gelu(z),
    'gelu-tanh': lambda z, _: functional.gelu(z, approximate='tanh'), 'mish': lambda z, _: functional.mish(z),
    'identity': lambda z, _: z}
PARAMETERS = {'softplus': 'beta', 'leaky-relu': 'negative_slope', 'elu': 'alpha'}
_RANGES = {'softplus': (1e-6, 1e6), 'leaky-relu': (1e-6, 1), 'elu': (1e-6, 1e6)}
_NAMES = ('SiLU, Tanh, ReLU, LeakyReLU, PReLU of one parameter, ELU, CELU, SELU, GELU, Mish, Softplus, Sigmoid, '
          'LogSigmoid, sin, cos, and what is written out of them')

_SAME_NAME = {'silu', 'tanh', 'relu', 'selu', 'mish'}
_OF_MODULE = {'SiLU': 'silu', 'Tanh': 'tanh', 'ReLU': 'relu', 'LeakyReLU': 'leaky_relu', 'ELU': 'elu', 'SELU': 'selu',
              'GELU': 'gelu', 'Mish': 'mish', 'Softplus': 'softplus', 'Sigmoid': 'sigmoid', 'LogSigmoid': 'logsigmoid',
              'CELU': 'celu', 'PReLU': 'prelu'}
_ARGUMENTS = {  # of the functions, behind the input, with PyTorch's defaults
    'leaky_relu': {'negative_slope': 0.01}, 'elu': {'alpha': 1.0, 'scale': 1, 'input_scale': 1}, 'celu': {'alpha': 1.0},
    'gelu': {'approximate': 'none'}, 'softplus': {'beta': 1.0, 'threshold': 20.0}, 'prelu': {'weight': None}}

_IDENTITIES = {'contiguous', 'clone', 'detach', 'to', 'float', 'double', 'half', 'bfloat16', 'type', 'type_as', 'cpu',
               'cuda', 'requires_grad', 'data', 'Identity', 'alias', 'positive', 'pos'}
_MOVES = {'view', 'reshape', 'unsqueeze', 'squeeze', 'flatten', 'unflatten', 'expand', 'expand_as', 'repeat', 'transpose',
          'permute', 'movedim', 'swapaxes', 'getitem', 'select', 'narrow', 'chunk', 'split', 'tensor_split', 'unbind',
          'cat', 'stack', 'hstack', 'column_stack', 't', 'T', 'mT', 'flip', 'roll', 'tile', 'index_select',
          'broadcast_to', 'view_as', 'reshape_as', 'ravel', 'Flatten', 'Unflatten', 'broadcast_tensors', 'atleast_2d',
          'repeat_interleave'}
_LINEAR = {'matmul', 'mm', 'einsum', 'outer', 'ger', 'sum', 'mean', 'tensordot', 'inner'}
_OF_TIME = {'log', 'log1p', 'log2', 'log10', 'exp', 'exp2', 'expm1', 'sqrt', 'rsqrt', 'reciprocal', 'square', 'abs', 'pow',
            'clamp', 'clamp_min', 'clamp_max', 'minimum', 'maximum', 'sinh', 'cosh', 'tan', 'atan', 'atan2', 'hypot',
            'arctan', 'erf', 'div', 'mul', 'rdiv', 'rpow', 'float_power', 'logaddexp', 'lerp', 'asinh'}
_CONSTANTS = {'ones_like', 'zeros_like', 'full_like', 'new_ones', 'new_zeros', 'new_full', 'new_tensor'}
_DROPOUTS = {'Dropout', 'AlphaDropout', 'dropout', 'alpha_dropout', 'FeatureAlphaDropout', 'Dropout1d'}


def _all(argument, kind):
    if isinstance(argument, kind):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [found for entry in argument for found in _all(entry, kind)]
    if isinstance(argument, dict):
        return _all(list(argument.values()), kind)
    if isinstance(argument, slice):
        return _all([argument.start, argument.stop, argument.step], kind)
    return []


def _mapped(argument, change):
    if isinstance(argument, (Value, Constant)):
        return change(argument)
    if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
        return type(argument)(_mapped(entry, change) for entry in argument)
    if isinstance(argument, dict):
        return {key: _mapped(entry, change) for key, entry in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_mapped(entry, change) for entry in (argument.start, argument.stop, argument.step)))
    return argument


def _plain(argument):
    return _mapped(argument, lambda given: given.value if isinstance(given, Constant) else given)


# ---- the interpretation -----------------------------------------------------------------------------------------------------

class Interpreter:
    """Interprets a graph. `inputs`: the values of x, t and y at N samples; `time_grid` [G]: of what the module takes for
    the time, at the times of the grid."""

    def __init__(self, graph, root, inputs, time_grid):
        self.graph, self.root, self.samples = graph, root, len(inputs['x'])
        self.sums = Sums(len(time_grid))
        self.values = {}
        self._weights = {}  # of dense layers: which sum each parameter was applied to
        self._inputs = {}
        for name, tensor in inputs.items():
            batched = tensor.ndim > 0
            sample = tensor.numpy().reshape(self.samples if batched else 1, -1)
            grid = np.asarray(time_grid, float)[:, None] if name == 't' else None
            atom = self.sums.atom(name, sample.shape[1], frozenset(name), sample, grid)
            self._inputs[name] = Value(self.sums.of_atom(atom), tuple(tensor.shape[1:]), batched)

    def run(self):
        """The module's output as a sum, [columns]."""
        for node in self.graph.nodes:
            if node.op == 'output':
                result = self._value_of(node.args[0])
                self.output_site = getattr(node.args[0], 'meta', {}).get('site', Site())
                if not isinstance(result, Value) or not result.batched:
                    refuse(self.output_site, f'gives {self._text(result)}', 'a tensor with a row for each sample')
                return result
            self.values[node] = self._node(node)
        raise AssertionError('a graph has no output')

    def _text(self, result):
        if isinstance(result, (tuple, list, dict)):
            return f'a {type(result).__name__} of {len(result)}'
        return 'what is the same for all samples' if isinstance(result, (Value, Constant)) else repr(result)[:60]

    def _value_of(self, argument):
        """The arguments with values in place of nodes."""
        if isinstance(argument, torch.fx.Node):
            return self.values[argument]
        if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
            entries = [self._value_of(entry) for entry in argument]
            return entries if isinstance(argument, list) else tuple(entries)
        if isinstance(argument, dict):
            return {key: self._value_of(entry) for key, entry in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self._value_of(entry) for entry in (argument.start, argument.stop, argument.step)))
        return argument

    def _node(self, node):
        if node.op == 'placeholder':
            return self._inputs[node.target]
        value, operation = node.meta['value'], node.meta['operation']
        if node.op == 'get_attr':
            parameter = isinstance(value, nn.Parameter)
            learned = parameter and value.requires_grad
            return Constant(value.detach() if isinstance(value, torch.Tensor) else value, learned, parameter,
                            id(value) if parameter else None)
        site = node.meta['site']
        args, kwargs = self._value_of(node.args), self._value_of(node.kwargs)
        if not _all((args, kwargs), Value):
            constants = _all((args, kwargs), Constant)
            return Constant(value, any(c.learned for c in constants), any(c.parameter for c in constants),
                            next((c.key for c in constants if c.parameter), None))
        module = self.root.get_submodule(node.target) if node.op == 'call_module' else None
        result = self._operation(node, operation, module, args, kwargs, site)
        self._check(result, value, site)
        return result

    def _check(self, result, value, site):
        if isinstance(result, (tuple, list)):
            for one, other in zip(result, value, strict=True):
                self._check(one, other, site)
        elif isinstance(result, Value):
            expected = value.detach().numpy()
            if expected.shape != result.shape(self.samples):
                refuse(site, f'gives the shape {list(expected.shape)} where {list(result.shape(self.samples))} was '
                             'expected', 'operations on each sample by itself')
            expected = expected.reshape(self.samples if result.batched else 1, result.form.columns)
            if not np.isfinite(expected).all():
                refuse(site, 'gives numbers that are not finite', 'finite ones at the times of the SDE')
            apart = np.abs(sample_of(result.form) - expected).max(initial=0)
            if not apart <= _TOLERANCE * (1 + np.abs(expected).max(initial=0)):
                refuse(site, f'gives other numbers than it was taken to give, by up to {apart:.3g}',
                       'operations without hooks, randomness or a state of their own')

    # Dispatch by the name of the operation.
    def _operation(self, node, operation, module, args, kwargs, site):
        first = args[0] if args else next(iter(kwargs.values()))
        if operation == 'getitem' and isinstance(first, (tuple, list)):
            return first[args[1]]
        if operation in _IDENTITIES:
            return first
        if operation in _DROPOUTS:
            return self._dropout(operation, module, args, kwargs, first, site)
        if operation in _CONSTANTS:
            return Constant(node.meta['value'])
        if operation == 'Linear' or operation in ('linear', 'addmm'):
            return self._linear(operation, module, args, kwargs, site)
        if operation in ('BatchNorm1d', 'SyncBatchNorm'):
            return self._batch_norm(module, first, site)
        activation = _OF_MODULE.get(operation) if module is not None else operation
        if activation in _SAME_NAME or activation in _ARGUMENTS or activation in ('sin', 'cos', 'sigmoid', 'logsigmoid'):
            return self._activation(activation, module, args, kwargs, first, site)
        if operation in _MOVES:
            return self._move(node, module, args, kwargs, site)
        if operation in ('add', 'sub', 'rsub'):
            return self._sum(operation, args, kwargs, site)
        if operation == 'neg':
            return Value(self.sums.rows(first.form, -np.ones(first.form.columns)), first.tail, first.batched)
        values = _all((args, kwargs), Value)
        if operation == 'mul':
            return self._product(node, args, kwargs, site)
        if operation == 'div' and not kwargs.get('rounding_mode'):
            return self._quotient(node, args, kwargs, site)
        if operation in ('pow', 'square') and self._is_square(operation, args, kwargs):
            return self._square(first, site)
        if operation in _LINEAR and len(values) == 1:
            return self._by_probing(node, args, kwargs, values[0], site)
        if operation in _OF_TIME:
            if all(value.form.of <= {'t'} for value in values):
                return self._function(node, args, kwargs)
            refuse(site, 'is done to what depends on x or a condition', 'there as activations ' + _NAMES + '; of the time '
                   'any elementwise function')
        self._refuse_operation(operation, module, site)

    def _refuse_operation(self, operation, module, site):
        lower = operation.lower()
        known = [('norm', 'is a normalisation'), ('attention', 'is attention'), ('transformer', 'is a transformer'),
                 ('conv', 'is a convolution'), ('embedding', 'is a table looked up by an index'), ('rnn', 'is recurrent'),
                 ('lstm', 'is recurrent'), ('gru', 'is recurrent'), ('softmax', 'mixes the units of a layer'),
                 ('rand', 'is random'), ('long', 'rounds to whole numbers'), ('int', 'rounds to whole numbers'),
                 ('round', 'rounds to whole numbers'), ('bilinear', 'multiplies inputs by each other')]
        what = next((text for part, text in known if part in lower), 'is not known')
        allowed = 'dense layers, sums, concatenations, slices, products with numbers and with functions of time'
        activation = module is not None and type(module).__module__ == 'torch.nn.modules.activation'
        if activation and what == 'is not known':
            what, allowed = 'is an activation that fokker has not', _NAMES
        refuse(site, what, allowed if activation else f'{allowed}, and the activations {_NAMES}')

    def _dropout(self, operation, module, args, kwargs, first, site):
        if module is not None:
            probability, training = module.p, module.training
        else:
            probability = kwargs.get('p', args[1] if len(args) > 1 else 0.5)
            training = kwargs.get('training', args[2] if len(args) > 2 else True)
        if training and probability > 0:
            refuse(site, 'drops units at random', 'dropout in evaluation, after module.eval()')
        return first

    # ---- dense layers -----
    def _linear(self, operation, module, args, kwargs, site):
        if module is not None:
            value, name = args[0] if args else kwargs['input'], site.path
            tensors = {'weight': Constant(module.weight.detach(), True, True, id(self._own_weight(module))),
                       'bias': None if module.bias is None else Constant(module.bias.detach(), True, True)}
        else:
            names = ('bias', 'input', 'weight') if operation == 'addmm' else ('input', 'weight', 'bias')
            given = dict(zip(names, args)) | {{'mat1': 'input', 'mat2': 'weight'}.get(k, k): v for k, v in kwargs.items()}
            value, name = given['input'], site.path
            tensors = {'weight': given['weight'], 'bias': given.get('bias')}
        weight, bias = tensors['weight'], tensors['bias']
        if not isinstance(value, Value) or not isinstance(weight, Constant) or not isinstance(bias, (Constant, type(None))):
            refuse(site, 'has weights that depend on the inputs', 'weights that are parameters')
        if self.samples and value.batched and not value.tail:
            refuse(site, 'is applied across the samples of a batch', 'inputs [N, units]')
        matrix = weight.value.detach().double().numpy()
        matrix = matrix.T if operation == 'addmm' else matrix
        vector = None if bias is None else bias.value.detach().double().numpy().reshape(-1)
        return self._dense(value, matrix, vector, weight, name, site)

    @staticmethod
    def _own_weight(module):
        own = dict(module.named_parameters())
        return own.get('weight', next(iter(own.values())))

    def _dense(self, value, matrix, vector, weight, name, site):
        """A dense layer on the last axis; its sums are an atom of their own, which may become a layer or be part of one."""
        blocks = math.prod(value.tail[:-1])
        if blocks > 1:
            if blocks * blocks * matrix.size > 1 << 24:
                refuse(site, f'is applied to {blocks} groups of {matrix.shape[1]} units', 'inputs [N, units]')
            matrix = np.kron(np.eye(blocks), matrix)
            vector = None if vector is None else np.tile(vector, blocks)
        pre = self.sums.dense(value.form, matrix, vector, weight.parameter, name)
        if weight.key is not None:
            known = self._weights.setdefault(weight.key, (pre.key(), site))
            if known[0] != pre.key():
                refuse(site, f"applies weights a second time, which are those of {known[1]}",
                       'weights that belong to one layer')
        tail = value.tail[:-1] + (len(matrix) // blocks,)
        atom = self.sums.pointwise('identity', pre, sample_of(pre), grid_of(pre) if pre.of <= {'t'} else None, None, site)
        return Value(self.sums.of_atom(atom, pre.learned, name, site), tail, value.batched)

    def _batch_norm(self, module, value, site):
        if module.training or module.running_mean is None:
            refuse(site, 'normalises by the batch that it is given', 'batch norms in evaluation, after module.eval()')
        if len(value.tail) != 1:
            refuse(site, 'is applied to inputs of several axes', 'inputs [N, units]')
        scale = 1 / np.sqrt(module.running_var.double().numpy() + module.eps)
        if module.affine:
            scale = scale * module.weight.detach().double().numpy()
        shift = -scale * module.running_mean.double().numpy()
        if module.affine:
            shift = shift + module.bias.detach().double().numpy()
        form = self.sums.add([self.sums.rows(value.form, scale), self.sums.numbers(shift)])
        return Value(form, value.tail, value.batched)

    def _by_probing(self, node, args, kwargs, value, site):
        """What is linear in its one input that is no constant, by what it makes of unit vectors."""
        constants = _all((args, kwargs), Constant)
        columns, shape = value.form.columns, value.shape(self.samples)
        if node.meta['operation'] in ('matmul', 'mm') and args[0] is value and isinstance(args[1], Constant):
            if args[1].value.ndim == 2 and len(value.tail) == 1:
                return self._dense(value, args[1].value.detach().double().numpy().T, None, args[1], site.path, site)
        step = self.samples if value.batched else 1
        rows = []
        for begin in range(0, columns, step):
            units = np.zeros((step, columns))
            for row in range(min(step, columns - begin)):
                units[row, begin + row] = 1
            probe = torch.from_numpy(units).reshape(shape)
            change = lambda given: probe if isinstance(given, Value) else given.value
            result = self._call(node, _mapped(args, change), _mapped(kwargs, change)).double()
            if value.batched and (result.ndim == 0 or len(result) != self.samples):
                refuse(site, 'mixes the samples of a batch', 'operations on each sample by itself')
            rows.append(result.numpy().reshape(step, -1)[:min(step, columns - begin)])
            tail = tuple(result.shape[1:] if value.batched else result.shape)
        matrix = np.concatenate(rows).T
        learned = any(constant.learned for constant in constants)
        form = self.sums.dense(value.form, matrix, None, learned, value.form.name)
        return Value(form, tail, value.batched)

    def _call(self, node, args, kwargs):
        args, kwargs = _plain(args), _plain(kwargs)
        with torch.no_grad():
            if node.op == 'call_module':
                return self.root.get_submodule(node.target)(*args, **kwargs)
            if node.op == 'call_method':
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs)

    # ---- what moves numbers -----
    def _move(self, node, module, args, kwargs, site):
        """What copies numbers and computes nothing, by what it does to their places."""
        return self._moved(lambda a, k: self._call(node, a, k), args, kwargs, site)

    def _as_value(self, constant, site):
        given = constant.value if isinstance(constant, Constant) else constant
        tensor = given.detach().double() if isinstance(given, torch.Tensor) else torch.tensor(given, dtype=torch.float64)
        learned = constant.learned if isinstance(constant, Constant) else False
        if tensor.ndim > 0 and len(tensor) == self.samples:
            flat = tensor.reshape(self.samples, -1)
            if not torch.equal(flat, flat[:1].expand_as(flat)):
                refuse(site, 'takes numbers that differ from sample to sample and depend on no input',
                       'the same for all samples')
            return Value(self.sums.numbers(flat[0].numpy(), learned), tuple(tensor.shape[1:]), True)
        return Value(self.sums.numbers(tensor.numpy(), learned), tuple(tensor.shape), False)

    def _moved(self, move, args, kwargs, site):
        n, begin, taken = self.samples, 1, []

        def place(value):
            """Of each number its column, counted over all inputs, times (n + 1), and 1 + its sample or 0 for all."""
            nonlocal begin
            columns = torch.arange(begin, begin + value.form.columns) * (n + 1)
            taken.append((begin, value))
            begin += value.form.columns
            if not value.batched:
                return columns.reshape(value.tail)
            return (columns + torch.arange(1, n + 1)[:, None]).reshape(value.shape(n))

        def change(argument):
            if isinstance(argument, Constant):
                if not isinstance(argument.value, torch.Tensor) or not argument.value.is_floating_point():
                    return argument.value
                argument = self._as_value(argument, site)
            if isinstance(argument, Value):
                return place(argument)
            if isinstance(argument, (tuple, list)) and not isinstance(argument, torch.Size):
                return type(argument)(change(entry) for entry in argument)
            if isinstance(argument, dict):
                return {key: change(entry) for key, entry in argument.items()}
            return argument

        try:
            result = move(change(args), change(kwargs))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            refuse(site, f'moves numbers in a way that cannot be followed: {" ".join(str(error).split())[:200]}',
                   'reshapes, slices and concatenations')
        return self._placed(result, taken, site)

    def _placed(self, result, taken, site):
        if isinstance(result, (tuple, list)):
            return tuple(self._placed(entry, taken, site) for entry in result)
        n = self.samples
        places, rows = (result // (n + 1)).numpy(), (result % (n + 1)).numpy()
        batched = False
        if result.ndim > 0 and len(result) == n:
            own = np.arange(1, n + 1).reshape((n,) + (1,) * (result.ndim - 1))
            batched = bool(((rows == 0) | (rows == own)).all() and (places == places[:1]).all())
        if not batched and (rows != 0).any():
            refuse(site, 'moves numbers from one sample to another', 'samples that stay rows, [N, …]')
        places = (places[0] if batched else places).reshape(-1)
        terms, learned, names = [], False, set()
        for begin, value in taken:
            inside = (places >= begin) & (places < begin + value.form.columns)
            if not inside.any():
                continue
            learned |= value.form.learned
            names.add(value.form.name)
            for term in value.form.terms:
                matrix = np.zeros((len(places), term.matrix.shape[1]))
                matrix[inside] = term.matrix[places[inside] - begin]
                terms.append(Term(term.atom, term.function, matrix, term.site))
        form = self.sums.collect(len(places), terms, learned, names.pop() if len(names) == 1 else '')
        return Value(form, tuple(result.shape[1:] if batched else result.shape), batched)

    def _aligned(self, arguments, site):
        """Values of the same shape, as broadcasting makes them."""
        values = [given if isinstance(given, Value) else self._as_value(given, site) for given in arguments]
        if all(v.tail == values[0].tail and v.batched == values[0].batched for v in values):
            return values
        return list(self._moved(lambda a, _: torch.broadcast_tensors(*a), tuple(values), {}, site))

    # ---- sums and products -----
    def _sum(self, operation, args, kwargs, site):
        one, other = args[0], args[1] if len(args) > 1 else kwargs['other']
        alpha = kwargs.get('alpha', args[2] if len(args) > 2 else 1)
        if operation == 'rsub':
            one, other, operation = other, one, 'sub'
        one, other = self._aligned([one, other], site)
        factor = float(_plain(alpha)) * (-1 if operation == 'sub' else 1)
        added = other.form if factor == 1 else self.sums.rows(other.form, np.full(other.form.columns, factor))
        return Value(self.sums.add([one.form, added]), one.tail, one.batched)

    def _product(self, node, args, kwargs, site):
        one, other = self._aligned([args[0], args[1] if len(args) > 1 else kwargs['other']], site)
        written = self._written_activation(one, other, site)
        if written is not None:
            return written
        for a, b in ((one, other), (other, one)):
            if not b.form.of:
                scaled = self.sums.rows(a.form, sample_of(b.form)[0])
                scaled.learned |= b.form.learned
                return Value(scaled, a.tail, a.batched)
        if one.form.of | other.form.of <= {'t'}:
            return self._function(node, args, kwargs)
        for a, b in ((one, other), (other, one)):
            if b.form.of <= {'t'}:
                return self._times_function(a, grid_of(b.form), sample_of(b.form), site)
        if one.form.key() == other.form.key() and one.form.of == {'x'}:
            return self._square(one, site)
        refuse(site, 'multiplies what depends on inputs by what depends on inputs', 'products with numbers and, of all '
               'units by one factor, with a function of time')

    def _times_function(self, value, grid, sample, site):
        """Times columns of functions of time that are multiples of one."""
        largest = int(np.argmax(np.abs(grid).max(axis=0)))
        base, base_sample = grid[:, largest], sample[:, largest]
        factors = grid.T @ base / (base @ base)
        if np.abs(grid - base[:, None] * factors).max() > 1e-12 * np.abs(grid).max():
            refuse(site, 'multiplies units by different functions of time, as an embedding that scales them does',
                   'one function of time for all, and embeddings that are added or concatenated')
        factors[np.abs(factors - 1) < 1e-14] = 1
        form = self.sums.rows(self.sums.times(value.form, base, base_sample, site), factors)
        return Value(form, value.tail, value.batched)

    def _quotient(self, node, args, kwargs, site):
        one, other = self._aligned([args[0], args[1] if len(args) > 1 else kwargs['other']], site)
        if not other.form.of:
            divisor = sample_of(other.form)[0]
            if not divisor.all():
                refuse(site, 'divides by 0', 'other divisors')
            scaled = self.sums.rows(one.form, 1 / divisor)
            scaled.learned |= other.form.learned
            return Value(scaled, one.tail, one.batched)
        if other.form.of <= {'t'} and one.form.of <= {'t'}:
            return self._function(node, args, kwargs)
        if other.form.of <= {'t'}:
            return self._times_function(one, 1 / grid_of(other.form), 1 / sample_of(other.form), site)
        refuse(site, 'divides by what depends on x or a condition', 'divisors that are numbers or functions of time')

    def _is_square(self, operation, args, kwargs):
        exponent = 2 if operation == 'square' else _plain(args[1] if len(args) > 1 else kwargs.get('exponent'))
        value = args[0]
        return isinstance(value, Value) and not isinstance(exponent, Value) and float(exponent) == 2 and 'x' in value.form.of

    def _square(self, value, site):
        if any(term.atom.operation not in ('x', 'one') for term in value.form.terms):
            refuse(site, 'squares units of a layer', 'squares of x alone, in the output of a potential')
        atom = self.sums.pointwise('square', value.form, sample_of(value.form) ** 2, None, None, site)
        return Value(self.sums.of_atom(atom, False, '', site), value.tail, value.batched)

    def _function(self, node, args, kwargs):
        """Any elementwise function of the time alone, by its values."""
        tensors = [a for a in _all((args, kwargs), (Value, Constant)) if isinstance(a, Value)
                   or isinstance(a.value, torch.Tensor)]
        aligned = dict(zip(map(id, tensors), self._aligned(tensors, node.meta['site'])))
        some = next(iter(aligned.values()))

        def evaluated(values_of):
            change = lambda given: (torch.from_numpy(values_of(aligned[id(given)].form)) if id(given) in aligned
                                    else given.value)
            result = self._call(node, _mapped(args, change), _mapped(kwargs, change))
            return result.double().numpy()

        count = len(self.sums.constant.grid)
        grid = evaluated(lambda form: np.broadcast_to(grid_of(form), (count, form.columns)).copy())
        sample = evaluated(lambda form: sample_of(form) + np.zeros((1, form.columns)))
        pre = self.sums.add([value.form for value in aligned.values()])
        atom = self.sums.function_atom(pre, sample, grid, node.meta['site'])
        return Value(self.sums.of_atom(atom, pre.learned, '', node.meta['site']), some.tail, some.batched)

    # ---- activations -----
    def _activation(self, activation, module, args, kwargs, value, site):
        given = {}
        for place, (name, otherwise) in enumerate(_ARGUMENTS.get(activation, {}).items()):
            if module is not None:
                given[name] = getattr(module, name, otherwise)
            else:
                given[name] = _plain(kwargs.get(name, args[place + 1] if len(args) > place + 1 else otherwise))
        scale = lambda form, factor: form if factor == 1 else self.sums.rows(form, np.full(form.columns, float(factor)))
        shift = lambda form, number: self.sums.add([form, self.sums.numbers(np.full(form.columns, number))])
        form, name, parameter, after, offset = value.form, activation, None, 1.0, 0.0
        if activation in ('sin', 'cos'):
            name, form = 'sine', form if activation == 'sin' else shift(form, math.pi / 2)
        elif activation == 'sigmoid':  # (1 + tanh z/2)/2
            name, form, after, offset = 'tanh', scale(form, 0.5), 0.5, 0.5
        elif activation == 'logsigmoid':
            name, form, parameter, after = 'softplus', scale(form, -1), 1.0, -1.0
        elif activation == 'leaky_relu':
            name, parameter = 'leaky-relu', float(given['negative_slope'])
        elif activation == 'prelu':
            if given['weight'].numel() != 1:
                refuse(site, f'has a slope for each of {given["weight"].numel()} units', 'one slope')
            name, parameter = 'leaky-relu', given['weight'].detach().item()
        elif activation == 'elu':
            if given['scale'] != 1 or given['input_scale'] != 1:
                refuse(site, 'has scales', 'alpha alone')
            parameter = float(given['alpha'])
        elif activation == 'celu':  # α elu_1(z/α)
            name, parameter, form, after = 'elu', 1.0, scale(form, 1 / float(given['alpha'])), float(given['alpha'])
        elif activation == 'softplus':
            parameter = float(given['beta'])
            if float(given['threshold']) != 20:
                refuse(site, f"is linear above {given['threshold']}", 'the threshold 20')
        elif activation == 'gelu':
            name = 'gelu' if given['approximate'] == 'none' else 'gelu-tanh'
        if name == 'leaky-relu' and parameter == 0:
            name, parameter = 'relu', None
        if name in _RANGES and not _RANGES[name][0] <= parameter <= _RANGES[name][1]:
            least, most = _RANGES[name]
            refuse(site, f'is {name} with {PARAMETERS[name]} = {parameter:g}', f'{least:g} to {most:g}')
        result = shift(scale(self._atom_of(name, form, parameter, site), after), offset) if after != 1 or offset else (
            self._atom_of(name, form, parameter, site))
        return Value(result, value.tail, value.batched)

    def _atom_of(self, name, form, parameter, site):
        apply = lambda numbers: ACTIVATIONS[name](torch.from_numpy(np.ascontiguousarray(numbers)), parameter).numpy()
        sample = apply(sample_of(form))
        grid = apply(grid_of(form)) if form.of <= {'t'} else None
        return self.sums.of_atom(self.sums.pointwise(name, form, sample, grid, parameter, site), False, form.name, site)

    def _written_activation(self, one, other, site):
        """z σ(β z) = silu(β z)/β and z tanh(softplus z) = mish(z), where they are written out."""
        for z, gate in ((one, other), (other, one)):
            atom, factor, offset = _single(gate.form)
            if atom is None or atom.operation != 'tanh' or atom.width != z.form.columns:
                continue
            inner, inner_factor, inner_offset = _single(atom.pre)
            if factor == 1 and offset == 0 and inner is not None and inner.operation == 'softplus' and (
                    inner.parameter == 1 and inner_factor == 1 and inner_offset == 0 and inner.pre.key() == z.form.key()):
                return Value(self._atom_of('mish', z.form, None, site), z.tail, z.batched)
            if factor == 0.5 and offset == 0.5:
                beta = 2 * _ratio(atom.pre, z.form)
                if beta == 1:
                    return Value(self._atom_of('silu', z.form, None, site), z.tail, z.batched)
                if beta != 0:
                    wide = self.sums.rows(atom.pre, np.full(atom.width, 2.0))
                    form = self.sums.rows(self._atom_of('silu', wide, None, site), np.full(atom.width, 1 / beta))
                    return Value(form, z.tail, z.batched)
        return None


def _single(form):
    """The atom, the factor and the offset of a sum that is factor · atom + offset in every unit; else no atom."""
    atoms = [term for term in form.terms if term.atom.operation != 'one']
    numbers = [term for term in form.terms if term.atom.operation == 'one']
    if len(atoms) != 1 or any(term.function.grid.min() != 1 or term.function.grid.max() != 1 for term in form.terms):
        return None, 0, 0
    matrix = atoms[0].matrix
    offset = numbers[0].matrix[:, 0] if numbers else np.zeros(form.columns)
    if matrix.shape[0] != matrix.shape[1] or not np.array_equal(matrix, matrix[0, 0] * np.eye(len(matrix))) or (
            np.ptp(offset) != 0):
        return None, 0, 0
    return atoms[0].atom, matrix[0, 0], offset[0]


def _ratio(form, other):
    """The number that makes `form` of `other`; 0 if there is none."""
    terms = {(id(term.atom), id(term.function)): term.matrix for term in other.terms}
    if {(id(term.atom), id(term.function)) for term in form.terms} != set(terms):
        return 0.0
    ratio = 0.0
    for term in form.terms:
        reference = terms[id(term.atom), id(term.function)]
        at = np.unravel_index(np.argmax(np.abs(reference)), reference.shape)
        ratio = ratio or term.matrix[at] / reference[at]
        if np.abs(term.matrix - ratio * reference).max() > 1e-14 * np.abs(term.matrix).max():
            return 0.0
    return float(ratio)
