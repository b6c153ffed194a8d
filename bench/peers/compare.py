#!/usr/bin/env python3
"""Times this library and its peers in turn, checks first that all do the same work, and writes a JSON file.

Every peer is a process of its own (peer.py) that loads the same parameters and inputs, is checked against this library's
results, and then times one work whenever asked. A round runs ours and each peer once; the medians of the rounds count.
On a GPU ours is the precision split, which is compared, and fp32 beside it; all peers compute in float32.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The benchmarks of each work: ours and, by the suffix of its name, ours in another precision.
WORKS = {'cpu': {'score': {'': 'score/paper/50000'}, 'residual': {'': 'residual/paper/50000'},
                 'train': {'': 'train/paper/20000_5000'}, 'step': {'': 'sample_step/paper/50000'},
                 'noise': {'': 'score/noise_w128_time32/50000'}, 'noise_step': {'': 'sample_step/noise_w128_time32/50000'}},
         'cuda': {work: {suffix: f'gpu/{name}/{precision}' for suffix, precision in (('', 'split'), (' fp32', 'fp32'))}
                  for work, name in (('score', 'score/paper/1048576'), ('residual', 'residual/paper/1048576'),
                                     ('train', 'train/paper/200000_50000'), ('sample', 'sample/paper/3000000'))}}
LIMIT = {'cpu': 'fraction_of_peak', 'cuda': 'fraction_of_limit'}
MILLISECONDS = {'us': 1e-3, 'ms': 1}
PEERS = ['torch', 'torch.compile', 'jax']


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def machine():
    """Processor, cores and memory as lscpu and the kernel name them."""
    fields = {}
    for line in run('lscpu').splitlines():
        key, _, value = line.partition(':')
        fields.setdefault(key.strip(), value.strip())
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {'cpu': fields.get('Model name', platform.processor()),
            'cpu_family_model_stepping': [fields.get(k) for k in ('CPU family', 'Model', 'Stepping')], 'cores': len(os.sched_getaffinity(0)),
            'flags': [f for f in ('avx2', 'fma', 'avx512f') if f in fields.get('Flags', '').split()],
            'memory_gib': round(pages / 2**30, 1), 'system': platform.platform()}


def commit():
    """The commit of the tree, with '-dirty' where the tree differs from it; None without git or a repository."""
    try:
        return run('git', '-C', str(ROOT), 'describe', '--always', '--abbrev=40', '--exclude=*', '--dirty').strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def gpu():
    """The GPU, its driver and its highest clock as nvidia-smi names them."""
    fields = ('name', 'driver_version', 'memory.total', 'clocks.max.sm')
    try:
        line = run('nvidia-smi', f"--query-gpu={','.join(fields)}", '--format=csv,noheader').splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        sys.exit('--device cuda needs an NVIDIA GPU, and nvidia-smi names none on this machine')
    return dict(zip(fields, map(str.strip, line.split(','))))


def ours(bench, device, threads, works, seconds):
    """Milliseconds of each work in each precision and the fraction of its limit, from one run of our benchmark, and what
    that says of itself."""
    names = {work: WORKS[device][work] for work in works}
    pattern = '^(' + '|'.join(name for of in names.values() for name in of.values()) + ')(/|$)'
    with tempfile.NamedTemporaryFile(suffix='.json') as out:
        finished = subprocess.run([bench, *threads, f'--benchmark_filter={pattern}',
                                   f'--benchmark_min_time={seconds}', f'--benchmark_out={out.name}',
                                   '--benchmark_out_format=json'], capture_output=True, text=True)
        if finished.returncode != 0:
            sys.exit(f'{finished.stdout}{finished.stderr}{bench} ended with exit status {finished.returncode}')
        report = json.loads(pathlib.Path(out.name).read_text())
    result, peak = {}, float(report['context'].get('fma_peak_gflops', 0))
    for work, of in names.items():
        for suffix, name in of.items():
            row = next(b for b in report['benchmarks'] if re.match(re.escape(name) + '(/|$)', b['name']))
            if row.get('error_occurred'):
                sys.exit(f"{row['name']}: {row['error_message']}")
            result[work, suffix] = {'ms': row['real_time'] * MILLISECONDS[row['time_unit']], 'gflops': row['gflops'],
                                    'fraction': row.get(LIMIT[device])}
            peak = max(peak, row.get('fma_peak_gflops', 0))
    return result, peak, report['context']['fokker']


class Peer:
    """A worker that answers each line with one line of JSON."""

    def __init__(self, name, reference, threads, device):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        environment['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the GPU's memory is everybody's
        environment.pop('OPENBLAS_CORETYPE', None)  # a forced core type would handicap NumPy's library
        self.name = name
        self.process = subprocess.Popen([sys.executable, str(HERE / 'peer.py'), name, reference, str(threads), device],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, *words):
        self.process.stdin.write(' '.join(map(str, words)) + '\n')
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f'{self.name} ended without an answer to {words}; its message is above')
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(prog='bench/peers/run.sh', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bench', help='path of fokker_bench, or fokker_gpu_bench (run.sh gives it; without, arguments are only checked)')
    parser.add_argument('--device', choices=WORKS, default='cpu', help='where everybody computes (default: %(default)s)')
    parser.add_argument('--name', default=platform.node(), help='the result is bench/results/NAME.json (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), help='of everybody (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--seconds', type=float, default=1.0, help='of each timing (default: %(default)s)')
    parser.add_argument('--works', nargs='+', metavar='WORK', help='of ' + '; '.join(f"{d}: {', '.join(w)}" for d, w in WORKS.items()) + ' (default: all)')
    parser.add_argument('--peers', nargs='+', choices=PEERS, default=PEERS)
    parser.add_argument('--small', action='store_true', help='one short round that shows that everything runs; nothing is written')
    arguments = parser.parse_args()
    rounds, seconds = (1, 0.05) if arguments.small else (arguments.rounds, arguments.seconds)

    available = sorted(os.sched_getaffinity(0))
    if not 1 <= arguments.threads <= len(available):
        parser.error(f'--threads {arguments.threads}: allowed here are 1 to {len(available)}')
    if arguments.rounds < 1:
        parser.error(f'--rounds {arguments.rounds}: at least 1 is needed')
    if not 0 < arguments.seconds <= 3600:
        parser.error(f'--seconds {arguments.seconds:g}: allowed are numbers above 0 and up to 3600')
    if '/' in arguments.name or not arguments.name:
        parser.error(f"--name '{arguments.name}': a file name without folders is needed")
    works = list(dict.fromkeys(arguments.works or WORKS[arguments.device]))
    for work in works:
        if work not in WORKS[arguments.device]:
            parser.error(f"--works {work}: allowed with --device {arguments.device} are {', '.join(WORKS[arguments.device])}")
    device = gpu() if arguments.device == 'cuda' else None
    if arguments.bench is None:
        return
    os.sched_setaffinity(0, available[:arguments.threads])  # inherited: the same cores for everybody

    with tempfile.TemporaryDirectory() as folder:
        reference = os.path.join(folder, 'reference.safetensors')
        threads = [f'--threads={arguments.threads}'] if arguments.device == 'cpu' else []
        subprocess.run([arguments.bench, *threads, f'--write_reference={reference}'], check=True)
        peers, checks, versions = [], {}, {'python': platform.python_version()}
        for name in arguments.peers:
            print(f'{name}: loading and checking', file=sys.stderr, flush=True)
            peer = Peer(name, reference, arguments.threads, arguments.device)
            for work in works:
                answer = peer.ask('check', work)
                checks.setdefault(work, {})[name] = answer['errors']
                if not answer['same']:
                    sys.exit(f'{name} does not do the same {work}: {answer}')
            versions.update(peer.ask('versions'))
            peers.append(peer)

        times, gflops, fractions = ({work: {} for work in works} for _ in range(3))
        peaks = []
        for k in range(rounds):
            print(f'round {k + 1} of {rounds}', file=sys.stderr, flush=True)
            result, peak, description = ours(arguments.bench, arguments.device, threads, works, seconds)
            peaks.append(peak)
            for (work, suffix), row in result.items():
                times[work].setdefault('fokker' + suffix, []).append(row['ms'])
                gflops[work].setdefault('fokker' + suffix, []).append(row['gflops'])
                fractions[work].setdefault('fokker' + suffix, []).append(row['fraction'])
            for work in works:
                for peer in peers:
                    answer = peer.ask('time', work, seconds)
                    if answer['ms'] is not None:
                        times[work].setdefault(peer.name, []).append(answer['ms'])
        for peer in peers:
            peer.close()

    report = {'date': datetime.date.today().isoformat(), 'commit': commit(), 'machine': machine()}
    if device:
        report['gpu'] = device
        title = f"{device['name']}, driver {device['driver_version']}"
    else:
        # What else runs on the machine can only lower a measured peak: the largest of all rounds is the limit.
        report |= {'threads': arguments.threads, 'fma_peak_gflops': max(peaks)}
        fractions = {work: {name: [v / max(peaks) for v in values] for name, values in of.items()}
                     for work, of in gflops.items()}
        title = f"{report['machine']['cpu']}, {arguments.threads} threads, FMA peak {max(peaks):.0f} GFLOP/s"
    report |= {'fokker': description, 'versions': versions, 'rounds': rounds, 'unit': 'ms, medians of the rounds', 'work': {}}
    print(f"{title}, {', '.join(f'{k} {v}' for k, v in versions.items())}")
    print(f"{'work':26}{'fokker':>12}{'of limit':>9}" + ''.join(f'{p:>22}' for p in arguments.peers))
    for work in works:
        median = {name: statistics.median(values) for name, values in times[work].items()}
        ratios = {name: median[name] / median['fokker'] for name in median if name != 'fokker'}
        fraction = {name: statistics.median(v) if None not in v else None for name, v in fractions[work].items()}
        name = WORKS[arguments.device][work]['']
        report['work'][name] = {'ms': median, 'ratio_to_fokker': ratios, LIMIT[arguments.device]: fraction['fokker'],
                                'all_ms': times[work], 'difference_from_fokker': checks[work]}
        if len(fraction) > 1:
            report['work'][name]['fractions'] = fraction
        of_limit = '-' if fraction['fokker'] is None else f"{fraction['fokker']:.2f}"
        print(f"{name:26}{median['fokker']:9.1f} ms{of_limit:>9}" +
              ''.join(f'{median[p]:9.1f} ms ({ratios[p]:5.2f} x)' if p in median else f"{'-':>22}" for p in arguments.peers))

    if not arguments.small:
        path = ROOT / 'bench' / 'results' / f'{arguments.name}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + '\n')
        print(f'wrote {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
