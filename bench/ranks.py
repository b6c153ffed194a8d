#!/usr/bin/env python3
"""Times trainings on several ranks by mpirun, each checked first: its model has the bytes of one rank's.

usage: bench/ranks.py [--build DIR] [--ranks 1,2] [--threads 1] [--rounds 5] [--iterations 400] [--points 20000]
                      [--collocation 5000] [--hidden 80,80,80] [--json FILE] [-- MPIRUN'S OPTIONS]

Rounds take the counts in turn, and the least time of each counts. A row is a number of ranks: milliseconds of an iteration,
how many times as fast as the first of --ranks, and which part of as many times as ranks that is. The default is the paper's
network and the numbers of points of bench/results/epyc_zen4_2cores.json. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""
import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'peers'))
from compare import commit, machine  # noqa: E402


def counts(text):
    numbers = [int(word) for word in text.split(',')]
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f'{text} given; allowed: numbers from 1 on')
    return numbers


def arguments():
    own, mpirun = sys.argv[1:], []
    if '--' in own:
        at = own.index('--')
        own, mpirun = own[:at], own[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', default='build', help='folder of the build')
    parser.add_argument('--ranks', type=counts, default=[1, 2], help='numbers of ranks')
    parser.add_argument('--threads', type=int, default=1, help='threads of each rank')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--iterations', type=int, default=400)
    parser.add_argument('--points', type=int, default=20000, help='denoising points of an iteration')
    parser.add_argument('--collocation', type=int, default=5000, help='points of the residual; 0: none')
    parser.add_argument('--hidden', default='80,80,80')
    parser.add_argument('--json', help='file for the results')
    return parser.parse_args(own), mpirun


def train(options, mpirun, ranks, out):
    """Seconds of the training, and the model's bytes."""
    command = ['mpirun', '-n', str(ranks), *mpirun, str(pathlib.Path(options.build) / 'tools' / 'fokker'), 'train', '--data',
               'circles2', '--backend', 'cpu', '--threads', str(options.threads), '--iterations', str(options.iterations),
               '--denoising-points', str(options.points), '--hidden', options.hidden, '--out', str(out), '--json']
    if options.collocation > 0:
        command += ['--collocation-points', str(options.collocation), '--residual-weight', '1']
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f'ranks.py: {" ".join(command)} failed: {done.stderr.strip()}')
    result = json.loads(done.stdout)
    if result['ranks'] != ranks:
        sys.exit(f'ranks.py: mpirun -n {ranks} started programs of {result["ranks"]} ranks; build with FOKKER_MPI=ON')
    return result['seconds'], out.read_bytes()


def main():
    options, mpirun = arguments()
    if shutil.which('mpirun') is None:
        sys.exit('ranks.py: mpirun is not here (Debian: tools/install_dependencies.sh mpi)')
    seconds = {ranks: [] for ranks in options.ranks}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / 'm.safetensors'
        _, expected = train(options, mpirun, 1, out)
        for _ in range(options.rounds):
            for ranks in options.ranks:
                took, model = train(options, mpirun, ranks, out)
                if model != expected:
                    sys.exit(f'ranks.py: the model of {ranks} ranks has other bytes than that of one')
                seconds[ranks].append(took)
    rows = []
    for ranks in options.ranks:
        milliseconds = 1e3 * min(seconds[ranks]) / options.iterations
        times = min(seconds[options.ranks[0]]) / min(seconds[ranks])
        rows.append({'ranks': ranks, 'milliseconds': milliseconds, 'times_as_fast': times,
                     'efficiency': times * options.ranks[0] / ranks, 'all_seconds': seconds[ranks]})
        print(f'{ranks:3d} ranks of {options.threads} threads: {milliseconds:8.3f} ms an iteration, {times:.2f} times as fast as '
              f'{options.ranks[0]}, {100 * rows[-1]["efficiency"]:.0f} % of as many times as ranks')
    if options.json:
        what = {key: value for key, value in vars(options).items() if key not in ('json', 'build', 'ranks')}
        pathlib.Path(options.json).write_text(json.dumps({
            'date': datetime.date.today().isoformat(), 'commit': commit(), 'machine': machine(), 'options': what,
            'mpirun': mpirun, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    main()
