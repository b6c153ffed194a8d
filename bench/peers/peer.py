#!/usr/bin/env python3
"""One peer of the comparison: peer.py (torch|torch.compile|jax) REFERENCE THREADS (cpu|cuda), asked by lines on standard
input.

    check WORK          the work on the reference's inputs, against the reference's results
    time WORK SECONDS   milliseconds of the work, the median over at least SECONDS and three repetitions
    versions

The works, in float32, on the paper's potential network phi(t, x) with score grad_x phi:
    score     at the reference's points: 50 000 on a CPU, 2^20 on a GPU
    residual  value, time derivative, score, Laplacian and from them the Fokker-Planck residual, at the same points
    train     one iteration: as many denoising and residual points drawn as the reference has (20 000 and 5 000 on a CPU,
              200 000 and 50 000 on a GPU), both losses by automatic differentiation as the paper's authors write them,
              the gradient, Adam
    step      one Euler-Maruyama step of 50 000 samples, noise included: twenty steps, divided by twenty
    noise     the score at the same points of a noise net, whose time goes through a branch into every hidden layer
    noise_step  one Euler-Maruyama step of 50 000 samples with it, whose branch has one row
    sample    whole paths: the reference's number of samples through all steps of its grid, prior and noise drawn

A GPU's products are float32 too: TF32, which JAX takes for float32 there unless told otherwise, is turned off. Timings wait
for the device.
"""
import json
import math
import statistics
import sys
import time

import numpy
from safetensors.numpy import load_file

T, T_MIN, BOX, RATE, BETA = 10.0, 1e-4, 3.5, 1e-4, 100.0
STEPS = 20
# Root mean square of the difference over that of the quantity: single precision through softplus with beta = 100, whose
# first (score, step), second (residual) and third (train) derivatives amplify a rounding of 6e-8 by beta once, twice, three
# times. What is checked of whole paths is their step.
BOUND = {'noise': 1e-5, 'noise_step': 1e-5, 'score': 1e-5, 'residual': 2e-4, 'step': 1e-5, 'sample': 1e-5, 'train': 1e-4}


