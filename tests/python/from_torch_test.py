"""Modules of PyTorch as models: every layout of tests/layouts, others that people build, and what is refused.

What from_torch makes is read from its bytes by the safetensors package and evaluated here from the words of tools/README.md,
in double and with autograd; no code of the package has part in that. The models are held against the module too, and where
FOKKER_EXECUTABLE names the command line, its reader.
"""
import copy
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch')
safetensors = pytest.importorskip('safetensors.torch')
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import fokker  # noqa: E402
from fokker import _from_torch as from_torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
trace, Unmappable = from_torch.trace, from_torch.UnmappableModule

sys.path.insert(0, str(ROOT / 'tests' / 'layouts'))
import make_layouts as layouts  # noqa: E402  (sets the default dtype to double)

torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)
    yield
    torch.set_default_dtype(torch.float32)


class Sde:
    """An SDE as from_torch takes it; its coefficients are those of make_layouts.py, from m and σ by autograd."""
    kept = {}

    def __init__(self, name):
        self.sde_name, self.sde_parameters, self.horizon = name, '{}', layouts.SDES[name][1]
        self.t_min = 2e-3 if name == 'edm' else 1e-3

    def coefficients(self, t):
        key = self.sde_name, t
        if key not in self.kept:
            with torch.enable_grad():
                m, sigma, a, g2 = layouts.coefficients(self.sde_name, torch.tensor([t], dtype=torch.float64))
            self.kept[key] = float(a), float(g2), float(m), float(sigma) ** 2
        return self.kept[key]


# ---- a reader of model files, by their documentation -------------------------------------------------------------------------

ACTIVATIONS = {'silu': lambda z: z / (1 + torch.exp(-z)), 'tanh': torch.tanh, 'sine': torch.sin,
               'relu': lambda z: torch.where(z > 0, z, 0 * z), 'identity': lambda z: z,
               'gelu': lambda z: z * 0.5 * torch.erfc(-z / math.sqrt(2)),
               'gelu-tanh': lambda z: z * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z ** 3))),
               'mish': lambda z: z * torch.tanh(torch.log1p(torch.exp(z))),
               'selu': lambda z: 1.0507009873554805 * torch.where(z > 0, z, 1.6732632423543772 * torch.expm1(z))}
WITH_PARAMETER = {'softplus': ('beta', lambda z, b: torch.log1p(torch.exp(b * z)) / b),
                  'leaky-relu': ('negative_slope', lambda z, s: torch.where(z > 0, z, s * z)),
                  'elu': ('alpha', lambda z, a: torch.where(z > 0, z, a * torch.expm1(z)))}


def activation(text, metadata):
    name, _, inside = text.partition('(')
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    key, function = WITH_PARAMETER[name]
    parameter = float(inside.rstrip(')') or metadata[key])
    return lambda z: function(z, parameter)


class File:
    """A model in a file: score(t, x, y) in double, differentiable by x."""

    def __init__(self, metadata, tensors):
        content = from_torch.contents(metadata, tensors)
        self.tensors = {name: tensor.double() for name, tensor in safetensors.load(content).items()}
        length = int.from_bytes(content[:8], 'little')
        self.metadata = json.loads(content[8:8 + length])['__metadata__']
        self.dtypes = {name: entry['dtype'] for name, entry in json.loads(content[8:8 + length]).items() if 'dtype' in entry}
        assert self.metadata == metadata
        self.names = metadata['layers'].split(',')

    def listed(self, key, otherwise=''):
        text = self.metadata.get(key, otherwise)
        return [] if text in ('none', '') else text.split(',')

    def dense(self, name, h):
        return h @ self.tensors[f'{name}.weight'].T + self.tensors[f'{name}.bias']

    def branch(self, what, h):
        for name, text in zip(self.listed(f'{what}_layers'), self.listed(f'{what}_branch')):
            kind, _, width = text.removeprefix('fixed:').rpartition(':')
            h = activation(kind, self.metadata)(self.dense(name, h))
            assert h.shape[1] == int(width)
        return h

    def network(self, tau, x, y):
        """F or Φ, [N, columns]."""
        order = self.metadata['inputs'].split(',')
        assert order[-1] == 'x' and len(order) == (3 if y is not None else 2) and order[:-2] in ([], ['y'])
        e = self.branch('time', tau[:, None])
        c = None if y is None else self.branch('condition', y)
        texts = self.listed('activation')
        texts = texts * (len(self.names) - 1) if len(texts) == 1 else texts
        h = x
        for l, name in enumerate(self.names):
            parts = [c] if y is not None and name in self.listed('condition_into', self.names[0]) else []
            parts += [e] if name in self.listed('time_into', self.names[0]) else []
            z = self.dense(name, torch.cat([*parts, h], dim=1))
            if l + 1 == len(self.names):
                return z
            z = activation(texts[l], self.metadata)(z)
            h = z + h if name in self.listed('residual') else z
        return None

    def score(self, t, x, y=None):
        name = self.metadata['sde']
        m, sigma, a, g2 = (part[:, None] for part in layouts.coefficients(name, t))
        kind = self.metadata['inputs'].split(',')[-2]
        tau = {'t': t, 'sigma': sigma[:, 0], 'log-sigma': torch.log(sigma[:, 0]),
               'log-snr': 2 * torch.log(m / sigma)[:, 0]}[kind]
        output = self.metadata['output']
        form = output.removeprefix('potential').removeprefix(':') or 'score'
        squares = m * m + sigma ** 2
        deviation = float(self.metadata.get('data_deviation', 1))
        inner = 1 / torch.sqrt((m * deviation) ** 2 + sigma ** 2) if form == 'edm' else torch.ones_like(m)
        if output.startswith('potential'):
            h = inner * x
            value = self.network(tau, h, y)
            f, = torch.autograd.grad(value.sum(), h, create_graph=True)
        else:
            f = self.network(tau, inner * x, y)
        if form == 'score':
            return f
        if form == 'noise':
            return -f / sigma
        if form == 'denoised':
            return (m * f - x) / sigma ** 2
        if form == 'v':
            return -(x + m / sigma * f) / squares
        if form == 'edm':
            return -x * inner ** 2 + m * deviation / sigma * inner * f
        assert form in ('velocity', 'velocity-to-data')
        return 2 * (a * x - (f if form == 'velocity' else -f)) / g2


