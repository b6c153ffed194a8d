"""What `fokker train` does, in PyTorch, for quality.py: the same network, loss, schedule and average by PyTorch's own
layers, automatic differentiation, Adam and OneCycleLR. Data, times and the SDEs' formulas are written here once more, from
their sources and in double, and share nothing with fokker. The model is saved as a file that fokker reads, with scores
that PyTorch computed in it: fokker refuses a file whose scores are not those that it computes itself.
"""
import copy
import json
import math
import time

import numpy
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

F64 = torch.float64
LAYERS = ['input', 'hidden1', 'hidden2', 'output']


def circles2(n, g):
    """Two rings of radii 1.3 and 2.8, each of the deviation 0.2."""
    radius = 2 * (torch.where(torch.rand(n, generator=g) < 0.5, 0.65, 1.4) + 0.1 * torch.randn(n, generator=g))
    angle = 2 * math.pi * torch.rand(n, generator=g)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)


def blob(n, g):
    """Nine Gaussians at (0, 0), (±2, ±2), (±4, 0) and (0, ±4) of variance 0.2, all scaled by 0.65."""
    means = torch.tensor([[0, 0], [2, 2], [2, -2], [-2, 2], [-2, -2], [4, 0], [-4, 0], [0, 4], [0, -4]]).float()
    which = torch.randint(9, (n,), generator=g)
    return 0.65 * (means[which] + math.sqrt(0.2) * torch.randn(n, 2, generator=g))


def checker(n, g):
    """The eight squares of side 1.5 in [-3, 3]² whose column and row are both even or both odd."""
    row, half = torch.randint(4, (n,), generator=g), torch.randint(2, (n,), generator=g)
    column = 2 * half + row % 2
    return 1.5 * (torch.stack([column, row], 1) + torch.rand(n, 2, generator=g)) - 3


DATA = {'circles2': circles2, 'blob': blob, 'checker': checker}


def log_linear_beta(t):
    return -(0.1 * t + 19.9 * t**2 / 2)  # ln m²


def log_cosine(t, s=0.008, last=0.9946):
    """ln m² of the cosine schedule, which goes on along its tangent after `last`."""
    def angle(u):
        return math.pi / 2 * (u + s) / (1 + s)
    inner = t.clamp(max=last)
    slope = math.pi / (1 + s) * math.tan(angle(last))
    return 2 * torch.log(torch.cos(angle(inner)) / math.cos(angle(0.0))) - slope * (t - inner)


# m(t) and σ²(t) of x_t = m x_0 + σ ε, with T and t_min, at fokker's default parameters.
SDES = {
    'ou': (lambda t: (torch.exp(-t), -torch.expm1(-2 * t) / 2), 10.0, 1e-4),
    'vp-linear': (lambda t: (torch.exp(log_linear_beta(t) / 2), -torch.expm1(log_linear_beta(t))), 1.0, 1e-3),
    'vp-cosine': (lambda t: (torch.exp(log_cosine(t) / 2), -torch.expm1(log_cosine(t))), 1.0, 1e-3),
    'subvp': (lambda t: (torch.exp(log_linear_beta(t) / 2), torch.expm1(log_linear_beta(t))**2), 1.0, 1e-3),
    've': (lambda t: (torch.ones_like(t), 1e-4 * torch.expm1(2 * t * math.log(50 / 0.01))), 1.0, 1e-3),
    'edm': (lambda t: (torch.ones_like(t), t**2), 80.0, 0.002),
    'flow': (lambda t: (1 - t, t**2), 0.999, 1e-3)}


