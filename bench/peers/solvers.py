#!/usr/bin/env python3
"""Compares adaptive solvers of the probability flow, and estimates of the residual, with what people use in Python.

solver rows: of a published net of the paper (FOKKER_PAPER_DATA), the same states carried from T to 0 at equal tolerances
by fokker and by
    diffrax       Tsit5 with its PIDController as it comes, each sample a solve of its own by vmap, compiled before timed
    scipy-batch   solve_ivp's RK45 of all samples as one system of N d numbers, as score_sde calls it, score by PyTorch
    scipy-sample  the same solver for each sample by itself, of the first --alone of them, which shows its evaluations
Evaluations are of one network at one point; float32 scores, as everybody's default. A row says how far each result is from
that of 10 000 steps of RK4 in double, as a median over the samples, since the published flows carry some of them off to infinity.

residual rows: of a vector net trained here the mean square of r = ds/dt - grad[1/2 g^2 (div s + |s|^2) - f.s - div f], exact
and as the product of two estimates by fokker, exact in PyTorch, and as FP-Diffusion estimates it (Lai et al. 2023): one
Gaussian probe for the divergence, a difference of three times for ds/dt, and the square of the one estimate.
"""
import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from compare import ROOT, commit, machine

HORIZON = 10.0
PAIR = {'diffrax': 'tsit5', 'scipy-batch': 'dopri5', 'scipy-sample': 'dopri5'}
FURTHEST = 0.1  # of the end of RK4, in units of the data, whose width is about 6
EVALUATIONS, SPEED = 1.1, {'diffrax': 5, 'scipy-batch': 20}  # what is asked of the ratios


def say(text):
    print(f'{datetime.datetime.now():%H:%M:%S} {text}', file=sys.stderr, flush=True)


def fokker(executable, command, *options):
    words = [executable, command, *map(str, options), '--json']
    finished = subprocess.run(words, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{finished.stderr}ended with exit status {finished.returncode}")
    return json.loads(finished.stdout)


class Potential:
    """The published potential by PyTorch and by JAX: softplus of beta, inputs (t, x)."""

    def __init__(self, path):
        from safetensors.numpy import load_file
        self.arrays = load_file(path)
        self.layers, self.beta = ('input', 'hidden1', 'hidden2', 'output'), 100.0

    def torch_score(self, dtype):
        import torch
        p = {k: torch.from_numpy(v).to(dtype) for k, v in self.arrays.items()}

        def score(t, x):
            """t a number, x [N, 2]."""
            x = x.detach().requires_grad_(True)
            h = torch.cat([torch.full_like(x[:, :1], t), x], 1)
            for name in self.layers[:-1]:
                h = torch.nn.functional.softplus(torch.nn.functional.linear(h, p[name + '.weight'], p[name + '.bias']), beta=self.beta)
            h = torch.nn.functional.linear(h, p['output.weight'], p['output.bias'])
            return torch.autograd.grad(h.sum(), x)[0]
        return score

    def jax_phi(self):
        import jax
        from jax import numpy as jnp
        p = {k: jnp.asarray(v) for k, v in self.arrays.items()}

        def phi(t, x):
            h = jnp.concatenate([t[None].astype(x.dtype), x])
            for name in self.layers[:-1]:
                h = jax.nn.softplus(self.beta * (p[name + '.weight'] @ h + p[name + '.bias'])) / self.beta
            return (p['output.weight'] @ h + p['output.bias'])[0]
        return phi


class Diffrax:
    """dx/dt = -x - 1/2 s of the paper's SDE, from T down to 0."""

    def __init__(self, net, tolerance, most):
        import diffrax
        import jax
        from jax import numpy as jnp
        self.jax, self.jnp = jax, jnp
        score = jax.grad(net.jax_phi(), argnums=1)
        term = diffrax.ODETerm(lambda t, x, _: -x - 0.5 * score(t, x))
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)

        def one(x):
            solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), HORIZON, 0.0, None, x, stepsize_controller=controller,
                                           saveat=diffrax.SaveAt(t1=True), max_steps=most, throw=False)
            return solution.ys[0], solution.stats['num_steps']
        self.solve = jax.jit(jax.vmap(one))

    def __call__(self, states):
        x, steps = self.solve(self.jnp.asarray(states))
        # The last stage of a step is the first of the next; two more begin.
        return self.jax.device_get(x), int(6 * steps.sum() + 2 * len(states))