def points(sde, d, c=0, n=17):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        low, high = sde.t_min, sde.t_min + 0.9 * (sde.horizon - sde.t_min)
        t = torch.exp(torch.empty(n, dtype=torch.float64).uniform_(math.log(low), math.log(high)))
        sigma = torch.tensor([math.sqrt(sde.coefficients(float(time))[3]) for time in t], dtype=torch.float64)
        x = torch.randn(n, d, dtype=torch.float64) * torch.sqrt(1 + sigma ** 2)[:, None]
        return t, x.requires_grad_(True), torch.randn(n, c, dtype=torch.float64) if c else None


def agree(ours, expected, bound=1e-9):
    scale = expected.abs().max()
    # A norm-wise and an element-wise bound: what both lose are roundings of double, and products of layers made one.
    assert torch.isfinite(ours).all() and (ours - expected).abs().max() <= bound * scale
    assert torch.all((ours - expected).abs() <= 1e2 * bound * (expected.abs() + 1e-3 * scale))


def divergence(score, x):
    return sum(torch.autograd.grad(score[:, i].sum(), x, create_graph=True, retain_graph=True)[0][:, i]
               for i in range(x.shape[1]))


def check(module, sde, output, expected, d, c=0, scalar=False, **options):
    """Maps the module; its score and divergence are those of `expected`(double copy, t, x, y), by autograd."""
    torch.set_default_dtype(torch.float32)
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    example = {'x': torch.zeros(4, d, dtype=dtype), 't': torch.zeros(() if scalar else 4, dtype=dtype)}
    if c:
        example['y'] = torch.zeros(4, c, dtype=dtype)
    example.update(options.pop('example', {}))
    metadata, tensors = trace(module, example, sde=sde, output=output, **options)
    file = File(metadata, tensors)
    t, x, y = points(sde, d, c)
    own = from_torch.double_copy(module)
    with from_torch.Doubles():
        reference = expected(own, t, x, y)
    score = file.score(t, x, y)
    # Weighted by σ, for a score grows as 1/σ.
    sigma = layouts.coefficients(sde.sde_name, t)[1]
    agree(sigma[:, None] * score, sigma[:, None] * reference)
    agree(sigma ** 2 * divergence(score, x), sigma ** 2 * divergence(reference, x))
    proof_t, proof_x = file.tensors['proof.t'], file.tensors['proof.x'].requires_grad_(True)
    scores = file.score(proof_t, proof_x, file.tensors.get('proof.condition'))
    sigma = layouts.coefficients(sde.sde_name, proof_t)[1][:, None]
    agree(sigma * scores, sigma * file.tensors['proof.score'])
    given = from_torch.from_torch(module, example, sde=sde.sde_name, output=output, **options)
    assert (given.dimension, given.condition_width, given.sde_name) == (d, c, sde.sde_name)
    if os.environ.get('FOKKER_EXECUTABLE'):
        read_by_the_executable(from_torch.contents(metadata, tensors))
    return file


