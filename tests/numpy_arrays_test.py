#!/usr/bin/env python3
"""Arrays that NumPy wrote, of every type and layout, as points of `fokker field` (argument: the executable `fokker`): the
scores there are those at the same numbers in a plain float32 .npy file, to the bit. Exits with 77, which ctest counts as
skipped, without NumPy."""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as error:
    print(f'skipped: this Python has no NumPy ({error})')
    sys.exit(77)

TYPES = ['?', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8']
MIXTURE = {'weights': [1, 2], 'means': [[1.5, -0.5], [0.5, -1]], 'covariances': [0.5, 2]}


def save_version(path, array, version):
    with open(path, 'wb') as file:
        np.lib.format.write_array(file, array, version=version)


def python2(path, array):
    """The header as Python 2 writes long integers."""
    header = str({'descr': array.dtype.str, 'fortran_order': False, 'shape': '@'}).replace(
        "'@'", '(' + ', '.join(f'{n}L' for n in array.shape) + ')')
    path.write_bytes(b'\x93NUMPY\1\0' + len(header).to_bytes(2, 'little') + header.encode() + array.tobytes())


# Ways to write an array: the file's name, what writes it there, and the name that the array has then.
WAYS = [
    ('plain.npy', np.save, ''),
    ('fortran.npy', lambda path, array: np.save(path, np.asfortranarray(array)), ''),
    ('swapped.npy', lambda path, array: np.save(path, array.astype(array.dtype.newbyteorder('S'))), ''),
    ('both.npy', lambda path, array: np.save(path, np.asfortranarray(array.astype(array.dtype.newbyteorder('S')))), ''),
    ('strided.npy', lambda path, array: np.save(path, np.repeat(array, 2, axis=0)[::2]), ''),
    ('two.npy', lambda path, array: save_version(path, array, (2, 0)), ''),
    ('three.npy', lambda path, array: save_version(path, array, (3, 0)), ''),
    ('python2.npy', python2, ''),
    ('only.npz', np.savez, ''),
    ('packed.npz', np.savez_compressed, ''),
    ('named.npz', lambda path, array: np.savez(path, x=array, y=2 * array), ':x'),
    ('matrix.npz', lambda path, array: np.savez_compressed(path, labels=np.arange(len(array)), x=array.T.copy().T), ''),
    ('names.csv', lambda path, array: np.savetxt(path, array, fmt='%.17g', delimiter=',', header='t,x,y', comments=''), ''),
    ('comment.csv', lambda path, array: np.savetxt(path, array, delimiter=', ', header='t, x, y'), ''),
    ('windows.csv', lambda path, array: np.savetxt(path, array, fmt='%+.9e', delimiter=',', newline='\r\n'), ''),
]


def fields(fokker, folder, points):
    out = folder / 'fields.safetensors'
    done = subprocess.run([fokker, 'field', '--model', folder / 'mixture.json', '--points', points, '--out', out],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, (points, done.stderr)
    return out.read_bytes()


def refusal(*command):
    done = subprocess.run([str(word) for word in (*command, '--backend', 'cpu')], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count('\n') == 1, (command, done.returncode, done.stderr)
    return done.stderr


def check_types(fokker, folder):
    wave = np.abs(np.sin(np.arange(57.)))
    for kind in TYPES:
        largest = 1 if kind == '?' else 9.5
        array = (largest * wave).reshape(19, 3).astype(kind)
        np.save(folder / 'reference.npy', array.astype('<f4'))
        wanted = fields(fokker, folder, folder / 'reference.npy')
        for name, write, member in WAYS:
            if kind == '?' and (name.endswith('.csv') or name == 'named.npz'):
                continue  # np.savetxt writes True, and there is no 2 * True
            write(folder / name, array)
            assert fields(fokker, folder, f'{folder / name}{member}') == wanted, (kind, name)


def check_vectors(fokker, folder):
    vector = np.linspace(-2, 3, 99)
    np.save(folder / 'vector.npy', vector)
    np.save(folder / 'column.npy', vector[:, None] + 1)
    gap = subprocess.run([fokker, 'gap', '--a', folder / 'vector.npy', '--b', folder / 'column.npy', '--json'],
                         capture_output=True, check=True)
    distance = json.loads(gap.stdout)['sliced_w2_squared']['a_b']
    assert abs(distance - 1) < 1e-5, distance


def check_trajectories(fokker, folder):
    subprocess.run([fokker, 'sample', '--model', folder / 'mixture.json', '--samples', '19', '--grid', 'uniform:8', '--out',
                    folder / 'samples.npy', '--trajectory', folder / 'paths.npz', '--snapshots', '5'], check=True,
                   capture_output=True)
    with np.load(folder / 'paths.npz') as paths:
        assert sorted(paths.files) == ['t', 'x'], paths.files
        assert paths['t'].dtype == 'f8' and paths['t'].tolist() == [10, 7.5, 5, 2.5, 0], paths['t']
        assert paths['x'].dtype == 'f4' and paths['x'].shape == (5, 19, 2), paths['x'].shape
        assert np.array_equal(paths['x'][-1], np.load(folder / 'samples.npy'))


def check_refusals(fokker, folder):
    x = np.arange(6.).reshape(2, 3)
    for name, array, what in (('complex', x.astype('c8'), 'complex'), ('object', np.array([[1, 'a']], dtype=object), "'|O'"),
                              ('date', np.array(['2020-01-01'], 'M8[s]'), "'<M8[s]'"), ('text', np.array(['a']), "'<U1'"),
                              ('fields', np.array([(1, 2.)], 'i4,f4'), 'structured array'),
                              ('cube', x.reshape(1, 2, 3), '3 dimensions'), ('scalar', np.float64(1), '0 dimensions')):
        np.save(folder / f'{name}.npy', array)
        np.savez_compressed(folder / f'{name}.npz', x=array)
        for file in (f'{name}.npy', f'{name}.npz'):
            said = refusal(fokker, 'gap', '--a', folder / file, '--b', folder / file)
            assert what in said, said
    np.savez_compressed(folder / 'zeros.npz', np.zeros((40_000_000, 2), 'u1'))
    said = refusal(fokker, 'gap', '--a', folder / 'zeros.npz', '--b', folder / 'zeros.npz')
    assert 'more than 200 times as many' in said, said
    stamps = 1_700_000_000 + np.arange(100)
    for write, name in ((np.save, 'stamps.npy'), (np.savez, 'stamps.npz'),
                        (lambda path, array: np.savetxt(path, array, fmt='%d'), 'stamps.csv')):
        for kind in ('f8', 'i8') if name != 'stamps.csv' else ('i8',):
            write(folder / name, stamps.astype(kind))
            merged = len(np.unique(stamps.astype('f4')))
            said = refusal(fokker, 'train', '--data', folder / name, '--out', folder / 'net.safetensors')
            assert 'its 100 different numbers' in said and f'would become {merged}' in said, said


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary)
        (place / 'mixture.json').write_text(json.dumps(MIXTURE))
        check_types(sys.argv[1], place)
        check_vectors(sys.argv[1], place)
        check_trajectories(sys.argv[1], place)
        check_refusals(sys.argv[1], place)