class Torch:
    def __init__(self, reference, threads, device, compiled):
        import torch
        self.torch, self.compiled, self.device = torch, compiled, device
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision('highest')
        torch.manual_seed(0)
        self.reference = {k: torch.from_numpy(v).to(device) for k, v in reference.items()}
        self.names = [k.removeprefix('parameter.') for k in reference if k.startswith('parameter.')]
        self.layers = ['input', 'hidden1', 'hidden2', 'output']
        self.fixed = {n: self.reference['parameter.' + n].clone() for n in self.names}
        self.sampled = {n: self.reference.get('sample.parameter.' + n, self.fixed[n]) for n in self.names}
        self.noise = {k.removeprefix('noise.parameter.'): v for k, v in self.reference.items() if k.startswith('noise.parameter.')}
        self.trained = {n: p.clone().requires_grad_(True) for n, p in self.fixed.items()}
        # fused is the fastest Adam there is.
        self.adam = torch.optim.Adam(self.trained.values(), lr=RATE, fused=True)
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.score_function = wrap(self.functional_score if compiled else self.autograd_score)
        self.residual_function = wrap(self.functional_residual if compiled else self.autograd_residual)
        self.gradient_function = wrap(self.functional_gradient) if compiled else self.autograd_gradient
        self.draw_function = wrap(self.draw)
        self.step_function = wrap(self.step)
        self.noise_function, self.noise_step_function = wrap(self.noise_score), wrap(self.noise_step)

    def versions(self):
        return {'torch': self.torch.__version__}

    def wait(self):
        if self.device == 'cuda':
            self.torch.cuda.synchronize()

    def phi(self, p, t, x):
        functional = self.torch.nn.functional
        h = self.torch.cat([t[:, None], x], 1)
        for name in self.layers[:-1]:
            h = functional.softplus(functional.linear(h, p[name + '.weight'], p[name + '.bias']), beta=BETA, threshold=20)
        return functional.linear(h, p['output.weight'], p['output.bias'])[:, 0]

    def noise_score(self, p, t, x):
        """t [N], or [1] for all points."""
        functional = self.torch.nn.functional
        e = self.torch.sin(functional.linear(t[:, None], p['time1.weight'], p['time1.bias']))
        e = functional.silu(functional.linear(e, p['time2.weight'], p['time2.bias'])).expand(x.shape[0], -1)
        h = x
        for name in self.layers[:-1]:
            h = functional.silu(functional.linear(self.torch.cat([e, h], 1), p[name + '.weight'], p[name + '.bias']))
        sigma = self.torch.sqrt(-0.5 * self.torch.expm1(-2 * t))[:, None]
        return -functional.linear(h, p['output.weight'], p['output.bias']) / sigma

    def noise_step(self, p, t, dt, x, noise):
        z = self.torch.randn_like(x) if noise is None else noise
        return x + dt * (x + self.noise_score(p, t, x)) + dt.sqrt() * z

    def autograd_score(self, p, t, x):
        x = x.detach().requires_grad_(True)
        return self.torch.autograd.grad(self.phi(p, t, x).sum(), x)[0]

    def functional_score(self, p, t, x):
        return self.torch.func.grad(lambda at: self.phi(p, t, at).sum())(x)

    def autograd_residual(self, p, t, x):
        grad = self.torch.autograd.grad
        t, x = t.detach().requires_grad_(True), x.detach().requires_grad_(True)
        dt, s = grad(self.phi(p, t, x).sum(), (t, x), create_graph=True)
        laplacian = sum(grad(s[:, i].sum(), x, retain_graph=i == 0)[0][:, i] for i in range(2))
        return self.residual(dt, s, laplacian, x).detach()

    def functional_residual(self, p, t, x):
        func = self.torch.func
        gradient = func.grad(lambda t, x: self.phi(p, t, x).sum(), argnums=(0, 1))
        dt, s = gradient(t, x)
        laplacian = sum(func.grad(lambda at: gradient(t, at)[1][:, i].sum())(x)[:, i] for i in range(2))
        return self.residual(dt, s, laplacian, x)

    def autograd_gradient(self, p, t, x, target, t_at, x_at):
        """Losses [2] and the gradient of their sum, as the authors' code: autograd.grad with create_graph."""
        grad = self.torch.autograd.grad
        x = x.detach().requires_grad_(True)
        denoising = ((grad(self.phi(p, t, x).sum(), x, create_graph=True)[0] - target) ** 2).mean()
        t_at, x_at = t_at.detach().requires_grad_(True), x_at.detach().requires_grad_(True)
        dt, s = grad(self.phi(p, t_at, x_at).sum(), (t_at, x_at), create_graph=True)
        laplacian = sum(grad(s[:, i].sum(), x_at, create_graph=True)[0][:, i] for i in range(2))
        residual = (self.residual(dt, s, laplacian, x_at) ** 2).mean()
        return self.torch.stack([denoising, residual]), dict(
            zip(p, grad(denoising + residual, list(p.values()), allow_unused=True)))

    @staticmethod
    def residual(dt, s, laplacian, x):
        return dt - 2 - (x * s).sum(1) - 0.5 * (s * s).sum(1) - 0.5 * laplacian

    def functional_gradient(self, p, t, x, target, t_at, x_at):
        """The same by functional transforms, which torch.compile traces as one graph."""
        func = self.torch.func

        def total(p):
            score = func.grad(lambda at: self.phi(p, t, at).sum())(x)
            denoising = ((score - target) ** 2).mean()
            residual = (self.functional_residual(p, t_at, x_at) ** 2).mean()
            return denoising + residual, (denoising, residual)

        gradient, (_, losses) = func.grad_and_value(total, has_aux=True)(p)
        return self.torch.stack(losses), gradient

    def draw(self):
        """Points of circles2 carried to a time, and residual points."""
        torch = self.torch
        n, m = (len(self.reference[k]) for k in ('train.t', 'train.collocation_t'))
        rand, randn = (lambda *shape, f=f: f(*shape, device=self.device) for f in (torch.rand, torch.randn))
        radius = 2 * (torch.where(rand(n) < 0.5, 0.65, 1.4) + 0.1 * randn(n))
        angle = 2 * math.pi * rand(n)
        x0 = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)
        t = T_MIN + (T - T_MIN) * (1 - torch.sqrt(1 - rand(n)))
        sigma = torch.sqrt(-0.5 * torch.expm1(-2 * t))[:, None]
        z = randn(n, 2)
        x = torch.exp(-t)[:, None] * x0 + sigma * z
        return t, x, -z / sigma, T_MIN + (T - T_MIN) * rand(m), BOX * (2 * rand(m, 2) - 1)

    def step(self, p, t, dt, x, noise):
        score = (self.functional_score if self.compiled else self.autograd_score)(p, t.expand(x.shape[0]), x)
        z = self.torch.randn_like(x) if noise is None else noise
        return x + dt * (x + score) + dt.sqrt() * z

    def check(self, work):
        r = self.reference
        if work in ('score', 'residual'):
            function = self.score_function if work == 'score' else self.residual_function
            return {work: (function(self.fixed, r['points.t'], r['points.x']), r['points.' + work])}
        if work == 'noise':
            with self.torch.no_grad():
                return {work: (self.noise_function(self.noise, r['points.t'], r['points.x']), r['noise.score'])}
        if work == 'noise_step':
            times, dts = self.grid()
            with self.torch.no_grad():
                return {'sample': (self.noise_step_function(self.noise, times[0], dts[0], r['points.x'], r['step.noise']),
                                   r['noise.after'])}
        if work in ('step', 'sample'):
            times, dts = self.grid()
            return {'sample': (self.step_function(self.fixed, times[0], dts[0], r['points.x'], r['step.noise']),
                               r['step.after'])}
        losses, gradient = self.gradient_function(self.trained, *(r['train.' + k] for k in (
            't', 'x', 'target', 'collocation_t', 'collocation_x')))
        return {'losses': (losses, r['train.losses'][:2])} | {
            n: (gradient[n], r['gradient.' + n]) for n in self.names if n != 'output.bias'}

    def grid(self):
        times = self.reference['step.times']
        return list(times[:-1, None].float()), list((times[:-1] - times[1:])[:, None].float())

    def prepare(self, work):
        torch = self.torch
        if work in ('score', 'residual'):
            function = self.score_function if work == 'score' else self.residual_function
            t, x = self.reference['points.t'], self.reference['points.x']
            return lambda: function(self.fixed, t, x), 1
        if work == 'noise':
            t, x = self.reference['points.t'], self.reference['points.x']

            def noise():
                with torch.no_grad():
                    self.noise_function(self.noise, t, x)
            return noise, 1
        if work in ('step', 'sample', 'noise_step'):
            times, dts = self.grid()
            step = self.noise_step_function if work == 'noise_step' else self.step_function
            if work == 'sample':
                p, n, steps = self.sampled, int(self.reference['sample.count'].item()), len(times)
            else:
                p, n, steps = self.noise if work == 'noise_step' else self.fixed, len(self.reference['points.x']), STEPS

            def paths():
                x = math.sqrt(0.5) * torch.randn(n, 2, device=self.device)
                with torch.set_grad_enabled(work != 'noise_step'):
                    for t, dt in zip(times[:steps], dts):
                        x = step(p, t, dt, x, None)
            return paths, 1 if work == 'sample' else STEPS

        def iteration():
            _, gradient = self.gradient_function(self.trained, *self.draw_function())
            for name, parameter in self.trained.items():
                parameter.grad = None if gradient[name] is None else gradient[name].detach()
            self.adam.step()
        return iteration, 1

    @staticmethod
    def array(value):
        return value.detach().cpu().numpy()