def read_by_the_executable(content):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'model.safetensors'
        path.write_bytes(content)  # its proof is checked when it is read
        done = subprocess.run([os.environ['FOKKER_EXECUTABLE'], 'info', '--model', path, '--json'], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# ---- the layouts of tests/layouts --------------------------------------------------------------------------------------------

class OverSigma(nn.Module):
    """The layout's output over σ, computed in the forward() as such networks do."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x, t) / torch.sqrt(0.01 ** 2 * ((50 / 0.01) ** (2 * t) - 1))[:, None]


@pytest.mark.parametrize('name', list(layouts.LAYOUTS))
def test_layout(name):
    kind, form, sde_name, d, recipe = layouts.LAYOUTS[name]
    torch.set_default_dtype(torch.float64)
    module = kind()
    torch.set_default_dtype(torch.float32)
    c = recipe.get('condition_width', 0)
    output, options = recipe['output'], {}
    if output.endswith('edm'):
        options['data_deviation'] = recipe['data_deviation']
    given = module
    if form == 'over sigma':
        given, output = OverSigma(module), 'score'

    def expected(own, t, x, y):
        net = own.net if form == 'over sigma' else own
        network = net if y is None else lambda x, t: net(x, t, y)
        return layouts.fields(network, form, sde_name, x, t)[0] if form == 'potential' else (
            layouts.score_of(network, form, sde_name, x, t))

    if form == 'potential':
        def expected(own, t, x, y):  # noqa: F811
            value = layouts.potential_of(own, sde_name, x, t)
            return torch.autograd.grad(value.sum(), x, create_graph=True)[0]

    file = check(given, Sde(sde_name), output, expected, d, c, **options)
    assert file.metadata['output'] == ('noise' if form == 'over sigma' else output)
    time, = [part.split('*')[-1].split('+')[0] for part in recipe['inputs'].split(',') if part not in ('x', 'y')]
    assert file.metadata['inputs'].split(',')[-2] == time
    assert ('time' in recipe and isinstance(recipe['time'][0], dict)) == (
        file.metadata.get('time_branch', '').startswith('fixed:sine:'))
    residual = recipe.get('residual', [])
    assert len(file.listed('residual')) == (1 if isinstance(residual, str) else len(residual))


# ---- others that people build ------------------------------------------------------------------------------------------------

def noise(own, t, x, y):
    sigma = layouts.coefficients('vp-linear', t)[1][:, None]
    return -own(x, t) / sigma


VP = Sde('vp-linear')


class Preconditioned(nn.Module):
    """All of EDM's preconditioning, as a denoiser of (x, σ)."""

    def __init__(self, sigma_data=0.5):
        super().__init__()
        self.sigma_data = sigma_data
        self.model = nn.Sequential(nn.Linear(3, 20), nn.SiLU(), nn.Linear(20, 20), nn.SiLU(), nn.Linear(20, 2))

    def forward(self, x, sigma):
        x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1)
        c_skip = self.sigma_data ** 2 / (sigma ** 2 + self.sigma_data ** 2)
        c_out = sigma * self.sigma_data / (sigma ** 2 + self.sigma_data ** 2).sqrt()
        c_in = 1 / (self.sigma_data ** 2 + sigma ** 2).sqrt()
        c_noise = sigma.log() / 4
        return c_skip * x + c_out * self.model(torch.cat([c_in * x, c_noise], dim=-1))


def test_edm_preconditioning_in_the_code():
    sde = Sde('edm')
    file = check(Preconditioned(), sde, 'denoised', lambda own, t, x, y: (own(x, t) - x) / (t ** 2)[:, None], 2,
                 example={'x': torch.zeros(3, 2), 't': torch.ones(3)})
    assert file.metadata['output'] == 'edm' and float(file.metadata['data_deviation']) == 0.5
    assert file.metadata['inputs'] == 'log-sigma,x'


class PotentialPreconditioned(nn.Module):
    """-|x|²/2n + m σ_d/σ Φ(x/√n) for log p, n = m² σ_d² + σ²."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, t, x):
        t = t[:, None]
        integral = 0.1 * t + 9.95 * t ** 2
        m, sigma = torch.exp(-integral / 2), torch.sqrt(1 - torch.exp(-integral))
        n = (0.8 * m) ** 2 + sigma ** 2
        phi = self.net(torch.cat([x / n.sqrt(), t], 1))
        return m * 0.8 / sigma * phi - 0.5 * x.pow(2).sum(dim=1, keepdim=True) / n


def test_potential_with_all_its_factors():
    def expected(own, t, x, y):
        return torch.autograd.grad(own(t, x).sum(), x, create_graph=True)[0]
    file = check(PotentialPreconditioned(), VP, 'potential', expected, 3)
    assert file.metadata['output'] == 'potential:edm' and float(file.metadata['data_deviation']) == pytest.approx(0.8, rel=1e-9)


class Spelled(nn.Module):
    """One network in unusual words: addmm, products with matrices, einsum, chunks, a hand-written silu, in-place sums."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(12, 2))
        self.b = nn.Parameter(torch.randn(12))
        self.u = nn.Parameter(torch.randn(1, 12))
        self.w = nn.Parameter(torch.randn(12, 12) / 3)
        self.out = nn.Linear(12, 4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x, t):
        assert x.shape[1] == 2
        if t.dim() == 1:
            t = t.unsqueeze(-1)
        z = torch.addmm(self.b, x, self.a.t())
        z += 2 * t @ self.u
        h = z * torch.sigmoid(z)
        h = self.drop(h)
        h = functional.gelu(torch.einsum('ij,kj->ik', h, self.w), approximate='tanh')
        first, second = self.out(h).chunk(2, dim=-1)
        return -(first - 0.5 * second).contiguous().view(x.size(0), -1)


def test_spellings():
    file = check(Spelled().eval(), VP, 'noise', noise, 2)
    assert file.metadata['activation'] == 'silu,gelu-tanh'


@pytest.mark.parametrize('layer', [
    nn.SiLU(), nn.Tanh(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.PReLU(), nn.ELU(0.7), nn.CELU(1.5), nn.SELU(), nn.GELU(),
    nn.GELU('tanh'), nn.Mish(), nn.Softplus(), nn.Softplus(beta=3), nn.Sigmoid(), nn.LogSigmoid()], ids=str)
def test_activation(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 7), layer, nn.Linear(7, 5), layer if not isinstance(layer, nn.PReLU)
                                     else nn.PReLU(), nn.Linear(5, 2))

        def forward(self, x, t):
            return self.net(torch.cat([t[:, None], x], 1))
    check(Net(), VP, 'noise', noise, 2)