class TimeLaw:
    """Times with their weights in the loss, as TrainOptions of fokker describes the laws."""

    def __init__(self, recipe):
        self.law = recipe['time_law']
        moments, self.horizon, self.t_min = SDES[recipe['sde']['name']]
        if self.law == 'log-normal':
            # ln(σ/m) is normal, cut to [t_min, T]; σ/m is t for edm and t/(1 − t) for flow.
            self.sde, self.mean, self.deviation = recipe['sde']['name'], recipe['log_sigma_mean'], recipe['log_sigma_deviation']
            m, variance = moments(torch.tensor([self.t_min, self.horizon], dtype=F64))
            z = (variance.log() / 2 - m.log() - self.mean) / self.deviation
            self.range = torch.special.ndtr(z)
        if self.law == 'importance':
            # Density q: 15/16 of p/σ², p the density of t_min + (T − t_min) Beta(1, 2), and 1/16 of 1/t, each normalised.
            log_t = torch.linspace(math.log(self.t_min), math.log(self.horizon), 400001, dtype=F64)
            t = log_t.exp()
            steep = self.prior(t) / moments(t)[1] * t
            width = log_t[1] - log_t[0]
            density = 15 / 16 * steep / torch.trapezoid(steep, dx=width) + 1 / 16 / (log_t[-1] - log_t[0])
            self.cumulative = torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(density, dx=width)]).numpy()
            self.log_t, self.density = log_t.numpy(), density.numpy()

    def prior(self, t):
        return 2 * (self.horizon - t) / (self.horizon - self.t_min)**2

    def draw(self, n, g):
        u, one = torch.rand(n, generator=g, dtype=F64), None
        if self.law == 'uniform':
            return self.t_min + (self.horizon - self.t_min) * u, one
        if self.law == 'log-normal':
            low, high = self.range
            ratio = torch.exp(self.mean + self.deviation * torch.special.ndtri(low + (high - low) * u))
            t = ratio if self.sde == 'edm' else ratio / (1 + ratio)
            return t.clamp(self.t_min, self.horizon), one
        log_t = numpy.interp(u.numpy() * self.cumulative[-1], self.cumulative, self.log_t)
        density = torch.from_numpy(numpy.interp(log_t, self.log_t, self.density))  # of ln t
        t = torch.from_numpy(log_t).exp()
        return t, self.prior(t) * t / density


class Network(torch.nn.Module):
    """The score of a plain net on (t, x), or of one in the form of Karras et al. 2022 at any m; a potential's by autograd."""

    def __init__(self, recipe):
        super().__init__()
        a = recipe['architecture']
        self.potential, self.edm = a['output'].startswith('potential'), a['output'].endswith('edm')
        expected = {'dimension': 2, 'hidden': [80, 80, 80], 'activation': 'softplus', 'beta': a['beta'],
                    'inputs': '-0.125*log-snr,x' if self.edm else 't,x'}
        a.setdefault('inputs', 't,x')
        wrong = {k: a[k] for k, v in expected.items() if a[k] != v}
        assert not wrong and a['output'] in ('potential', 'score', 'potential:edm', 'edm'), (wrong, a['output'])
        self.recipe, self.moments = recipe, SDES[recipe['sde']['name']][0]
        self.data_deviation = a.get('data_deviation')
        widths = [3, *a['hidden'], 1 if self.potential else 2]
        for name, inputs, outputs in zip(LAYERS, widths, widths[1:]):
            self.add_module(name, torch.nn.Linear(inputs, outputs))
        if self.edm:
            torch.nn.init.zeros_(self.output.weight)
            torch.nn.init.zeros_(self.output.bias)
        self.activation = torch.nn.Softplus(a['beta'])

    def raw(self, time_input, h):
        """F [N, 2]: the outputs of a vector net, or the gradient of a potential net by its space inputs h [N, 2]."""
        h = h.requires_grad_(True) if self.potential else h
        y = torch.cat([time_input[:, None], h], 1)
        for name in LAYERS[:-1]:
            y = self.activation(getattr(self, name)(y))
        y = self.output(y)
        return torch.autograd.grad(y.sum(), h, create_graph=True)[0] if self.potential else y

    def scales(self, m, variance):
        """c_skip, c_out and c_in of the denoiser c_skip x + c_out F(c_noise, c_in x), each [N, 1]."""
        d2 = self.data_deviation**2
        total = (m * m * d2 + variance)[:, None]
        return (m[:, None] * d2 / total, variance.sqrt()[:, None] * self.data_deviation / total.sqrt(), 1 / total.sqrt())

    def noise_level(self, m, variance):
        return (variance.log() / 2 - m.log()) / 4

    def score(self, t, x):
        """t [N], x [N, 2] in double; the network works in float."""
        if not self.edm:
            return self.raw(t.float(), x.float()).double()
        m, variance = self.moments(t)
        skip, out, into = self.scales(m, variance)
        denoised = skip * x + out * self.raw(self.noise_level(m, variance).float(), (into * x).float()).double()
        return (m[:, None] * denoised - x) / variance[:, None]

    def squares(self, t, x0, noise):
        """What is squared in the loss [N, 2]: F less its target where the form is Karras's, else the score less its."""
        m, variance = self.moments(t)
        sigma = variance.sqrt()[:, None]
        x = m[:, None] * x0.double() + sigma * noise.double()
        if not self.edm:
            return self.raw(t.float(), x.float()) - (-noise.double() / sigma).float()
        skip, out, into = self.scales(m, variance)
        target = ((x0.double() - skip * x) / out).float()
        return self.raw(self.noise_level(m, variance).float(), (into * x).float()) - target

    def save(self, path, generator):
        """For fokker, with a proof: scores at data carried to times over the whole range."""
        a, (_, horizon, t_min) = self.recipe['architecture'], SDES[self.recipe['sde']['name']]
        t = t_min * (horizon / t_min)**torch.linspace(0.01, 0.99, 64, dtype=F64)
        m, variance = self.moments(t)
        x = m[:, None] * DATA[self.recipe['data']](64, generator) + variance.sqrt()[:, None] * torch.randn(64, 2, generator=generator)
        tensors = {k: v.detach().numpy() for k, v in self.state_dict().items()}
        proof = {'proof.t': t, 'proof.x': x, 'proof.score': self.score(t, x).detach()}
        metadata = {'activation': a['activation'], 'beta': str(a['beta']), 'output': a['output'], 'inputs': a['inputs'],
                    'layers': ','.join(LAYERS), 'sde': self.recipe['sde']['name'],
                    'sde_parameters': json.dumps(self.recipe['sde']['parameters'])}
        if self.edm:
            metadata['data_deviation'] = str(a['data_deviation'])
        save_file(tensors | {k: v.double().numpy() for k, v in proof.items()}, path, metadata)

    def load(self, path):
        with safe_open(path, 'pt') as file:
            self.load_state_dict({k: file.get_tensor(k) for k in file.keys() if not k.startswith('proof.')})
        return self