class Jax:
    def __init__(self, reference, threads, device):
        import jax
        from jax import numpy as jnp
        self.jax, self.jnp = jax, jnp
        jax.config.update('jax_platforms', device)
        jax.config.update('jax_default_matmul_precision', 'highest')
        self.reference = {k: jnp.asarray(v, dtype=jnp.float32) for k, v in reference.items()}
        self.times = reference['step.times']  # in double: differences of times in float would lose digits
        self.names = [k.removeprefix('parameter.') for k in reference if k.startswith('parameter.')]
        self.fixed = {n: self.reference['parameter.' + n] for n in self.names}
        self.noise = {k.removeprefix('noise.parameter.'): v for k, v in self.reference.items() if k.startswith('noise.parameter.')}
        self.sampled = {n: self.reference.get('sample.parameter.' + n, self.fixed[n]) for n in self.names}
        self.score_function = jax.jit(self.score)
        self.residual_function = jax.jit(self.residual)
        self.gradient_function = jax.jit(self.gradient)

    def versions(self):
        return {'jax': self.jax.__version__}

    def wait(self):
        """The works wait by themselves."""

    def phi(self, p, t, x):
        h = self.jnp.concatenate([t[:, None], x], 1)
        for name in ('input', 'hidden1', 'hidden2'):
            h = self.jax.nn.softplus(BETA * (h @ p[name + '.weight'].T + p[name + '.bias'])) / BETA
        return (h @ p['output.weight'].T + p['output.bias'])[:, 0]

    def noise_score(self, p, t, x):
        """t [N], or [1] for all points."""
        jnp, silu = self.jnp, self.jax.nn.silu
        linear = lambda h, name: h @ p[name + '.weight'].T + p[name + '.bias']
        e = silu(linear(jnp.sin(linear(t[:, None], 'time1')), 'time2'))
        e = jnp.broadcast_to(e, (x.shape[0], e.shape[1]))
        h = x
        for name in ('input', 'hidden1', 'hidden2'):
            h = silu(linear(jnp.concatenate([e, h], 1), name))
        return -linear(h, 'output') / jnp.sqrt(-0.5 * jnp.expm1(-2 * t))[:, None]

    def noise_step(self, p, t, dt, x, z):
        return x + dt * (x + self.noise_score(p, t[None], x)) + self.jnp.sqrt(dt) * z

    def score(self, p, t, x):
        return self.jax.grad(lambda at: self.phi(p, t, at).sum())(x)

    def residual(self, p, t, x):
        """The Laplacian forward over reverse."""
        gradient = self.jax.grad(lambda t, x: self.phi(p, t, x).sum(), argnums=(0, 1))
        dt, s = gradient(t, x)
        laplacian = sum(self.jax.jvp(lambda at: gradient(t, at)[1], (x,),
                                     (self.jnp.zeros_like(x).at[:, i].set(1),))[1][:, i] for i in range(2))
        return dt - 2 - (x * s).sum(1) - 0.5 * (s * s).sum(1) - 0.5 * laplacian

    def gradient(self, p, t, x, target, t_at, x_at):
        """Losses [2] and the gradient of their sum."""
        def total(p):
            denoising = ((self.score(p, t, x) - target) ** 2).mean()
            residual = (self.residual(p, t_at, x_at) ** 2).mean()
            return denoising + residual, self.jnp.stack([denoising, residual])

        (_, losses), gradient = self.jax.value_and_grad(total, has_aux=True)(p)
        return losses, gradient

    def draw(self, key):
        jnp, random = self.jnp, self.jax.random
        n, m = (len(self.reference[k]) for k in ('train.t', 'train.collocation_t'))
        keys = random.split(key, 7)
        radius = 2 * (jnp.where(random.uniform(keys[0], (n,)) < 0.5, 0.65, 1.4) + 0.1 * random.normal(keys[1], (n,)))
        angle = 2 * jnp.pi * random.uniform(keys[2], (n,))
        x0 = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], 1)
        t = T_MIN + (T - T_MIN) * (1 - jnp.sqrt(1 - random.uniform(keys[3], (n,))))
        sigma = jnp.sqrt(-0.5 * jnp.expm1(-2 * t))[:, None]
        z = random.normal(keys[4], (n, 2))
        x = jnp.exp(-t)[:, None] * x0 + sigma * z
        return (t, x, -z / sigma, T_MIN + (T - T_MIN) * random.uniform(keys[5], (m,)),
                BOX * (2 * random.uniform(keys[6], (m, 2)) - 1))

    def step(self, p, t, dt, x, z):
        return x + dt * (x + self.score(p, self.jnp.full(x.shape[0], t), x)) + self.jnp.sqrt(dt) * z

    def check(self, work):
        r = self.reference
        if work in ('score', 'residual'):
            function = self.score_function if work == 'score' else self.residual_function
            return {work: (function(self.fixed, r['points.t'], r['points.x']), r['points.' + work])}
        if work == 'noise':
            return {work: (self.jax.jit(self.noise_score)(self.noise, r['points.t'], r['points.x']), r['noise.score'])}
        if work == 'noise_step':
            times, dts = self.grid()
            return {'sample': (self.jax.jit(self.noise_step)(self.noise, times[0], dts[0], r['points.x'], r['step.noise']),
                               r['noise.after'])}
        if work in ('step', 'sample'):
            times, dts = self.grid()
            return {'sample': (self.jax.jit(self.step)(self.fixed, times[0], dts[0], r['points.x'], r['step.noise']),
                               r['step.after'])}
        losses, gradient = self.gradient_function(self.fixed, *(r['train.' + k] for k in (
            't', 'x', 'target', 'collocation_t', 'collocation_x')))
        return {'losses': (losses, r['train.losses'][:2])} | {
            n: (gradient[n], r['gradient.' + n]) for n in self.names if n != 'output.bias'}

    def grid(self):
        times = self.times
        return times[:-1].astype(numpy.float32), (times[:-1] - times[1:]).astype(numpy.float32)

    def prepare(self, work):
        jax, jnp = self.jax, self.jnp
        if work in ('score', 'residual'):
            function = self.score_function if work == 'score' else self.residual_function
            t, x = self.reference['points.t'], self.reference['points.x']
            return lambda: function(self.fixed, t, x).block_until_ready(), 1
        if work == 'noise':
            function, t, x = jax.jit(self.noise_score), self.reference['points.t'], self.reference['points.x']
            return lambda: function(self.noise, t, x).block_until_ready(), 1
        if work in ('step', 'sample', 'noise_step'):
            times, dts = map(jnp.asarray, self.grid())
            step = self.noise_step if work == 'noise_step' else self.step
            if work == 'sample':
                p, n, steps = self.sampled, int(self.reference['sample.count'][0]), len(times)
            else:
                p, n, steps = self.noise if work == 'noise_step' else self.fixed, len(self.reference['points.x']), STEPS

            @jax.jit
            def paths(p, key):
                def body(k, x):
                    z = jax.random.normal(jax.random.fold_in(key, k), x.shape)
                    return step(p, times[k], dts[k], x, z)
                return jax.lax.fori_loop(0, steps, body, math.sqrt(0.5) * jax.random.normal(key, (n, 2)))
            return lambda: paths(p, jax.random.key(1)).block_until_ready(), 1 if work == 'sample' else STEPS

        @jax.jit
        def iterate(p, first, second, k, key):
            _, gradient = self.gradient(p, *self.draw(jax.random.fold_in(key, k.astype(jnp.uint32))))
            tree = jax.tree_util.tree_map
            first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            p = tree(lambda p, m, v: p - RATE * (m / (1 - 0.9 ** k)) / (jnp.sqrt(v / (1 - 0.999 ** k)) + 1e-8), p, first, second)
            return p, first, second, k + 1

        zeros = jax.tree_util.tree_map(jnp.zeros_like, self.fixed)
        state = [(self.fixed, zeros, zeros, jnp.float32(1))]
        key = jax.random.key(1)

        def iteration():
            state[0] = iterate(*state[0], key)
            jax.block_until_ready(state[0])
        return iteration, 1

    @staticmethod
    def array(value):
        return numpy.asarray(value)


