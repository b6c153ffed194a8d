"""The sum that a module computes (_torch_forms) as one of fokker's networks: which atoms are which layer, what is the
embedding of the time and of the condition, and which form of the output its factors are. Everything is checked on the way:
what does not fit is refused with the line that it comes from."""

from dataclasses import dataclass

import numpy as np

from ._torch_forms import ACTIVATIONS, Form, Term
from ._torch_graph import Site, UnmappableModule, refuse

_TOLERANCE = 1e-10  # of functions of time

TIME_MAPS = ('t', 'sigma', 'log-sigma', 'log-snr')
FORMS = ('score', 'noise', 'denoised', 'v', 'velocity', 'velocity-to-data', 'edm')
OUTPUTS = tuple(['potential'] + [f'potential:{form}' for form in FORMS[1:] if not form.startswith('velocity')] + list(FORMS))
_CHAIN = ('layers of which each takes the one before it, which may have added its own input to its output, the '
          'embeddings of the time and a condition, and the first of them x; over layers of ReLU, LeakyReLU, SiLU, GELU and '
          'Softplus others too')
_PAST = 'connections go past layers'  # which the last way carries, or tells why not
# σ(z) − σ(−z) as a multiple of z, of the activations of which it is one.
_ODD_PARTS = {'relu': lambda _: 1.0, 'silu': lambda _: 1.0, 'gelu': lambda _: 1.0, 'gelu-tanh': lambda _: 1.0,
              'softplus': lambda _: 1.0, 'leaky-relu': lambda slope: 1.0 + slope}


# ---- what the SDE says ------------------------------------------------------------------------------------------------------

class Schedule:
    """The SDE's functions at times [G]: drift a, diffusion_squared g², mean m, deviation σ."""

    def __init__(self, sde, times):
        self.times = np.asarray(times, float)
        rows = np.array([sde.coefficients(float(t)) for t in self.times], float).reshape(-1, 4)
        self.drift, self.diffusion_squared, self.mean = rows[:, 0], rows[:, 1], rows[:, 2]
        self.deviation = np.sqrt(rows[:, 3])
        self.linear = sde.sde_name == 'flow'

    def time_map(self, name):
        with np.errstate(divide='ignore', invalid='ignore'):
            return {'t': lambda: self.times, 'sigma': lambda: self.deviation, 'log-sigma': lambda: np.log(self.deviation),
                    'log-snr': lambda: 2 * np.log(self.mean / self.deviation)}[name]()

    def coefficients(self, form, data_deviation=None):
        """A, B and C of score = A x + B F(C x), F what a network of that form gives."""
        zero, one, m, sigma = np.zeros_like(self.mean), np.ones_like(self.mean), self.mean, self.deviation
        n = m ** 2 + sigma ** 2
        if form == 'score':
            return zero, one, one
        if form == 'noise':
            return zero, -1 / sigma, one
        if form == 'denoised':
            return -1 / sigma ** 2, m / sigma ** 2, one
        if form == 'v':
            return -1 / n, -m / (sigma * n), one
        if form == 'edm':
            n = (m * data_deviation) ** 2 + sigma ** 2
            return -1 / n, m * data_deviation / (sigma * np.sqrt(n)), 1 / np.sqrt(n)
        sign = -1 if form == 'velocity' else 1
        if self.linear:  # a and g² are infinite at t = 1, their ratio is not
            return -1 / self.times, sign * m / self.times, one
        return 2 * self.drift / self.diffusion_squared, sign * 2 / self.diffusion_squared, one


# ---- what a network is ------------------------------------------------------------------------------------------------------

@dataclass
class Layer:
    name: str
    weight: np.ndarray
    bias: np.ndarray
    activation: str = ''
    parameter: float = None
    fixed: bool = False
    residual: bool = False
    takes: frozenset = frozenset()  # 't' and 'y', where embeddings are among its inputs

    def activation_text(self):
        return self.activation if self.parameter is None else f'{self.activation}({self.parameter!r})'


@dataclass
class Network:
    """Layers of [y, t, x], the last one linear, and the branches of the time and the condition."""
    layers: list
    time: list
    condition: list
    condition_width: int
    time_map: str
    output: str
    data_deviation: float = None


@dataclass
class _Branch:
    """An embedding. `places`: of each atom that layers take, how it is made of the embedding, (matrix, numbers)."""
    layers: list
    width: int
    places: dict
    time_map: str = 't'