def loss_of(network, law, points, generator):
    """The denoising loss by `points` draws, and its standard error."""
    sums = numpy.zeros(2)
    chunk = 1 << 14
    for _ in range(points // chunk):
        t, weight = law.draw(chunk, generator)
        squares = network.squares(t, DATA[network.recipe['data']](chunk, generator), torch.randn(chunk, 2, generator=generator))
        each = (squares.detach().double()**2).mean(1) * (1 if weight is None else weight)
        sums += [each.sum().item(), (each**2).sum().item()]
    n = points // chunk * chunk
    mean, square = (float(s) / n for s in sums)
    return mean, math.sqrt(max(square - mean**2, 0) / n)


def train(recipe, seed, progress=lambda k: None):
    """A network trained as the recipe says, that of `fokker train --json`: its averaged weights, and seconds."""
    assert (recipe['schedule'], recipe['average']) == ('one-cycle', 'exponential') and recipe['clip_norm'] == 0
    assert recipe.get('loss_weight', 'unit') == 'unit' and recipe['residual_weight'] == 0
    torch.manual_seed(seed)  # of the initial weights, which are those of torch.nn.Linear
    generator = torch.Generator().manual_seed(seed)
    network, law, draw = Network(recipe), TimeLaw(recipe), DATA[recipe['data']]
    n, points, peak = recipe['iterations'], recipe['denoising_points'], recipe['peak_rate']
    adam = torch.optim.Adam(network.parameters(), lr=peak, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, peak, total_steps=n, pct_start=0.1, cycle_momentum=False,
                                                   div_factor=25, final_div_factor=1000)
    averaged, begin = None, n - round(recipe['average_fraction'] * n)
    start = time.monotonic()
    for k in range(n):
        t, weight = law.draw(points, generator)
        squares = network.squares(t, draw(points, generator), torch.randn(points, 2, generator=generator))**2
        loss = squares.mean() if weight is None else (squares * weight[:, None].float()).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if k + 1 < n:
            schedule.step()
        with torch.no_grad():
            if k == begin:
                averaged = copy.deepcopy(network).double()
            elif k > begin:
                for of, now in zip(averaged.parameters(), network.parameters()):
                    of.lerp_(now.double(), 1 - recipe['average_decay'])
        progress(k + 1)
    return (network if averaged is None else averaged.float()), time.monotonic() - start