def check(peer, work):
    errors = {}
    for name, (got, want) in peer.check(work).items():
        got, want = peer.array(got).astype(numpy.float64), peer.array(want).astype(numpy.float64)
        errors[name] = float(numpy.sqrt(numpy.mean((got - want) ** 2) / numpy.mean(want ** 2)))
    same = all(error <= BOUND[work] for error in errors.values())  # false for NaN
    return {'same': same, 'errors': errors}


def measure(peer, body, per_call, seconds):
    """The median of at least three runs, or of fewer where one run alone takes ten times what was asked for."""
    def run():
        start = time.perf_counter()
        body()
        peer.wait()
        return time.perf_counter() - start

    run()
    times, begin = [], time.perf_counter()
    while not times or (spent := time.perf_counter() - begin) < seconds or len(times) < 3 and spent < 10 * seconds:
        times.append(run())
    return {'ms': 1e3 * statistics.median(times) / per_call}


def main():
    name, reference, threads, device = sys.argv[1], load_file(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    peer = (Jax(reference, threads, device) if name == 'jax' else
            Torch(reference, threads, device, compiled=name == 'torch.compile'))
    prepared = {}
    for line in sys.stdin:
        command, *rest = line.split()
        if command == 'check':
            answer = check(peer, rest[0])
        elif command == 'time':
            if rest[0] not in prepared:
                prepared[rest[0]] = peer.prepare(rest[0])
            answer = measure(peer, *prepared[rest[0]], float(rest[1]))
        else:
            answer = peer.versions()
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
