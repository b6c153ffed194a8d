#!/usr/bin/env python3
"""Small score networks as people build them in PyTorch, for layouts_test.cpp: make_layouts.py [FOLDER]

For each writes NAME.safetensors, its state dict in float32; NAME.json, the recipe of `fokker import`; NAME.npz, what
double-precision autograd gives at a few points: t [N], x [N, d], of a network that takes one the condition [N, c] of each,
score [N, d], divergence [N], of potentials value [N] and dt [N]; target [N, d], weight [N], denoising, the loss mean(weight |score - target|²), and of potentials residual, the
mean of the squared Fokker-Planck residual; ode, the states after Euler's steps of the probability flow on `grid` from x,
and log_density at x by the same steps back; and NAME.gradient.safetensors, the loss's gradient by the state dict's names.
Needs PyTorch, NumPy and safetensors. The seeds are fixed.
"""
import json
import math
import pathlib
import sys

import numpy
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

torch.set_default_dtype(torch.float64)


# ---- forward SDEs: m(t), sigma(t), and from them a = m'/m and g² = (sigma²)' - 2 a sigma² -----------------------------------

def vp(t):
    integral = 0.1 * t + 0.5 * (20 - 0.1) * t * t
    return torch.exp(-0.5 * integral), torch.sqrt(-torch.expm1(-integral))


def cosine(t):
    c, s, last = math.pi / 2 / 1.008, 0.008, 0.9946  # beyond it beta = -2 (log m)' is constant
    inner = torch.clamp(t, max=last)
    m = torch.cos(c * (inner + s)) / math.cos(c * s) * torch.exp(-c * math.tan(c * (last + s)) * (t - inner))
    return m, torch.sqrt(1 - m * m)


def subvp(t):
    m, sigma = vp(t)
    return m, sigma * sigma


def ve(t):
    return torch.ones_like(t), torch.sqrt(0.01 ** 2 * ((50 / 0.01) ** (2 * t) - 1))


def edm(t):
    return torch.ones_like(t), t


def flow(t):
    return 1 - t, t


SDES = {'vp-linear': (vp, 1), 'vp-cosine': (cosine, 1), 'subvp': (subvp, 1), 've': (ve, 1), 'edm': (edm, 80), 'flow': (flow, 0.999)}


def coefficients(sde, t):
    """m, sigma, a and g² at t [N]."""
    t = t.detach().clone().requires_grad_(True)
    m, sigma = SDES[sde][0](t)
    slope, = torch.autograd.grad(torch.log(m).sum(), t, retain_graph=True, allow_unused=True) if m.requires_grad else (torch.zeros_like(t),)
    variance_rate, = torch.autograd.grad((sigma * sigma).sum(), t)
    return m.detach(), sigma.detach(), slope, variance_rate - 2 * slope * sigma.detach() ** 2


# ---- networks ---------------------------------------------------------------------------------------------------------------

def sinusoidal(width, period=10000.0, ends=True):
    half = width // 2
    return period ** (-torch.arange(half) / (half - 1 if ends else half))


class Sinusoidal(nn.Module):
    def __init__(self, width, scale=1.0, **options):
        super().__init__()
        self.frequencies = scale * sinusoidal(width, **options)

    def forward(self, t):  # [N] -> [N, width]
        angles = t[:, None] * self.frequencies
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def mlp(widths, activation):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class CatRaw(nn.Module):
    """cat(x, t), raw."""
    def __init__(self):
        super().__init__()
        self.net = mlp([3, 24, 24, 2], nn.SiLU)

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None]], dim=1))


class SinusoidalConcatenated(nn.Module):
    """Sinusoidal features of the time through an MLP of their own, beside x."""
    def __init__(self):
        super().__init__()
        self.emb = nn.Sequential(Sinusoidal(16, ends=False), nn.Linear(16, 20), nn.SiLU(), nn.Linear(20, 12))
        self.net = mlp([2 + 12, 24, 24, 2], nn.SiLU)

    def forward(self, x, t):
        return self.net(torch.cat([x, self.emb(1000 * t)], dim=1))


class AddedToProjection(nn.Module):
    """The embedding is added to a projection of x."""
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(Sinusoidal(16), nn.Linear(16, 20), nn.Softplus(), nn.Linear(20, 24))
        self.project = nn.Linear(3, 24)
        self.one, self.two, self.out = nn.Linear(24, 20), nn.Linear(20, 20), nn.Linear(20, 3)

    def forward(self, x, t):
        h = self.project(x) + self.time(1000 * t)
        h = torch.tanh(self.one(h))
        return self.out(torch.tanh(self.two(h)))