class _NoChain(UnmappableModule):
    """The sum is no chain of layers, in one of the ways of taking it."""


# ---- the fit ----------------------------------------------------------------------------------------------------------------

class Fit:
    """`value` is the module's output, `schedule` is that of the grid on which its functions of time are known."""

    def __init__(self, value, sums, schedule, dimension, condition_width, site):
        self.form, self.sums, self.schedule, self.site = value.form, sums, schedule, site
        self.tail, self.dimension, self.condition_width = value.tail, dimension, condition_width

    def network(self, output, data_deviation):
        """The network whose form, as `output` says what the module gives, is the module's."""
        potential = output.startswith('potential')
        columns = 1 if potential else self.dimension
        if self.form.columns != columns or len(self.tail) > 1:
            refuse(self.site, f'gives [N, {", ".join(map(str, self.tail))}]' if self.tail else 'gives [N]',
                   f"of the output '{output}' [N, {columns}]" + (' or [N]' if potential else ''))
        last = None
        # Dense layers without an activation become part of the next, or, where several take them, layers. Then what later
        # layers take is carried there, and what stands in the way of that is what is told.
        for keeps, carries in ((lambda uses: False, False), (lambda uses: uses > 1, False), (lambda uses: False, True)):
            self._expanded, self._keeps = {}, keeps
            self._uses = self._count_uses()
            try:
                return self._network(output, data_deviation, carries)
            except _NoChain as error:
                last = error
        raise UnmappableModule(str(last), last.site)

    # ---- dense layers that are no layers of their own -----
    def _count_uses(self):
        """How many sums take each dense layer without an activation that depends on x."""
        uses, seen, waiting = {}, set(), [self.form]
        while waiting:
            form = waiting.pop()
            for atom in {id(term.atom): term.atom for term in form.terms}.values():
                uses[id(atom)] = uses.get(id(atom), 0) + 1
                if atom.pre is not None and id(atom) not in seen:
                    seen.add(id(atom))
                    waiting.append(atom.pre)
        return uses

    def _is_layer(self, atom):
        return atom.operation != 'identity' or ('x' in atom.of and self._keeps(self._uses.get(id(atom), 0)))

    def expanded(self, form):
        """The sum without dense layers that are part of others."""
        key = id(form)
        if key in self._expanded:
            return self._expanded[key][1]
        terms, learned = [], form.learned
        for term in form.terms:
            if self._is_layer(term.atom):
                terms.append(term)
                continue
            inner = self.expanded(term.atom.pre)
            learned |= inner.learned
            identity = np.array_equal(term.matrix, np.eye(*term.matrix.shape))
            for part in inner.terms:
                factor, function = self.sums.function(term.function.grid * part.function.grid,
                                                      term.function.sample * part.function.sample)
                matrix = factor * (part.matrix if identity else term.matrix @ part.matrix)
                outer = term.function is not self.sums.constant or not part.site.line
                terms.append(Term(part.atom, function, matrix, term.site if outer else part.site))
        result = self.sums.collect(form.columns, terms, learned, form.name)
        self._expanded[key] = form, result
        return result

    # ---- the trunk -----
    def _network(self, output, data_deviation, carries):
        whole = self.expanded(self.form)
        skip, squares, rest = self._split_output(whole, output, carries)
        beta, rest = self._common_function(rest)
        groups = self._groups(rest)
        consumers = [self._stacked(group) for group in groups] + [rest]
        if carries:
            groups, consumers = self._carried(groups, consumers)
        gamma = self._first_inputs(groups, consumers)
        residual = self._residuals(groups, consumers)
        time = self._branch(consumers, 't')
        condition = self._branch(consumers, 'y')
        form, data_deviation, outer, inner = self._form(output, data_deviation, skip, squares, beta, gamma)
        names = _Names()
        branches = {}
        for key, branch, what in (('y', condition, 'condition'), ('t', time, 'time')):
            branches[key] = branch
            for k, layer in enumerate(branch.layers):
                layer.name = names.unique(layer.name, f'{what}{k + 1}')
        layers = []
        for l, consumer in enumerate(consumers):
            last = l + 1 == len(consumers)
            layer = self._layer(consumer, groups, l, residual, branches, inner)
            layer.name = names.unique(consumer.name, 'output' if last else 'input' if l == 0 else f'hidden{l}')
            if last:
                layer.weight, layer.bias = outer * layer.weight, outer * layer.bias
            else:
                atom = groups[l][0]
                layer.activation, layer.parameter, layer.residual = atom.operation, atom.parameter, residual[l]
                layer.fixed = layer.activation == 'sine' and not consumer.learned
            layers.append(layer)
        return Network(layers, time.layers, condition.layers, self.condition_width, time.time_map, form, data_deviation)

    def _split_output(self, whole, output, carries):
        """The factors of x, of |x|²/2 and the other terms; where x is carried past layers one of these, if it has their factor."""
        inner = next((term.function for term in whole.terms if 'x' in term.atom.of and term.atom.operation not in ('x', 'square')),
                     None)
        skip = np.zeros_like(self.schedule.times)
        squares = np.zeros_like(skip)
        rest = []
        potential = output.startswith('potential')
        for term in whole.terms:
            kind = term.atom.operation
            if kind == 'square':
                squares = squares + 2 * self._square_factor(term)
            elif kind == 'x' and carries and term.function is inner:
                rest.append(term)
            elif kind == 'x':
                if potential:
                    raise _NoChain(f'{self._named(term.site)} adds x to a potential; allowed: multiples of |x|², and {_CHAIN}',
                                   term.site)
                factor = term.matrix[0, 0]
                if not np.array_equal(term.matrix, factor * np.eye(self.dimension)):
                    raise _NoChain(f'{self._named(term.site)} adds a linear map of x to the output; allowed: a multiple of '
                                   'x by a function of time, and layers with activations', term.site)
                skip = skip + factor * term.function.grid
            else:
                rest.append(term)
        if inner is None:
            refuse(self.site, 'has no activation of anything that x is part of', 'one hidden layer or more')
        return skip, squares, Form(whole.columns, rest, whole.learned, whole.name)

    def _named(self, site):
        return str(site if site.operation else self.site)

    def _square_factor(self, term):
        """The function q(t) of q |x|², where the terms are that."""
        if any(part.atom.operation == 'one' for part in term.atom.pre.terms) or len(term.atom.pre.terms) != 1:
            refuse(term.atom.site, 'squares x after a shift', 'the square of x, times a function of time')
        inner = term.atom.pre.terms[0]
        weights = inner.matrix.T @ (term.matrix[0][:, None] * inner.matrix)
        if not np.allclose(weights, weights[0, 0] * np.eye(len(weights)), rtol=1e-14, atol=0) or len(term.matrix) != 1:
            refuse(term.atom.site, 'adds another quadratic form of x than |x|²', 'a function of time times |x|²')
        return weights[0, 0] * inner.function.grid ** 2 * term.function.grid

    def _common_function(self, rest):
        """The one factor of all that is not a multiple of x, and the sum without it."""
        function = next(term.function for term in rest.terms if 'x' in term.atom.of)
        for term in rest.terms:
            if term.function is not function:
                site = term.site if term.site.operation else self.site
                refuse(site, 'multiplies parts of the output by different functions of time',
                       'one function of time for all of the network, and one for x')
        return function, Form(rest.columns, [Term(t.atom, self.sums.constant, t.matrix, t.site) for t in rest.terms],
                              rest.learned, rest.name)

    def _pre(self, atom):
        return self.expanded(atom.pre)

    def _groups(self, rest):
        """The atoms of each hidden layer: of one depth, and of one activation."""
        depth = {}

        def depth_of(atom):
            if atom.operation == 'x' or 'x' not in atom.of:
                return 0
            if id(atom) not in depth:
                below = [depth_of(term.atom) for term in self._pre(atom).terms]
                depth[id(atom)] = 1 + max(below, default=0)
                atoms.append(atom)
            return depth[id(atom)]

        atoms = []
        for term in rest.terms:
            depth_of(term.atom)
        groups = [[] for _ in range(max(depth.values()))]
        for atom in sorted(atoms, key=lambda atom: atom.number):
            groups[depth[id(atom)] - 1].append(atom)
        for group in groups:
            for atom in group:
                if atom.operation not in ACTIVATIONS:
                    refuse(atom.site, 'is done to x inside the network', 'squares of x in the output of a potential')
                if (atom.operation, atom.parameter) != (group[0].operation, group[0].parameter):
                    raise _NoChain(f'{atom.site} is an activation beside the other one of {group[0].site}; allowed: one '
                                   'activation for all units of a layer', atom.site)
        return groups

    def _stacked(self, group):
        """What a layer's activation is of, for all its atoms."""
        forms = [self._pre(atom) for atom in group]
        columns = sum(form.columns for form in forms)
        terms, begin = [], 0
        for form in forms:
            for term in form.terms:
                matrix = np.zeros((columns, term.matrix.shape[1]))
                matrix[begin:begin + form.columns] = term.matrix
                terms.append(Term(term.atom, term.function, matrix, term.site))
            begin += form.columns
        name = next((form.name for form in forms if form.name), '')
        return self.sums.collect(columns, terms, any(form.learned for form in forms), name)

    def _first_inputs(self, groups, consumers):
        """The factor of x where the first layer takes it; nothing else may have one, and no other layer takes it."""
        gamma = None
        for l, consumer in enumerate(consumers[:-1]):
            for term in consumer.terms:
                site = term.site if term.site.operation else self.site
                if term.atom.operation != 'x':
                    if term.function is not self.sums.constant:
                        refuse(site, 'multiplies what is inside the network by a function of time',
                               'that of x before the first layer, and of the output')
                elif l > 0:
                    raise _NoChain(_PAST)
                elif gamma is None:
                    gamma = term.function
                elif term.function is not gamma:
                    refuse(site, 'multiplies x by a second function of time', 'one function of time')
        return gamma

    def _carried(self, groups, consumers):
        """The same network with units in each layer that carry what later layers take of earlier ones, or of x, past it: of
        an activation with σ(z) − σ(−z) = c z the units σ(Q a) and σ(−Q a), where the rows of Q span all that is taken of the
        numbers a later on."""
        place = {id(atom): l for l, group in enumerate(groups) for atom in group}

        def place_of(term):  # of x it is that before all layers; None of what is no part of the chain
            return -1 if term.atom.operation == 'x' else place.get(id(term.atom))

        def matrix_of(consumer, atoms):
            parts = {id(term.atom): term.matrix for term in consumer.terms}
            return np.concatenate([np.zeros((consumer.columns, 0))] + [
                parts.get(id(atom), np.zeros((consumer.columns, atom.width))) for atom in atoms], axis=1)

        functions = {id(term.function): term.function for consumer in consumers for term in consumer.terms
                     if term.atom.operation == 'x'}
        inside = next((term for consumer in consumers for term in consumer.terms
                       if id(term.atom) in place and term.function is not self.sums.constant), None)
        if len(functions) > 1 or inside is not None:
            raise _NoChain(f'{self._named(self.site)} multiplies x, or what is inside the network, by several functions of time; '
                           'allowed: one, of x', self.site)
        of_x = next(iter(functions.values()), self.sums.constant)
        far, spans = [], []  # of each layer the atoms that are carried past it, and Q
        for j, group in enumerate(groups):
            later = [term for consumer in consumers[j + 1:] for term in consumer.terms
                     if place_of(term) is not None and place_of(term) < j]
            far.append(sorted({id(term.atom): term.atom for term in later}.values(), key=lambda atom: atom.number))
            if not far[j]:
                spans.append(np.zeros((0, 0)))
                continue
            taken = np.concatenate([matrix_of(consumer, far[j]) for consumer in consumers[j + 1:]])
            _, sizes, rows = np.linalg.svd(taken, full_matrices=False)
            rank = int(np.sum(sizes > 1e-13 * sizes[0]))
            spans.append(np.eye(taken.shape[1]) if rank == taken.shape[1] else rows[:rank])
            if group[0].operation not in _ODD_PARTS:
                taken = 'x is' if far[j][0].operation == 'x' else f'units of {far[j][0].site} are'
                raise _NoChain(f'{group[0].site} is the activation of a layer past which {taken} taken; allowed: connections past '
                               'layers of ReLU, LeakyReLU, SiLU, GELU and Softplus alone, or, of any activations, sums around one '
                               'layer each', group[0].site)

        carriers, result = [], []
        for group, span in zip(groups, spans):
            carriers.append(self.sums.atom(group[0].operation, 2 * len(span), frozenset('x'), None, None, None,
                                           group[0].parameter, group[0].site))
        for l, consumer in enumerate(consumers):
            terms = [term for term in consumer.terms if place_of(term) in (None, l - 1)]
            rows = matrix_of(consumer, far[l - 1]) if l > 0 else np.zeros((consumer.columns, 0))
            columns = consumer.columns
            if l < len(groups) and len(spans[l]):
                both = np.concatenate([spans[l], -spans[l]])
                terms = [Term(term.atom, term.function, _below(term.matrix, len(both)), term.site) for term in terms]
                begin, own = 0, np.zeros((len(both), rows.shape[1]))
                for atom in far[l]:
                    part = both[:, begin:begin + atom.width]
                    begin += atom.width
                    if (-1 if atom.operation == 'x' else place[id(atom)]) == l - 1:
                        function = of_x if atom.operation == 'x' else self.sums.constant
                        terms.append(Term(atom, function, _above(part, columns), groups[l][0].site))
                    else:
                        at = sum(other.width for other in far[l - 1][:far[l - 1].index(atom)])
                        own[:, at:at + atom.width] = part
                rows = np.concatenate([rows, own])
                columns += len(both)
            if l > 0 and len(spans[l - 1]) and rows.any():
                scaled = rows @ spans[l - 1].T / _ODD_PARTS[carriers[l - 1].operation](carriers[l - 1].parameter)
                terms.append(Term(carriers[l - 1], self.sums.constant, np.concatenate([scaled, -scaled], axis=1), Site()))
            result.append(self.sums.collect(columns, terms, consumer.learned, consumer.name))
        return [group + [carrier] * (carrier.width > 0) for group, carrier in zip(groups, carriers)], result

    def _residuals(self, groups, consumers):
        """Whether each hidden layer adds its input to its output, by what the next one takes."""
        place = {id(atom): l for l, group in enumerate(groups) for atom in group}
        residual, taken_before = [], set()
        for l in range(len(groups)):
            consumer = consumers[l + 1]
            taken = {place[id(term.atom)] for term in consumer.terms if id(term.atom) in place}
            adds = l > 0 and l - 1 in taken
            if taken != {l} | (taken_before if adds else set()):
                raise _NoChain(_PAST)
            matrices = {k: self._columns_of(consumer, groups[k]) for k in taken}
            for k in taken - {l}:
                same = matrices[k].shape == matrices[l].shape and (
                    np.abs(matrices[k] - matrices[l]).max() <= 1e-13 * np.abs(matrices[l]).max())
                if not same:
                    raise _NoChain(_PAST)
            residual.append(adds)
            taken_before = taken
        return residual

    def _columns_of(self, consumer, group):
        parts = {id(term.atom): term.matrix for term in consumer.terms}
        return np.concatenate([parts.get(id(atom), np.zeros((consumer.columns, atom.width))) for atom in group], axis=1)

    def _layer(self, consumer, groups, l, residual, branches, inner):
        bias = sum((term.matrix[:, 0] for term in consumer.terms if term.atom.operation == 'one'),
                   np.zeros(consumer.columns))
        blocks, takes = [], set()
        for key in ('y', 't'):
            branch = branches[key]
            terms = [term for term in consumer.terms if term.atom.of == {key}]
            if not terms:
                continue
            takes.add(key)
            weight = np.zeros((consumer.columns, branch.width))
            for term in terms:
                matrix, numbers = branch.places[id(term.atom)]
                weight += term.matrix @ matrix
                bias = bias + term.matrix @ numbers
            blocks.append(weight)
        if l == 0:
            x = sum(term.matrix for term in consumer.terms if term.atom.operation == 'x')
            blocks.append(x * inner if inner != 1 else x)
        else:
            blocks.append(self._columns_of(consumer, groups[l - 1]))
        return Layer('', np.concatenate(blocks, axis=1), bias, takes=frozenset(takes))

    # ---- embeddings -----
    def _branch(self, consumers, key):
        atoms = {}
        for consumer in consumers:
            for term in consumer.terms:
                of = term.atom.of
                if 'x' not in of and len(of) > 1:
                    refuse(term.atom.site, 'is an activation of the time and the condition together',
                           'embeddings of each by itself')
                if key == 'y' and of == {'y'} and term.function is not self.sums.constant:
                    refuse(term.site, 'multiplies a condition by a function of time', 'conditions as they are')
                if of == {key} and term.function is self.sums.constant:
                    atoms[id(term.atom)] = term.atom
        if not atoms:
            return _Branch([], 1 if key == 't' else self.condition_width, {})
        return self._embedding(sorted(atoms.values(), key=lambda atom: atom.number), key)

    def _embedding(self, atoms, key):
        raw = self._raw(atoms, key)
        if raw is not None:
            return raw
        for atom in atoms:
            if atom.operation in ('t', 'y'):
                what = 'the time' if key == 't' else 'the condition'
                made = next(other for other in atoms if other.operation not in ('t', 'y'))
                refuse(made.site, f'is of an embedding of {what}, beside which {what} itself is taken',
                       'either the number itself or its embedding')
            if atom.operation not in ACTIVATIONS:
                refuse(atom.site, 'is no ' + ', '.join(TIME_MAPS[:-1]) + f' or {TIME_MAPS[-1]} of the SDE, times a number '
                       'and plus a number, ' + self._nearest(atom), 'these, by whatever operations, all of the network by '
                       'one of them')
            if (atom.operation, atom.parameter) != (atoms[0].operation, atoms[0].parameter):
                refuse(atom.site, f'is part of an embedding beside {atoms[0].site}', 'one activation for each layer of an '
                       'embedding')
        forms = [self._pre(atom) for atom in atoms]
        below = {}
        for form in forms:
            for term in form.terms:
                if term.atom.operation == 'one':
                    continue
                below[id(term.atom)] = term.atom
        if not below:
            refuse(atoms[0].site, 'is an activation of numbers alone', 'numbers, without an activation')
        inner = self._embedding(sorted(below.values(), key=lambda atom: atom.number), key)
        rows, biases = [], []
        for form in forms:
            weight, bias = np.zeros((form.columns, inner.width)), np.zeros(form.columns)
            for term in form.terms:
                if term.atom.operation == 'one':
                    bias += term.matrix[:, 0]
                    continue
                matrix, numbers = inner.places[id(term.atom)]
                weight += term.matrix @ matrix
                bias += term.matrix @ numbers
            rows.append(weight)
            biases.append(bias)
        learned = any(form.learned for form in forms)
        name = next((form.name for form in forms if form.name), '')
        layer = Layer(name, np.concatenate(rows), np.concatenate(biases), atoms[0].operation, atoms[0].parameter,
                      atoms[0].operation == 'sine' and not learned)
        places, begin, width = {}, 0, len(layer.bias)
        for atom in atoms:
            place = np.zeros((atom.width, width))
            place[:, begin:begin + atom.width] = np.eye(atom.width)
            places[id(atom)] = place, np.zeros(atom.width)
            begin += atom.width
        return _Branch(inner.layers + [layer], width, places, inner.time_map)

    def _raw(self, atoms, key):
        """The condition itself; or one of the SDE's functions of time, of which all these are multiples plus numbers."""
        if key == 'y':
            if any(atom.operation != 'y' for atom in atoms):
                return None
            return _Branch([], self.condition_width, {id(atoms[0]): (np.eye(self.condition_width),
                                                                     np.zeros(self.condition_width))})
        if any(atom.operation not in ('t', 'function') for atom in atoms):
            return None
        for name in TIME_MAPS:
            fits = {id(atom): self._fitted(atom.grid, name)[:2] for atom in atoms
                    if self._fitted(atom.grid, name)[2] <= _TOLERANCE}
            if len(fits) == len(atoms):
                return _Branch([], 1, {key: (a[:, None], b) for key, (a, b) in fits.items()}, name)
        return None

    def _fitted(self, values, name):
        """values [G, K] ≈ a m(t) + b, and the largest error relative to each column's largest value."""
        m = self.schedule.time_map(name)
        if not np.isfinite(m).all():
            return np.zeros(values.shape[1]), np.zeros(values.shape[1]), np.inf
        if values.shape == (len(m), 1) and np.array_equal(values[:, 0], m):
            return np.ones(1), np.zeros(1), 0.0
        basis = np.stack([m / np.abs(m).max(), np.ones_like(m)], axis=1)
        (a, b), *_ = np.linalg.lstsq(basis, values, rcond=None)
        error = np.abs(basis @ np.stack([a, b]) - values).max(axis=0) / np.maximum(np.abs(values).max(axis=0), 1e-300)
        a = a / np.abs(m).max()
        b = np.where(np.abs(b) <= 1e-13 * np.abs(values).max(axis=0), 0, b)
        return _rounded(a), _rounded(b), error.max(initial=0)

    def _nearest(self, atom):
        name = min(TIME_MAPS, key=lambda name: self._fitted(atom.grid, name)[2])
        return f'the nearest being {name}, by up to {self._fitted(atom.grid, name)[2]:.1e} of its largest value'

    # ---- the form of the output -----
    def _form(self, output, data_deviation, skip, squares, beta, gamma):
        """The form whose A, B, C are the module's: it gives α x + β F(γ x), or ½ α |x|² + β Φ(γ x), of the x that it is
        given, and `output` says what that is to the score. Also the numbers by which its output and its x are multiplied."""
        potential = output.startswith('potential')
        declared = output.removeprefix('potential').removeprefix(':') or 'score'
        a, b, c = self.schedule.coefficients(declared, data_deviation)
        one = np.ones_like(a)
        gamma = one if gamma is None else gamma.grid
        own_skip = b * c * (squares if potential else skip)
        wanted_a = a + own_skip
        wanted_c = gamma * c
        wanted_b = b / c * beta.grid if potential else b * beta.grid  # of potentials B/C
        for name in dict.fromkeys([declared, *FORMS]):
            if name.startswith('velocity') and potential:
                continue
            deviation = None
            if name == 'edm':
                deviation = data_deviation if name == declared else self._deviation_of(wanted_a)
                if deviation is None:
                    continue
            form_a, form_b, form_c = self.schedule.coefficients(name, deviation)
            if potential:
                form_b = form_b / form_c
            if np.abs(form_a - wanted_a).max() > 0 and not np.all(
                    np.abs(form_a - wanted_a) <= _TOLERANCE * (np.abs(form_a) + np.abs(a) + np.abs(own_skip))):
                continue
            outer, inner = _constant(wanted_b / form_b), _constant(wanted_c / form_c)
            if outer is not None and inner is not None:
                return ('potential' if name == 'score' else f'potential:{name}') if potential else name, deviation, outer, inner
        middle = len(one) // 2
        t = self.schedule.times[middle]
        refuse(self.site, f"gives α(t) {'|x|²/2' if potential else 'x'} + β(t) F(γ(t) x) of its x, at t = {t:.4g} with α = "
               f'{(squares if potential else skip)[middle]:.6g}, β ∝ {beta.grid[middle]:.6g} and γ ∝ {gamma[middle]:.6g}, '
               f"which as '{output}' is none of the forms that fokker has under this SDE",
               "factors that make it " + ', '.join(FORMS) + ' (for these m and σ, to 1e-10), up to one number')

    def _deviation_of(self, a):
        """σ_d of A = −1/(m² σ_d² + σ²), by least squares of the relative errors."""
        m, variance = self.schedule.mean ** 2, self.schedule.deviation ** 2
        square = -np.sum(a * m * (1 + a * variance)) / np.sum((a * m) ** 2) if np.any(a) else 0
        if not square > 0:
            return None
        deviation = float(np.sqrt(square))
        short = float(f'{deviation:.10g}')  # as the code has it, before the roundings of differences of large numbers
        return short if abs(short - deviation) <= 1e-12 * deviation else deviation