@pytest.mark.parametrize('function', [
    functional.silu, torch.sigmoid, torch.sin, torch.cos, functional.mish, functional.relu, functional.logsigmoid,
    lambda z: functional.softplus(z, beta=2), lambda z: functional.elu(z, alpha=0.5), lambda z: z.tanh(),
    lambda z: functional.leaky_relu(z, 0.3), lambda z: z * torch.sigmoid(1.702 * z), lambda z: functional.celu(z, 0.5),
    lambda z: z * torch.tanh(functional.softplus(z)), lambda z: z.sigmoid() * z, lambda z: (30 * z).sin()])
def test_function_as_activation(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x, t):
            return self.two(function(self.one(torch.hstack([x, t.view(-1, 1)]))))
    check(Net(), VP, 'noise', noise, 2)


class Residual(nn.Module):
    """A projection of x without an activation, then blocks that each take the embedding through a layer of their own."""

    def __init__(self, blocks=3, width=18, dimension=3):
        super().__init__()
        self.register_buffer('frequencies', torch.exp(torch.linspace(0, 4, 6)))
        self.embed = nn.Sequential(nn.Linear(12, 10), nn.SiLU())
        self.begin = nn.Linear(dimension, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.times = nn.ModuleList([nn.Linear(10, width) for _ in range(blocks)])
        self.end = nn.Linear(width, dimension)

    def forward(self, x, t):
        angles = torch.outer(t, self.frequencies)
        e = self.embed(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
        h = self.begin(x)
        for block, time in zip(self.blocks, self.times):
            h = h + functional.silu(block(h) + time(e))
        return self.end(h)


def test_residual_blocks_after_a_projection():
    file = check(Residual(), VP, 'noise', noise, 3)
    assert file.metadata['activation'] == 'identity,silu,silu,silu'
    assert len(file.listed('residual')) == 3 and file.metadata['time_branch'] == 'fixed:sine:12,silu:10'


class Block(nn.Module):
    """h + W₂ σ(W₁ h + U e), the usual residual block of two layers."""

    def __init__(self, width, inside, activation):
        super().__init__()
        self.one, self.two, self.time = nn.Linear(width, inside), nn.Linear(inside, width), nn.Linear(8, inside)
        self.activation = activation

    def forward(self, h, e):
        return h + self.two(self.activation(self.one(h) + self.time(e)))


class Blocks(nn.Module):
    def __init__(self, activation, before, dimension=2, columns=2):
        super().__init__()
        self.register_buffer('frequencies', torch.exp(torch.linspace(0, 3, 4)))
        self.begin, self.end = nn.Linear(dimension, 9), nn.Linear(9, columns)
        self.blocks = nn.ModuleList([Block(9, inside, activation) for inside in (7, 12, 9)])
        self.before = before

    def forward(self, x, t):
        e = torch.outer(t, self.frequencies)
        e = torch.cat([e.sin(), e.cos()], dim=1)
        h = self.before(self.begin(x))
        for block in self.blocks:
            h = block(h, e)
        return self.end(h)


# σ(z) - σ(-z) is z, or 1.3 z.
CARRYING = [nn.SiLU(), nn.ReLU(), nn.LeakyReLU(0.3), nn.GELU(), nn.GELU('tanh'), nn.Softplus(), nn.Softplus(beta=3)]


@pytest.mark.parametrize('activation', CARRYING, ids=str)
def test_residual_blocks_of_two_layers(activation):
    file = check(Blocks(activation, activation), VP, 'noise', noise, 2)
    assert [len(file.tensors[f'{name}.bias']) for name in file.names] == [9, 7 + 18, 12 + 18, 9 + 4, 2]
    # A projection without an activation is part of the first block: x is carried past it. The output takes two numbers of all.
    file = check(Blocks(activation, nn.Identity()), VP, 'noise', noise, 2)
    assert [len(file.tensors[f'{name}.bias']) for name in file.names] == [7 + 4, 12 + 18, 9 + 4, 2]


@pytest.mark.parametrize('before', [nn.SiLU(), nn.Identity()], ids=str)
def test_a_potential_of_residual_blocks(before):
    def expected(own, t, x, y):
        return torch.autograd.grad(own(x, t).sum(), x, create_graph=True)[0]
    check(Blocks(nn.SiLU(), before, 3, 1), VP, 'potential', expected, 3)


def test_residual_blocks_of_one_number():
    check(Blocks(nn.SiLU(), nn.Identity(), 1, 1), VP, 'noise', noise, 1)


class Skips(nn.Module):
    """x taken again by a later layer and by the last, the first layer by the last, and different activations between."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 7), nn.Linear(7 + 3, 9)])
        self.end = nn.Linear(9 + 8, 3)
        self.activations = nn.ModuleList([nn.Tanh(), nn.GELU(), nn.SiLU()])

    def forward(self, x, t):
        first = self.activations[0](self.layers[0](torch.cat([x, t[:, None]], 1)))
        second = self.activations[1](self.layers[1](first))
        third = self.activations[2](self.layers[2](torch.cat([second, 0.5 * x], 1)))
        return self.end(torch.cat([third, first], 1))


def test_skips_past_layers():
    module = Skips()
    with pytest.raises(Unmappable, match="'Tanh' in 'activations.0'.* past which x is taken.*past layers of ReLU"):
        trace(module, {'x': torch.zeros(3, 3), 't': torch.zeros(3)}, sde=VP, output='v')
    module.activations[0] = nn.ReLU()
    file = check(module, VP, 'noise', noise, 3)
    assert file.metadata['activation'] == 'relu,gelu,silu'
    assert [len(file.tensors[f'{name}.bias']) for name in file.names] == [8 + 2 * 3, 7 + 2 * (3 + 3), 9 + 2 * 3, 3]


def test_random_shapes():
    random = np.random.default_rng(3)
    for _ in range(6):
        d, layers = int(random.integers(1, 6)), int(random.integers(1, 5))
        widths = [int(random.integers(1, 40)) for _ in range(layers)]
        embedding = int(random.integers(1, 20))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.W = nn.Parameter(torch.randn(embedding) * 3, requires_grad=False)
                self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([d + 2 * embedding, *widths], [*widths, d]))

            def forward(self, x, t):
                proj = t[:, None] * self.W[None, :] * 2 * math.pi
                h = torch.cat([torch.cos(proj), torch.sin(proj), x], dim=-1)
                for layer in self.layers[:-1]:
                    h = torch.tanh(layer(h))
                return self.layers[-1](h)
        file = check(Net(), VP, 'noise', noise, d)
        assert len(file.names) == layers + 1


def test_time_of_one_number():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 9), nn.Linear(9, 2)

        def forward(self, t, x):
            return self.two(torch.tanh(self.one(torch.cat([x, t.expand(x.shape[0], 1)], 1))))

    def expected(own, t, x, y):
        return torch.cat([own(t[i], x[i:i + 1]) for i in range(len(t))]) * 1.0
    file = check(Net(), Sde('vp-linear'), 'score', expected, 2, scalar=True)
    assert file.metadata['output'] == 'score'


class Backwards(nn.Module):
    """A velocity whose own time runs from noise to data, given as s = 1 - t."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 11), nn.ELU(), nn.Linear(11, 2))

    def forward(self, points, s):
        return self.net(torch.cat((points, s), dim=-1))


def test_time_from_noise_to_data():
    sde = Sde('flow')

    def expected(own, t, x, y):
        m, sigma, a, g2 = (part[:, None] for part in layouts.coefficients('flow', t))
        return 2 * (a * x + own(x, 1 - t[:, None])) / g2
    file = check(Backwards(), sde, 'velocity-to-data', expected, 2, time='-1*t+1', example={'t': torch.zeros(4, 1)})
    assert file.metadata['inputs'] == 't,x'


@pytest.mark.parametrize('name,code', [
    ('sigma', lambda t: torch.sqrt(1 - torch.exp(-(0.1 * t + 9.95 * t ** 2)))),
    ('log-sigma', lambda t: 3 * torch.log(1 - torch.exp(-t * (0.1 + 9.95 * t))) + 1),
    ('log-snr', lambda t: -torch.expm1(0.1 * t + 9.95 * t * t).log() / 8),
    ('t', lambda t: (t * 999).add(1).div(2)),
    ('t', lambda t: torch.exp(torch.log(t)) * torch.ones_like(t))])
def test_time_in_the_code(name, code):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 2))

        def forward(self, x, t):
            return self.net(torch.cat([code(t).unsqueeze(1), x], 1))
    assert check(Net(), VP, 'noise', noise, 2).metadata['inputs'] == f'{name},x'