class ScipyBatch:
    def __init__(self, net, tolerance, _):
        import torch
        self.torch, self.score, self.tolerance = torch, net.torch_score(torch.float32), tolerance

    def __call__(self, states):
        from scipy import integrate
        torch, shape = self.torch, states.shape

        def velocity(t, flat):
            x = torch.from_numpy(flat.reshape(shape)).to(torch.float32)
            return (-x - 0.5 * self.score(t, x)).numpy().reshape(-1).astype('float64')
        solution = integrate.solve_ivp(velocity, (HORIZON, 0.0), states.reshape(-1), rtol=self.tolerance, atol=self.tolerance,
                                       method='RK45')
        return solution.y[:, -1].reshape(shape), solution.nfev * shape[0]


class ScipySample:
    def __init__(self, *arguments):
        self.batch = ScipyBatch(*arguments)

    def __call__(self, states):
        import numpy
        ends = [self.batch(states[k:k + 1]) for k in range(len(states))]
        return numpy.concatenate([x for x, _ in ends]), sum(n for _, n in ends)


PEERS = {'diffrax': Diffrax, 'scipy-batch': ScipyBatch, 'scipy-sample': ScipySample}


def rk4(net, states, steps):
    """The same flow by steps of one length, in double, by one thread: there are few states."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    score = net.torch_score(torch.float64)
    x, h = torch.from_numpy(states).double(), -HORIZON / steps

    def velocity(t, x):
        return -x - 0.5 * score(t, x)
    for k in range(steps):
        t = HORIZON + k * h
        a = velocity(t, x)
        b = velocity(t + h / 2, x + h / 2 * a)
        c = velocity(t + h / 2, x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + velocity(t + h, x + h * c))
    torch.set_num_threads(threads)
    return x.numpy()


def solve(arguments, name, tolerance, folder, reference):
    """One row: everybody's evaluations, error and seconds; the rounds of all in turn."""
    import numpy
    states = numpy.load(folder / 'states.npy')
    path = pathlib.Path(os.environ['FOKKER_PAPER_DATA']) / 'checkpoints' / f'{name}.safetensors'
    net, most = Potential(path), 10_000
    row = {'net': name, 'tolerance': tolerance, 'samples': len(states)}

    def error(x):
        return float(numpy.nanmedian(numpy.linalg.norm(x[:arguments.alone].astype(float) - reference, axis=1)))
    for scheme in ('tsit5', 'dopri5'):
        row[scheme] = {'seconds': []}
    for peer in arguments.peers:
        row[peer] = {'seconds': []}
    solvers = {peer: PEERS[peer](net, tolerance, most) for peer in arguments.peers}
    alone = states[:arguments.alone]
    for k in range(arguments.rounds + 1):  # the first warms, compiles and is checked
        for scheme in ('tsit5', 'dopri5'):
            for what, initial in (('', 'states.npy'), ('_alone', 'alone.npy')):
                said = fokker(arguments.fokker, 'sample', '--model', path, '--scheme', scheme, '--initial', folder / initial,
                              '--out', folder / 'out.npy', '--tolerance', tolerance, '--most-steps', most, '--threads', arguments.threads)
                row[scheme]['evaluations' + what] = said['steps']['evaluations'] / said['samples']
                if what == '':
                    row[scheme]['seconds'] += [said['seconds']] if k > 0 else []
                    row[scheme]['median_error'] = error(numpy.load(folder / 'out.npy'))
        for peer, solver in solvers.items():
            of = alone if peer == 'scipy-sample' else states
            begin = time.perf_counter()
            x, evaluations = solver(of)
            row[peer]['seconds'] += [time.perf_counter() - begin] if k > 0 else []
            row[peer] |= {'evaluations': evaluations / len(of), 'median_error': error(x), 'samples': len(of)}
    for peer in arguments.peers:
        mine, theirs = row[PAIR[peer]], row[peer]
        if max(mine['median_error'], theirs['median_error']) > FURTHEST:
            sys.exit(f"{name} at {tolerance}: {peer}'s median error is {theirs['median_error']:.2g} and ours {mine['median_error']:.2g}; "
                     f'allowed is {FURTHEST}, else they did not solve the same thing')
        ours = mine['evaluations' + ('_alone' if peer == 'scipy-sample' else '')]
        theirs['our_evaluations_ratio'] = ours / theirs['evaluations']
        per_sample = statistics.median(theirs['seconds']) / theirs['samples'], statistics.median(mine['seconds']) / len(states)
        theirs['our_speed'] = per_sample[0] / per_sample[1]
        say(f"{name}, {tolerance:g}: {peer} {theirs['evaluations']:.1f} evaluations a sample, ours {ours:.1f}, ratio "
            f"{theirs['our_evaluations_ratio']:.3f}; we are {theirs['our_speed']:.1f} times as fast; median errors "
            f"{theirs['median_error']:.1e}, {mine['median_error']:.1e}")
    return row