def _below(matrix, count):
    """With rows of zeros after it."""
    return np.concatenate([matrix, np.zeros((count, matrix.shape[1]))])


def _above(matrix, count):
    """With rows of zeros before it."""
    return np.concatenate([np.zeros((count, matrix.shape[1])), matrix])


def _constant(ratio):
    """The number that a function of time is; None where it is no number."""
    middle = float(np.median(ratio))
    if not np.isfinite(ratio).all() or middle == 0 or np.abs(ratio / middle - 1).max() > _TOLERANCE:
        return None
    return float(_rounded(np.array([middle]))[0])


def _rounded(numbers):
    """Without the last digits, where those are zeros or nines: 0.5 for 0.49999999999999994."""
    short = np.array([float(f'{number:.12g}') for number in numbers])
    return np.where(np.abs(short - numbers) <= 4e-15 * np.abs(numbers), short, numbers)


class _Names:
    """Names of layers in a file: what the module calls them, else `otherwise`, each once."""

    def __init__(self):
        self._taken = set()

    def unique(self, name, otherwise):
        name = ''.join(c if '!' <= c <= '~' and c not in ',"\'' else '_' for c in name).strip('.')[:150]
        if not name or name in ('none', 'proof') or name.startswith('proof.'):
            name = otherwise
        own, k = name, 1
        while own in self._taken:
            k += 1
            own = f'{name}_{k}'
        self._taken.add(own)
        return own


