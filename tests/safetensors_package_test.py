#!/usr/bin/env python3
"""Files exchanged with Python's safetensors package (argument: the executable `fokker`). A model that fokker trained is
read by it and evaluated in double; the same tensors written by it under the names of an nn.Sequential, which it stores in
alphabetical order, give the same fields to the bit. The package's files pass through PyTorch where that is installed, else
through numpy. Exits with 77, which ctest counts as skipped, without the package."""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import safetensors.numpy
    from safetensors import safe_open
except ImportError as error:
    print(f'skipped: this Python has no safetensors package with numpy ({error})')
    sys.exit(77)
try:
    import safetensors.torch
    import torch
except ImportError:
    torch = None

WIDTHS = [17, 9, 7, 5, 3]
PREFIXES = ['input'] + [f'hidden{i}' for i in range(1, len(WIDTHS))] + ['output']
SEQUENTIAL = [str(2 * i) for i in range(len(PREFIXES))]  # 0, 2, …, 10: activations stand between


def load_file(path):
    if torch is None:
        return safetensors.numpy.load_file(path)
    return {name: tensor.numpy() for name, tensor in safetensors.torch.load_file(path).items()}


def save_file(tensors, path, metadata=None):
    if torch is None:
        return safetensors.numpy.save_file(tensors, path, metadata)
    return safetensors.torch.save_file({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path, metadata)


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fields(fokker, model, points, out, *options):
    run(fokker, 'field', '--model', model, '--points', points, '--out', out, *options)
    return load_file(out)


def potential(tensors, points, beta):
    """φ and its gradient in x, in double."""
    z, derivative = points, np.broadcast_to(np.eye(3)[1:], (len(points), 2, 3))
    for prefix in PREFIXES:
        weight = tensors[prefix + '.weight'].astype(np.float64)
        z, derivative = z @ weight.T + tensors[prefix + '.bias'], derivative @ weight.T
        if prefix != 'output':
            derivative = derivative / (1 + np.exp(-beta * z))[:, None, :]
            z = np.logaddexp(0, beta * z) / beta
    return z[:, 0], derivative[:, :, 0]


def close(found, wanted):
    """float32 against double: each of six layers rounds sums of at most 17 terms, 6 · 17 · 2^−24 = 6e-6 of the norm, and
    a bound on |W| |z| in place of |W z| makes that five times as much."""
    return np.linalg.norm(found - wanted) <= 3e-5 * np.linalg.norm(wanted)


def check(fokker, folder):
    ours, theirs, bare = folder / 'ours.safetensors', folder / 'theirs.safetensors', folder / 'bare.safetensors'
    run(fokker, 'train', '--data', 'blob', '--hidden', ','.join(map(str, WIDTHS)), '--beta', '5', '--iterations', '3',
        '--denoising-points', '64', '--out', ours)
    tensors = load_file(ours)
    assert set(tensors) == {f'{p}.{kind}' for p in PREFIXES for kind in ('weight', 'bias')}, sorted(tensors)
    sizes = [3, *WIDTHS, 1]
    for prefix, inputs, outputs in zip(PREFIXES, sizes, sizes[1:]):
        weight, bias = tensors[prefix + '.weight'], tensors[prefix + '.bias']
        assert weight.shape == (outputs, inputs) and bias.shape == (outputs,), prefix
        assert weight.dtype == bias.dtype == np.float32, prefix
    with safe_open(ours, 'numpy') as file:
        metadata = file.metadata()
    assert metadata['layers'] == ','.join(PREFIXES) and metadata['activation'] == 'softplus', metadata

    points = folder / 'points.npy'
    at = np.stack([np.linspace(0.1, 9, 99), 2 * np.sin(np.arange(99.)), 2 * np.cos(2 * np.arange(99.))], axis=1)
    at = at.astype(np.float32)
    np.save(points, at)
    found = fields(fokker, ours, points, folder / 'ours_fields.safetensors')
    value, score = potential(tensors, at.astype(np.float64), float(metadata['beta']))
    assert found['value'].shape == (99,) and found['score'].shape == (99, 2)
    assert close(found['value'], value) and close(found['score'], score)

    renamed = {name.replace(p, s): tensor for p, s in zip(PREFIXES, SEQUENTIAL) for name, tensor in tensors.items()
               if name.startswith(p + '.')}
    save_file(renamed, theirs, metadata={**metadata, 'layers': ','.join(SEQUENTIAL)})
    save_file(renamed, bare)
    content = theirs.read_bytes()
    header = json.loads(content[8:8 + int.from_bytes(content[:8], 'little')])
    order = [name for name in header if name != '__metadata__']
    assert order == sorted(order) and order.index('10.weight') < order.index('2.weight'), order
    options = ['--activation', 'softplus', '--beta', metadata['beta'], '--output', 'potential', '--inputs', 't,x', '--sde', 'ou']
    for model, more in ((theirs, []), (bare, options)):
        again = fields(fokker, model, points, folder / 'theirs_fields.safetensors', *more)
        assert set(again) == set(found)
        for name in found:
            assert np.array_equal(again[name], found[name]), (model.name, name)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as name:
        check(pathlib.Path(sys.argv[1]), pathlib.Path(name))