def test_float32_module_keeps_its_numbers():
    module = layouts.CatRaw().float()
    file = check(module, VP, 'noise', noise, 2)
    assert set(file.dtypes[f'{name}.weight'] for name in file.names) == {'F32'} and file.names == ['net.0', 'net.2', 'net.4']
    assert torch.equal(file.tensors['net.2.weight'].float(), module.net[2].weight)


def test_module_is_not_modified():
    module = layouts.WeightNormed().float().train()
    module.net[0].register_forward_hook(lambda *_: None)
    module.extra = nn.Linear(2, 2).eval()
    before = copy.deepcopy(module.state_dict())
    names, hooks = set(vars(module)), dict(module.net[0]._forward_hooks)
    identities = [id(p) for p in module.parameters()]
    trace(module, {'x': torch.zeros(2, 2), 't': torch.zeros(2)}, sde=VP, output='denoised')
    assert all(torch.equal(tensor, before[key]) and tensor.dtype == before[key].dtype
               for key, tensor in module.state_dict().items())
    assert set(vars(module)) == names and module.net[0]._forward_hooks == hooks
    assert [id(p) for p in module.parameters()] == identities and all(p.grad is None for p in module.parameters())
    assert module.training and module.net.training and not module.extra.training


def test_weights_of_the_older_weight_norm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.utils.weight_norm(nn.Linear(3, 9)), nn.Linear(9, 2)

        def forward(self, x, t):
            return self.two(torch.tanh(self.one(torch.cat([x, t[:, None]], 1))))
    module = Net()
    with torch.no_grad():
        module.one.weight_g *= 1.7
    check(module, VP, 'noise', noise, 2)