class FourierOverSigma(nn.Module):
    """Gaussian Fourier features of the time, added to every layer through a dense layer; the output over sigma."""
    def __init__(self):
        super().__init__()
        self.register_buffer('W', torch.randn(8) * 2)
        self.embed = nn.Linear(16, 16)
        self.l1, self.l2, self.l3 = nn.Linear(2, 24), nn.Linear(24, 24), nn.Linear(24, 2)
        self.d1, self.d2 = nn.Linear(16, 24), nn.Linear(16, 24)

    def forward(self, x, t):
        angles = t[:, None] * self.W * 2 * math.pi
        e = functional.silu(self.embed(torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)))
        h = functional.silu(self.l1(x) + self.d1(e))
        h = functional.silu(self.l2(h) + self.d2(e))
        return self.l3(h)


class Encoders(nn.Module):
    """An encoder of x and one of the time, then a trunk on both."""
    def __init__(self):
        super().__init__()
        self.x_encoder = nn.Sequential(nn.Linear(2, 20), nn.LeakyReLU(0.2), nn.Linear(20, 16))
        self.t_encoder = nn.Sequential(nn.Linear(1, 12), nn.LeakyReLU(0.2), nn.Linear(12, 10))
        self.trunk = mlp([26, 24, 24, 2], lambda: nn.LeakyReLU(0.2))

    def forward(self, x, t):
        return self.trunk(torch.cat([self.x_encoder(x), self.t_encoder(t[:, None])], dim=1))


class ResidualBlocks(nn.Module):
    """Sinusoidal features of each coordinate and of the time, then residual blocks."""
    def __init__(self):
        super().__init__()
        self.x_features, self.t_features = Sinusoidal(12, scale=2.5), Sinusoidal(12)
        self.begin = nn.Linear(36, 24)
        self.blocks = nn.ModuleList([nn.Linear(24, 24) for _ in range(3)])
        self.end = nn.Linear(24, 2)

    def forward(self, x, t):
        features = [self.x_features(x[:, i]) for i in range(2)] + [self.t_features(1000 * t)]
        h = functional.gelu(self.begin(torch.cat(features, dim=1)))
        for block in self.blocks:
            h = h + functional.gelu(block(h))
        return self.end(h)


class Edm(nn.Module):
    """What stands inside EDM's preconditioning, on (c_noise, c_in x)."""
    def __init__(self):
        super().__init__()
        self.model = mlp([3, 24, 24, 2], lambda: nn.GELU(approximate='tanh'))

    def forward(self, x, t):
        return self.model(torch.cat([torch.log(t)[:, None] / 4, x], dim=1))


class Flow(nn.Module):
    """A velocity from noise to data, with a time from noise to data."""
    def __init__(self):
        super().__init__()
        self.net = mlp([4, 24, 24, 3], nn.ELU)

    def forward(self, x, t):
        return self.net(torch.cat([x, 1 - t[:, None]], dim=1))


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp([3, 24, 24, 2], nn.SELU)
        for k in (0, 2):
            self.net[k] = nn.utils.parametrizations.weight_norm(self.net[k])

    def forward(self, x, t):
        return self.net(torch.cat([x, torch.log(vp(t)[1])[:, None]], dim=1))


class Potential(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 12), nn.SiLU())
        self.net = mlp([2 + 12, 24, 24, 1], nn.SiLU)

    def forward(self, x, t):
        m, sigma = subvp(t)
        return self.net(torch.cat([x, self.time(-0.125 * torch.log(m * m / sigma ** 2)[:, None])], dim=1))[:, 0]


class StateMish(nn.Module):
    """A small diffusion policy: x is an action, y the state that it is taken in, beside an embedding of the time."""
    def __init__(self):
        super().__init__()
        self.time_mlp = nn.Sequential(Sinusoidal(16), nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16))
        self.mid_layer = mlp([2 + 16 + 5, 24, 24, 24], nn.Mish)
        self.final_layer = nn.Linear(24, 2)

    def forward(self, x, t, y):
        return self.final_layer(functional.mish(self.mid_layer(torch.cat([x, self.time_mlp(1000 * t), y], dim=1))))