def torch_residual(path, n, generator, exact, h=1e-3):
    """r [N, 2] of the vector net of the paper's SDE (a = -1, g = 1) at times and points uniform as fokker draws them."""
    import torch
    from safetensors.torch import load_file
    p = {k: v.double() if exact else v for k, v in load_file(path).items()}
    dtype = next(iter(p.values())).dtype

    def score(t, x):
        y = torch.cat([t, x], 1)
        for name in ('input', 'hidden1', 'hidden2'):
            y = torch.nn.functional.softplus(torch.nn.functional.linear(y, p[name + '.weight'], p[name + '.bias']), beta=20.0)
        return torch.nn.functional.linear(y, p['output.weight'], p['output.bias'])
    t = 1e-4 + (HORIZON - 1e-4) * torch.rand(n, 1, generator=generator, dtype=dtype)
    x = (3.5 * (2 * torch.rand(n, 2, generator=generator, dtype=dtype) - 1)).requires_grad_(True)
    s = score(t, x)
    gradient = torch.autograd.grad
    if exact:
        divergence = sum(gradient(s[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        _, dt = torch.func.jvp(lambda t: score(t, x.detach()), (t,), (torch.ones_like(t),))
    else:
        v = torch.randn(n, 2, generator=generator)
        divergence = (gradient((s * v).sum(), x, create_graph=True)[0] * v).sum(1)
        with torch.no_grad():
            dt = (score(t + h, x) - score(t - h, x)) / (2 * h)
    inner = 0.5 * (divergence + (s * s).sum(1)) + (x * s).sum(1)
    return (dt - gradient(inner.sum(), x)[0]).detach()


def residuals(arguments, folder):
    """One row for the net that a short training gives."""
    import torch
    torch.set_num_threads(arguments.threads)
    path = folder / 'score.safetensors'
    fokker(arguments.fokker, 'train', '--data', 'checker', '--output', 'score', '--iterations', arguments.iterations, '--seed', 1,
           '--out', path, '--threads', arguments.threads)
    n, row = arguments.residual_points, {'data': 'checker', 'iterations': arguments.iterations, 'seed': 1}
    # A vector net's points of one time have the same probes: many times, and few points at each.
    for name, points, options in (('fokker_exact', 20, ()), ('fokker_unbiased', 20, ('--probes', 1))):
        said = [fokker(arguments.fokker, 'residual', '--model', path, '--times', n // points, '--points', points, '--threads',
                       arguments.threads, *options) for _ in range(arguments.rounds)][-1]
        row[name] = {k: said[k] for k in ('mean_square', 'standard_error', 'seconds')} | {'points': n // points * points}
    for name, exact in (('torch_exact', True), ('fp_diffusion', False)):
        for k in range(arguments.rounds):
            generator, begin, squares = torch.Generator().manual_seed(k), time.perf_counter(), []
            for _ in range(max(1, n // 50_000)):
                squares.append((torch_residual(path, min(n, 50_000), generator, exact)**2).sum(1))
            seconds = time.perf_counter() - begin
        r = torch.cat(squares).double()
        row[name] = {'mean_square': float(r.mean()), 'standard_error': float(r.std() / math.sqrt(len(r))), 'seconds': seconds,
                     'points': len(r)}
    ours, theirs = row['fokker_exact'], row['torch_exact']
    apart = abs(ours['mean_square'] - theirs['mean_square']) / math.hypot(ours['standard_error'], theirs['standard_error'])
    if apart > 5:
        sys.exit(f"the exact mean squares are {apart:.1f} standard errors apart: {ours['mean_square']}, {theirs['mean_square']}")
    for name in ('fokker_exact', 'fokker_unbiased', 'torch_exact', 'fp_diffusion'):
        it = row[name]
        say(f"residual, {name}: {it['mean_square']:.4g} ± {it['standard_error']:.2g}, {1e9 * it['seconds'] / it['points']:.0f} ns a point")
    return row


def main():
    parser = argparse.ArgumentParser(prog='bench/peers/run.sh --solvers', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fokker', help='path of fokker (run.sh gives it; without, arguments are only checked)')
    parser.add_argument('--name', default='solvers', help='the result is bench/results/NAME.json (default: %(default)s)')
    parser.add_argument('--nets', nargs='+', default=[f'{d}_w{w}' for d in ('checker', 'blob') for w in ('0.0', '1.0', '10.0')],
                        help='published nets (default: %(default)s)')
    parser.add_argument('--tolerances', nargs='+', type=float, default=[1e-3, 1e-5], help='default: %(default)s')
    parser.add_argument('--samples', type=int, default=10_000, help='default: %(default)s')
    parser.add_argument('--alone', type=int, default=50, help='of them solved one by one in SciPy, and held against RK4 (default: %(default)s)')
    parser.add_argument('--residual-points', type=int, default=200_000, help='default: %(default)s')
    parser.add_argument('--iterations', type=int, default=2000, help="of the training of the residual's net (default: %(default)s)")
    parser.add_argument('--peers', nargs='+', choices=PEERS, default=list(PEERS))
    parser.add_argument('--rounds', type=int, default=3, help='medians of so many count (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), help='of everybody (default: %(default)s)')
    arguments = parser.parse_args()
    for option, least in (('samples', 1), ('alone', 1), ('rounds', 1), ('threads', 1), ('residual_points', 2), ('iterations', 1)):
        if getattr(arguments, option) < least:
            parser.error(f"--{option.replace('_', '-')} {getattr(arguments, option)}: at least {least} is needed")
    for tolerance in arguments.tolerances:
        if not 1e-6 <= tolerance <= 1:
            parser.error(f'--tolerances {tolerance:g}: allowed are 1e-6, below which float32 cannot tell errors, to 1')
    if '/' in arguments.name or not arguments.name:
        parser.error(f"--name '{arguments.name}': a file name without folders is needed")
    if 'FOKKER_PAPER_DATA' not in os.environ:
        parser.error("FOKKER_PAPER_DATA is not set; it names the folder of the paper's published checkpoints")
    if arguments.fokker is None:
        return
    arguments.alone = min(arguments.alone, arguments.samples)
    os.environ |= {'OMP_NUM_THREADS': str(arguments.threads)}
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:arguments.threads])
    import numpy
    import torch
    torch.set_num_threads(arguments.threads)
    path = ROOT / 'bench' / 'results' / f'{arguments.name}.json'
    report = {'date': datetime.date.today().isoformat(), 'commit': commit(), 'machine': machine(), 'threads': arguments.threads,
              'rounds': arguments.rounds,
              'versions': {p: importlib.metadata.version(p) for p in ('diffrax', 'jax', 'scipy', 'torch', 'numpy')}, 'solvers': []}

    def write():
        path.write_text(json.dumps(report, indent=1) + '\n')
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        states = (math.sqrt(0.5) * numpy.random.default_rng(1).standard_normal((arguments.samples, 2))).astype(numpy.float32)
        numpy.save(folder / 'states.npy', states)
        numpy.save(folder / 'alone.npy', states[:arguments.alone])
        for net in arguments.nets:
            checkpoint = pathlib.Path(os.environ['FOKKER_PAPER_DATA']) / 'checkpoints' / f'{net}.safetensors'
            if not checkpoint.exists():
                sys.exit(f'--nets {net}: there is no {checkpoint}')
            reference = rk4(Potential(checkpoint), states[:arguments.alone], 10_000)
            for tolerance in arguments.tolerances:
                report['solvers'].append(solve(arguments, net, tolerance, folder, reference))
                write()
        report['residual'] = residuals(arguments, folder)
        write()
    for peer in arguments.peers:
        rows = [row[peer] for row in report['solvers']]
        worst = max(r['our_evaluations_ratio'] for r in rows)
        slowest = min(r['our_speed'] for r in rows)
        say(f"{peer}: evaluations at most {worst:.3f} of theirs (asked {EVALUATIONS})" +
            f"; at least {slowest:.1f} times as fast" +
            (f' (asked {SPEED[peer]})' if peer in SPEED else ''))


if __name__ == '__main__':
    main()