def test_batch_norm_in_evaluation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.SiLU(), nn.Dropout(0.5), nn.Linear(9, 2))

        def forward(self, x, t):
            return self.net(torch.cat([x, t[:, None]], 1))
    module = Net()
    for _ in range(4):
        module(torch.randn(30, 2), torch.rand(30))
    check(module.eval(), VP, 'noise', noise, 2)
    with pytest.raises(Unmappable, match='BatchNorm1d.*net.1.*batch'):
        trace(module.train(), {'x': torch.zeros(4, 2), 't': torch.zeros(4)}, sde=VP, output='noise')


# ---- refusals ----------------------------------------------------------------------------------------------------------------

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.embed = nn.Linear(1, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv, self.table = nn.Conv1d(1, 1, 3, padding=1), nn.Embedding(10, 8)
        self.hard, self.batch, self.middle = nn.Hardswish(), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.again = nn.Linear(2, 8)

    def begin(self, x, t):
        return torch.cat([x, t[:, None]], 1)


def refused(body):
    """A module whose forward() is `body`, and its first line."""
    class Net(Base):
        def forward(self, x, t):
            return body(self, x, t)
    return Net


def layer_norm(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    h = self.norm(h)  # stops
    return self.three(h)


def attention(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))[:, None]
    h, _ = self.attention(h, h, h)  # stops
    return self.three(h[:, 0])


def convolution(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(self.conv(h[:, None])[:, 0])  # stops


def lookup(self, x, t):
    h = self.one(self.begin(x, t)) + self.table((9 * t).long())  # stops
    return self.three(torch.tanh(h))


def hardswish(self, x, t):
    h = self.hard(self.one(self.begin(x, t)))  # stops
    return self.three(h)


def dropping(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(functional.dropout(h, 0.1, training=True))  # stops


def batch_norm(self, x, t):
    return self.three(torch.tanh(self.batch(self.one(self.begin(x, t)))))  # stops


def decides(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    if t.max() > 0.5:  # stops
        h = 2 * h
    return self.three(h)


def shared(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    h = torch.tanh(self.two(h))
    h = torch.tanh(self.two(h))  # stops
    return self.three(h)


def modulated(self, x, t):
    e = torch.tanh(self.embed(t[:, None]))
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(h * e)  # stops


def skipped(self, x, t):
    first = torch.tanh(self.one(self.begin(x, t)))
    h = torch.tanh(self.two(first))  # stops
    h = torch.tanh(self.embed.weight.T * h)
    return self.three(h + first)


def again(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))  # stops
    h = torch.tanh(self.two(h) + self.again(x))
    return self.three(h)


def side_by_side(self, x, t):
    z = self.one(self.begin(x, t))
    return self.three(torch.cat([torch.tanh(z[:, :4]), torch.relu(z[:, 4:])], 1))  # stops


def time_function(self, x, t):
    h = torch.tanh(self.one(torch.cat([x, torch.sqrt(t)[:, None]], 1)))  # stops
    return self.three(h)


def inside_factor(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    h = torch.tanh(self.two(h) * t[:, None])  # stops
    return self.three(h)


def odd_factor(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    h = self.three(h)
    return h * t[:, None]  # stops


def mixes(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(h - h.mean(0))  # stops


def flips(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(h.flip(0))  # stops


def random(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(h + torch.randn_like(h))  # stops


def writes(self, x, t):
    h = self.one(self.begin(x, t))
    h[:, 0] = 1  # stops
    return self.three(torch.tanh(h))


def converts(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    return self.three(h) * float(t[0])  # stops


def normalises(self, x, t):
    h = self.one(self.begin(x, t))
    return self.three(torch.tanh(h / h.norm(dim=1, keepdim=True)))  # stops


def gradient(self, x, t):
    x = x.requires_grad_(True)
    value = self.three(torch.tanh(self.one(self.begin(x, t)))).sum()
    return torch.autograd.grad(value, x)[0]  # stops


def block(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))
    h = h + self.two(torch.tanh(self.middle(h)))  # stops
    return self.three(torch.tanh(h))


def x_in_the_output(self, x, t):
    h = torch.tanh(self.one(self.begin(x, t)))  # stops
    return self.three(h + self.again(x))


def beside_sums(self, x, t):
    h = torch.relu(self.one(self.begin(x, t)))
    h = h + torch.tanh(self.middle(h))  # stops
    return self.three(h + self.two(torch.relu(self.norm.weight * h)))


def two_factors(self, x, t):
    h = torch.relu(self.one(self.begin((1 + t[:, None]) * x, t)))
    h = torch.relu(self.two(h) + self.again(x))
    return self.three(h)  # stops


def sines_beside(self, x, t):
    e = torch.cat([t[:, None], torch.sin(3 * t[:, None])], 1)  # stops
    h = torch.tanh(self.one(self.begin(x, 0 * t)) + self.again(e))
    return self.three(h)


REFUSED = {layer_norm: 'normalisation', attention: 'attention', convolution: 'convolution', lookup: 'whole numbers',
           hardswish: 'activation that fokker has not.*SiLU', dropping: r'drops units at random.*module\.eval',
           batch_norm: 'by the batch', decides: 'values of its inputs', shared: 'second time', modulated: 'different functions',
           skipped: r"past which units of 'tanh' at .*:\d+ .*are taken", again: 'past which x is taken',
           side_by_side: 'one activation for all units',
           time_function: 'nearest being', inside_factor: 'inside the network', odd_factor: 'none of the forms',
           mixes: 'batch', flips: 'from one sample to another', random: 'random', writes: 'does not support item assignment',
           converts: 'cannot be traced', normalises: 'normalisation', gradient: "is a gradient.*output='potential'",
           block: "past which units of 'tanh'.*past layers of ReLU", x_in_the_output: 'past which x is taken',
           beside_sums: 'past which units', two_factors: 'multiplies x, or.*by several functions of time',
           sines_beside: 'beside which the time itself is taken'}


def line_that_stops(function):
    lines = pathlib.Path(__file__).read_text().splitlines()
    begin = function.__code__.co_firstlineno
    return next(k for k in range(begin, begin + 12) if '# stops' in lines[k - 1])


@pytest.mark.parametrize('body', list(REFUSED), ids=lambda body: body.__name__)
def test_refused_with_its_line(body):
    with pytest.raises(Unmappable) as caught:
        trace(refused(body)(), {'x': torch.zeros(3, 2), 't': torch.zeros(3)}, sde=VP, output='noise')
    message = str(caught.value)
    assert re.search(REFUSED[body], message), message
    assert 'allowed: ' in message and f'{__file__}:{line_that_stops(body)}' in message
    assert caught.value.site.line == line_that_stops(body)


def test_submodule_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.GroupNorm(2, 8), nn.Linear(8, 2))

        def forward(self, x, t):
            return self.net(torch.cat([x, t[:, None]], 1))
    with pytest.raises(Unmappable, match=r"'GroupNorm' in 'net\.2'.*normalisation"):
        trace(Net(), {'x': torch.zeros(3, 2), 't': torch.zeros(3)}, sde=VP, output='noise')


def test_hook_that_changes_a_layer():
    module = layouts.CatRaw().float()
    module.net[2].register_forward_hook(lambda layer, inputs, result: 1.001 * result)
    with pytest.raises(Unmappable, match=r"'Linear' in 'net\.2'.*other numbers.*hooks"):
        trace(module, {'x': torch.zeros(3, 2), 't': torch.zeros(3)}, sde=VP, output='noise')


def test_another_form_than_the_codes():
    # The preconditioning in the code is that of a denoiser under edm, m = 1; under vp-linear it is none.
    with pytest.raises(Unmappable, match='none of the forms that fokker has under this SDE'):
        trace(Preconditioned(), {'x': torch.zeros(3, 2), 't': torch.ones(3)}, sde=VP, output='denoised', time='sigma')


GOOD = {'x': torch.zeros(3, 2), 't': torch.zeros(3)}


@pytest.mark.parametrize('change,words', [
    (dict(sde=None), 'no sde is given.*allowed: ou, vp-linear'), (dict(output=None), 'no output is given.*allowed: potential'),
    (dict(output='epsilon'), "'epsilon'.*allowed: potential"), (dict(output='edm'), 'no data_deviation'),
    (dict(data_deviation=0.5), 'does not read it'), (dict(output='edm', data_deviation=-1), '1e-6 to 1e6'),
    (dict(time='1000t'), r"'1000t'.*1000\*t-1"), (dict(module=lambda x, t: x), 'a function is given.*torch.nn.Module'),
    (dict(example=(torch.zeros(3, 2), torch.zeros(3))), 'tuple.*allowed: a dict'), (dict(example={'x': GOOD['x']}), 'a dict of x'),
    (dict(example={'x': torch.zeros(3), 't': torch.zeros(3)}), r'x \[3\]'),
    (dict(example={**GOOD, 't': torch.zeros(4)}), r't \[4\]'), (dict(example={**GOOD, 'y': torch.zeros(3, 1)}), 'takes 2'),
    (dict(output='potential'), r'gives \[N, 2\].*\[N, 1\]')])
def test_arguments_refused(change, words):
    arguments = dict(module=layouts.CatRaw().float(), example=GOOD, sde=VP, output='noise')
    arguments.update(change)
    with pytest.raises(from_torch.Error, match=words):
        trace(arguments.pop('module'), arguments.pop('example'), **arguments)


def test_order_of_arguments():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, time, points, scale=None):
            if scale is not None:
                points = scale * points
            return self.net(torch.cat([points, time[:, None]], 1))

    class Named(Net):
        def forward(self, t, points):
            return super().forward(t, points)

    class Needs(Net):
        def forward(self, x, t, mask):
            return super().forward(t, mask * x)
    metadata, _ = trace(Net(), {'t': torch.zeros(3), 'x': torch.zeros(3, 1)}, sde=VP, output='noise')
    assert metadata['inputs'] == 't,x'
    with pytest.raises(from_torch.Error, match="order is x, t.*'t' elsewhere"):
        trace(Named(), {'x': torch.zeros(3, 1), 't': torch.zeros(3)}, sde=VP, output='noise')
    with pytest.raises(from_torch.Error, match='forward.. needs mask'):
        trace(Needs(), {'x': torch.zeros(3, 1), 't': torch.zeros(3)}, sde=VP, output='noise')


def test_state_that_changes_with_every_call():
    class Net(Base):
        count = 0

        def forward(self, x, t):
            Net.count += 1
            return self.three(torch.tanh(self.one(self.begin(x, t)))) * Net.count
    metadata, tensors = trace(Net(), GOOD, sde=VP, output='noise')
    file = File(metadata, tensors)
    sigma = layouts.coefficients('vp-linear', file.tensors['proof.t'])[1][:, None]
    apart = (sigma * (file.score(file.tensors['proof.t'], file.tensors['proof.x']) - file.tensors['proof.score'])).abs().max()
    assert apart > 1e-3  # a reader of the file refuses it
    with pytest.raises(Unmappable, match='not those of its model'):
        from_torch.from_torch(Net(), GOOD, sde='vp-linear', output='noise')


@pytest.mark.parametrize('sde,parameters', [
    ('ou', None), ('vp-linear', {'beta_max': 12, 'T': 2}), ('vp-cosine', None), ('subvp', None), ('ve', {'sigma_max': 9}),
    ('edm', None), ('flow', {'T': 1}), ('ddpm', {'steps': 200})])
def test_model_of_every_sde(sde, parameters):
    module = layouts.StateMish().float()
    example = {'x': torch.zeros(2, 2), 't': torch.zeros(2), 'y': torch.zeros(2, 5)}
    model = fokker.from_torch(module, example, sde=sde, sde_parameters=parameters, output='noise', time='0.01*t-1')
    other = fokker.from_torch(module, example, sde=model, output='noise', time='0.01*t-1')
    random = np.random.default_rng(2)
    t = random.uniform(model.t_min, 0.9 * model.horizon, 9)
    x, y = random.normal(size=(9, 2)), random.normal(size=(9, 5))
    sigma = np.sqrt([model.coefficients(time)[3] for time in t])[:, None]
    with torch.no_grad():
        expected = -from_torch.double_copy(module)(*map(torch.from_numpy, (x, 0.01 * t - 1, y))).numpy() / sigma
    for each in (model, other):
        score = each.score(t, x, condition=y)
        assert np.abs(sigma * (score - expected)).max() <= 1e-9 * np.abs(sigma * expected).max()
    with pytest.raises(fokker.Error, match='no name of an SDE'):
        fokker.from_torch(module, example, sde=model, sde_parameters={'T': 1}, output='noise')


@pytest.mark.parametrize('first', ['fokker.UnmappableModule', 'import fokker._from_torch'])
def test_names_are_the_same_in_any_order(first):
    code = (f'import fokker; {first}; assert callable(fokker.from_torch) and issubclass(fokker.UnmappableModule, fokker.Error); '
            'assert fokker.autograd.__name__ == "fokker.autograd"')
    subprocess.run([sys.executable, '-c', code], check=True)


class LastStretch(nn.Module):
    """A noise whose time stops at 9.995 of 10, in the last thousandth of ou's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x, t):
        return self.net(torch.cat([torch.clamp(t, max=9.995)[:, None], x], 1))


def test_the_horizon_is_looked_at():
    with pytest.raises(Unmappable):
        fokker.from_torch(LastStretch(), GOOD, sde='ou', output='noise')


def test_within_inference_mode():
    module = PotentialPreconditioned()
    example = {'t': torch.zeros(3), 'x': torch.zeros(3, 3)}
    with torch.inference_mode():
        within = fokker.from_torch(module, example, sde='vp-linear', output='potential')
    model = fokker.from_torch(module, example, sde='vp-linear', output='potential')
    assert np.array_equal(within.parameters, model.parameters)


def test_values_and_their_rates_are_the_modules():
    module = PotentialPreconditioned()
    model = fokker.from_torch(module, {'t': torch.zeros(3), 'x': torch.zeros(3, 3)}, sde='vp-linear', output='potential')
    t, x, _ = points(Sde('vp-linear'), 3)
    t.requires_grad_(True)
    value = from_torch.double_copy(module)(t, x)
    rate, = torch.autograd.grad(value.sum(), t)
    sigma = layouts.coefficients('vp-linear', t)[1].detach()
    t, x, value = t.detach(), x.detach(), value.detach()[:, 0]
    agree(sigma * model.value(t, x), sigma * value)
    # Of σ ∼ √t each rate has a factor 1/t, and 1 − e^(−…) loses as many digits as t has before its first.
    agree(sigma * t * model.dt(t, x), sigma * t * rate)


def test_a_time_alone_in_a_potential_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x, t):
            return self.net(torch.cat([t[:, None], x], 1)) + torch.sin(t)[:, None]
    with pytest.raises(Unmappable):
        fokker.from_torch(Net(), GOOD, sde='ou', output='potential')


def test_a_value_that_is_not_the_modules_is_refused():
    metadata, tensors = trace(PotentialPreconditioned(), {'t': torch.zeros(3), 'x': torch.zeros(3, 3)}, sde=VP, output='potential')
    value = tensors.pop('proof.value')
    model = fokker._core.parse_model(from_torch.contents(metadata, tensors))
    from_torch._check_in_double(model, tensors, value)
    with pytest.raises(Unmappable, match='its values part from those of its model'):
        from_torch._check_in_double(model, tensors, value + 1e-3 * tensors['proof.t'])