class EncodedState(nn.Module):
    """An encoder of the condition, added to the sums of every hidden layer through a dense layer of its own; raw time."""
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 12))
        self.l1, self.l2, self.l3 = nn.Linear(1 + 3, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        self.c1, self.c2 = nn.Linear(12, 24, bias=False), nn.Linear(12, 24, bias=False)

    def forward(self, x, t, y):
        c = self.encoder(y)
        h = functional.silu(self.l1(torch.cat([t[:, None], x], dim=1)) + self.c1(c))
        h = h + functional.silu(self.l2(h) + self.c2(c))
        return self.l3(h)


# ---- what their outputs stand for -------------------------------------------------------------------------------------------

DATA_DEVIATION = 0.6


def score_of(net, form, sde, x, t):
    m, sigma, a, g2 = [c[:, None] for c in coefficients(sde, t)]
    if form == 'over sigma':
        return net(x, t) / sigma
    if form == 'noise':
        return -net(x, t) / sigma
    if form == 'denoised':
        return (m * net(x, t) - x) / sigma ** 2
    if form == 'v':
        denoised = (m * x - sigma * net(x, t)) / (m * m + sigma ** 2)
        return (m * denoised - x) / sigma ** 2
    if form == 'velocity to data':  # -dx/dt of the flow: a x - g²/2 s = -u
        return 2 * (a * x + net(x, t)) / g2
    if form == 'edm':
        c_skip, c_in = DATA_DEVIATION ** 2 / (sigma ** 2 + DATA_DEVIATION ** 2), 1 / torch.sqrt(sigma ** 2 + DATA_DEVIATION ** 2)
        denoised = c_skip * x + sigma * DATA_DEVIATION * c_in * net(c_in * x, t)
        return (denoised - x) / sigma ** 2
    raise ValueError(form)


def potential_of(net, sde, x, t):
    """phi = A |x|²/2 + B/C Phi(tau, C x) of potential:edm."""
    m, sigma = SDES[sde][0](t)
    squares = m * m * DATA_DEVIATION ** 2 + sigma ** 2
    return -(x * x).sum(1) / (2 * squares) + m * DATA_DEVIATION / sigma * net(x / torch.sqrt(squares)[:, None], t)


LAYOUTS = {
    'cat_raw': (CatRaw, 'noise', 'vp-linear', 2,
                dict(layers=['net.0', 'net.2', 'net.4'], activation='silu', output='noise', inputs='x,t')),
    'sinusoidal_concatenated': (SinusoidalConcatenated, 'noise', 'vp-linear', 2,
                                dict(layers=['net.0', 'net.2', 'net.4'], activation='silu', output='noise', inputs='x,1000*t',
                                     time=[dict(sinusoidal=16, ends=False), 'emb.1', 'emb.3'], time_activation=['silu', 'identity'],
                                     time_into='net.0')),
    'added_to_projection': (AddedToProjection, 'v', 'vp-cosine', 3,
                            dict(layers=['project', 'one', 'two', 'out'], activation=['identity', 'tanh', 'tanh'], output='v',
                                 inputs='1000*t,x', time=[dict(sinusoidal=16), 'time.1', 'time.3'],
                                 time_activation=['softplus(1)', 'identity'], time_added_to=['project'])),
    'fourier_over_sigma': (FourierOverSigma, 'over sigma', 've', 2,
                           dict(layers=['l1', 'l2', 'l3'], activation='silu', output='noise', output_factor=-1, inputs='x,t',
                                time=[dict(fourier='W'), 'embed'], time_activation='silu', time_added_to=dict(l1='d1', l2='d2'))),
    'encoders': (Encoders, 'noise', 'subvp', 2,
                 dict(layers=['x_encoder.0', 'x_encoder.2', 'trunk.0', 'trunk.2', 'trunk.4'],
                      activation=['leaky-relu(0.2)', 'identity', 'leaky-relu(0.2)', 'leaky-relu(0.2)'], output='noise', inputs='x,t',
                      time=['t_encoder.0', 't_encoder.2'], time_activation=['leaky-relu(0.2)', 'identity'], time_into='trunk.0')),
    'residual_blocks': (ResidualBlocks, 'noise', 'vp-linear', 2,
                        dict(layers=[dict(sinusoidal=12, scale=2.5), 'begin', 'blocks.0', 'blocks.1', 'blocks.2', 'end'],
                             activation='gelu', output='noise', inputs='x,1000*t', time=[dict(sinusoidal=12)], time_into='begin',
                             residual=['blocks.0', 'blocks.1', 'blocks.2'])),
    'edm': (Edm, 'edm', 'edm', 2,
            dict(layers=['model.0', 'model.2', 'model.4'], activation='gelu-tanh', output='edm', data_deviation=DATA_DEVIATION,
                 inputs='0.25*log-sigma,x')),
    'flow': (Flow, 'velocity to data', 'flow', 3,
             dict(layers=['net.0', 'net.2', 'net.4'], activation='elu(1)', output='velocity-to-data', inputs='x,-1*t+1')),
    'weight_normed': (WeightNormed, 'denoised', 'vp-linear', 2,
                      dict(layers=['net.0', 'net.2', 'net.4'], activation='selu', output='denoised', inputs='x,log-sigma')),
    'potential': (Potential, 'potential', 'subvp', 2,
                  dict(layers=['net.0', 'net.2', 'net.4'], activation='silu', output='potential:edm', data_deviation=DATA_DEVIATION,
                       inputs='x,-0.125*log-snr', time=['time.0'], time_activation='silu', time_into='net.0')),
    'state_mish': (StateMish, 'noise', 'vp-linear', 2,
                   dict(layers=['mid_layer.0', 'mid_layer.2', 'mid_layer.4', 'final_layer'], activation='mish', output='noise',
                        inputs='x,1000*t,y', time=[dict(sinusoidal=16), 'time_mlp.1', 'time_mlp.3'],
                        time_activation=['mish', 'identity'], time_into='mid_layer.0', condition_width=5)),
    'encoded_state': (EncodedState, 'velocity to data', 'flow', 3,
                      dict(layers=['l1', 'l2', 'l3'], activation='silu', output='velocity-to-data', inputs='t,x,y', residual='l2',
                           condition_width=4, condition=['encoder.0', 'encoder.2'], condition_activation=['relu', 'identity'],
                           condition_added_to=dict(l1='c1', l2='c2'))),
}


def fields(net, form, sde, x, t, graph=False):
    """score, divergence, and of a potential its value and time derivative."""
    x = x.detach().clone().requires_grad_(True)
    t = t.detach().clone().requires_grad_(True)
    value = dt = None
    if form == 'potential':
        value = potential_of(net, sde, x, t)
        score, dt = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
    else:
        score = score_of(net, form, sde, x, t)
    divergence = sum(torch.autograd.grad(score[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    return score, divergence, value, dt, x


def make(name, folder):
    torch.manual_seed(sum(map(ord, name)))
    kind, form, sde, d, recipe = LAYOUTS[name]
    net = kind()
    with torch.no_grad():  # float32 numbers, in double
        for parameter in list(net.parameters()) + list(net.buffers()):
            parameter.copy_(parameter.float().double())
    horizon = SDES[sde][1]
    n = 24
    if sde == 'edm':
        t = torch.exp(torch.empty(n).uniform_(math.log(0.05), math.log(20)))
    else:
        t = torch.empty(n).uniform_(0.05 * horizon, 0.95 * horizon)
    x = torch.randn(n, d) * torch.sqrt(1 + torch.clamp(SDES[sde][0](t)[1], max=30.0))[:, None]
    target, weight = torch.randn(n, d), torch.empty(n).uniform_(0.3, 2)
    out, network = dict(t=t, x=x), net
    if 'condition_width' in recipe:
        out['condition'] = torch.randn(n, recipe['condition_width'])
        network = lambda x, t: net(x, t, out['condition'])  # each point its own, along its path too
    score, divergence, value, dt, at = fields(network, form, sde, x, t)
    out.update(score=score, divergence=divergence, target=target, weight=weight)
    loss = (weight[:, None] * (score - target) ** 2).mean()
    out['denoising'] = loss
    names = [key for key, parameter in net.named_parameters()]
    total = loss
    if form == 'potential':
        out['value'], out['dt'] = value, dt
        _, _, a, g2 = coefficients(sde, t)
        residual = dt + a * d + a * (at * score).sum(1) - g2 / 2 * (divergence + (score ** 2).sum(1))
        out['residual'] = (residual ** 2).mean()
        total = loss + 0.01 * out['residual']
    gradient = dict(zip(names, torch.autograd.grad(total, list(net.parameters()), retain_graph=True)))

    times = torch.logspace(math.log10(80), math.log10(0.5), 9) if sde == 'edm' else torch.linspace(horizon, 0.1 * horizon, 10)
    times[0] = horizon
    states, log_density = x.clone(), torch.zeros(n)

    def step(states, now, then):
        t = torch.full((n,), float(now))
        _, _, a, g2 = coefficients(sde, t)
        score, divergence, *_ = fields(network, form, sde, states, t)
        return ((states + (then - now) * (a[:, None] * states - g2[:, None] / 2 * score)).detach(),
                ((then - now) * (a * d - g2 / 2 * divergence)).detach())

    for now, then in zip(times, times[1:]):
        states, _ = step(states, now, then)
    out['ode'] = states
    states = x.clone()
    for now, then in zip(times.flip(0), times.flip(0)[1:]):
        states, change = step(states, now, then)
        log_density += change
    out['grid'], out['log_density_end'], out['log_density_change'] = times, states, log_density

    numpy.savez(folder / f'{name}.npz', **{key: number.detach().numpy().reshape(1, -1) if number.dim() == 0 else number.detach().numpy()
                                           for key, number in out.items()})
    state = {key: number.detach().float().contiguous() for key, number in net.state_dict().items()}
    save_file(state, folder / f'{name}.safetensors')
    for key in state:
        gradient.setdefault(key, torch.zeros_like(net.state_dict()[key]))
    save_file({key: number.detach().contiguous() for key, number in gradient.items()}, folder / f'{name}.gradient.safetensors')
    (folder / f'{name}.json').write_text(json.dumps(dict(recipe, sde=sde), indent=1) + '\n')


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for name in LAYOUTS:
        make(name, folder)
        print(name)


if __name__ == '__main__':
    main()
