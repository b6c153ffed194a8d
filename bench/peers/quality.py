#!/usr/bin/env python3
"""Trains the same networks with fokker and with PyTorch, and measures by `fokker gap` how far their samples are from the
data.

For each SDE, data set and kind of net a row is a training by `fokker train` with its default recipe, and one of the same
recipe in PyTorch (torch_trainer.py), whose model is written as a file that fokker reads. Sampler and metric are thus the
same code for both, `fokker gap` with its default grid. For a vector net the recipe is the default with --output score for
ou, and --output edm for other SDEs. Rows go into the JSON file one by one, and a call makes those that are not there yet;
two calls may work on one file. --check shows that both programs train the same thing, and --columns trains an
8-column table of unequal scales by --standardise and looks for runaways among its samples. --exact measures what the
sampler's steps alone cost, with an exact score. --likelihood trains a checkerboard, whose entropy is
ln 32, and a mixture, and compares log-densities and scores with the exact ones.
"""
import argparse
import contextlib
import csv
import datetime
import fcntl
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

from compare import ROOT, machine, run

SDES = ['ou', 'vp-linear', 'vp-cosine', 'subvp', 've', 'edm', 'flow']
DATA = ['circles2', 'blob', 'checker']
NETS = ['potential', 'vector']
PROGRAMS = ['fokker', 'torch']
FLOORS, RATIO = 3, 1.15  # what SDE–truth may be of the noise floor, and of PyTorch's
GAP_SEED = 2
# The table of --columns.
COLUMN_SCALES = [1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 5]
COLUMN_OFFSETS = [0.01, 0, -3, 1e2, 0, 1e3, -1e4, 2]
COLUMN_ROWS, COLUMN_SAMPLES, FAR = 200_000, 100_000, 8


def say(text):
    print(f'{datetime.datetime.now():%H:%M:%S} {text}', file=sys.stderr, flush=True)


def commit():
    """The last commit of what fokker is built from, with '-dirty' where the tree differs from it; None without git or a repository."""
    built = ('--', 'CMakeLists.txt', 'include', 'src', 'tools')
    try:
        dirty = run('git', '-C', str(ROOT), 'status', '--porcelain', *built)
        return run('git', '-C', str(ROOT), 'log', '-1', '--format=%H', *built).strip() + ('-dirty' if dirty else '')
    except (OSError, subprocess.CalledProcessError):
        return None


class Fokker:
    def __init__(self, executable, threads):
        self.executable, self.threads = executable, threads

    def __call__(self, command, *options):
        words = [self.executable, command, *map(str, options), '--json', '--threads', str(self.threads)]
        finished = subprocess.run(words, capture_output=True, text=True)
        if finished.returncode != 0:
            sys.exit(f"{' '.join(words)}\n{finished.stderr}ended with exit status {finished.returncode}")
        return json.loads(finished.stdout)

    def train(self, row, out, *options):
        output = ['--output', 'score' if row['sde'] == 'ou' else 'edm'] if row['net'] == 'vector' else []
        return self('train', '--sde', row['sde'], '--data', row['data'], '--seed', row['seed'], '--out', out, *output,
                    *options)

    def gap(self, model, data, samples):
        return self('gap', '--model', model, '--data', data, '--samples', samples, '--seed', GAP_SEED)


class Report:
    """The JSON file, which is read and written whole for each change, under a lock. How good a model is does not depend on the
    machine but for roundings: a row that was made on another one than the first names it."""

    def __init__(self, path, lock, head):
        self.path, self.lock = path, lock
        with self.open() as report:
            report.setdefault('date', datetime.date.today().isoformat())
            report.setdefault('machine', machine())
            for key, value in head.items():
                if report.setdefault(key, value) != value:
                    sys.exit(f'{path} has {key} {report[key]}, and this call {value}; allowed: the same, or another --name')

    @contextlib.contextmanager
    def open(self):
        self.path.parent.mkdir(exist_ok=True)
        with open(self.lock, 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            report = json.loads(self.path.read_text()) if self.path.exists() else {}
            yield report
            whole = self.path.with_suffix('.tmp')
            whole.write_text(json.dumps(report, indent=1) + '\n')
            whole.replace(self.path)

    def find(self, part, row):
        with self.open() as report:
            return next((r for r in report.get(part, []) if all(r[k] == v for k, v in row.items())), None)

    def add(self, part, row, result):
        with self.open() as report:
            if report['machine'] != machine():
                result = result | {'machine': machine()}
            rows = [r for r in report.get(part, []) if any(r[k] != v for k, v in row.items())] + [row | result]
            report[part] = rows
            rank = {name: k for k, name in enumerate(SDES + DATA + NETS + PROGRAMS)}
            rows.sort(key=lambda r: [rank.get(r[k], 99) for k in ('sde', 'data', 'net', 'program') if k in r])
            if part == 'rows':
                judge(rows)


def groups(rows):
    """The rows of each SDE, data set and net by program, those of seeds that both programs have first of all: one seed's
    distance of some 1.0 floors is known to a tenth or two, since the samples of a gap are drawn too."""
    names = list(dict.fromkeys(tuple(r[k] for k in ('sde', 'data', 'net')) for r in rows))
    for name in names:
        of = {p: {r['seed']: r for r in rows if tuple(r[k] for k in ('sde', 'data', 'net')) == name and r['program'] == p} for p in PROGRAMS}
        both = of['fokker'].keys() & of['torch'].keys()
        yield {p: [r for seed, r in sorted(of[p].items()) if not both or seed in both] for p in PROGRAMS}


def mean(rows, number):
    return sum(map(number, rows)) / len(rows)


def distance(row):
    return row['w2_squared']['sde_truth']


def judge(rows):
    """Which rows reach what is asked for; a ratio to PyTorch, of the means over the seeds, is there once both have rows."""
    for row in rows:
        row['in_floors'] = distance(row) / row['noise_floor']
        row['within_floors'] = row['in_floors'] <= FLOORS
    for group in groups(rows):
        for row in group['fokker'] if group['torch'] else []:
            row['ratio_to_torch'] = mean(group['fokker'], distance) / mean(group['torch'], distance)
            row['within_ratio'] = row['ratio_to_torch'] <= RATIO


def make_row(row, arguments, fokker, models):
    """The numbers of a row: trains, and measures."""
    name = '_'.join(str(row[k]) for k in ('sde', 'data', 'net', 'seed'))
    ours, theirs = models / f'{name}.safetensors', models / f'{name}_torch.safetensors'
    if row['program'] == 'fokker':
        trained = fokker.train(row, ours, '--iterations', arguments.iterations)
        path, result = ours, {'train_seconds': trained['seconds'], 'recipe': trained['recipe']}
    else:
        import torch
        import torch_trainer
        torch.set_num_threads(arguments.threads)
        with tempfile.TemporaryDirectory() as folder:  # one iteration, for the recipe
            recipe = fokker.train(row, f'{folder}/model.safetensors', '--iterations', 1)['recipe']
        recipe['iterations'] = arguments.iterations

        def progress(k):
            if k % 1000 == 0:
                say(f'  {name}: {k} iterations of {arguments.iterations} in PyTorch')
        network, seconds = torch_trainer.train(recipe, row['seed'], progress)
        network.save(str(theirs), torch.Generator().manual_seed(row['seed']))
        path, result = theirs, {'train_seconds': seconds}
        # Both models' losses by one estimate, that of PyTorch on the same points.
        law = torch_trainer.TimeLaw(recipe)
        for key, of in (('loss', theirs), ('loss_of_fokker', ours)):
            if of.exists():
                loss, error = torch_trainer.loss_of(torch_trainer.Network(recipe).load(of), law, 1 << 17,
                                                    torch.Generator().manual_seed(row['seed'] + 1))
                result[key], result[f'{key}_standard_error'] = loss, error
    gap = fokker.gap(path, row['data'], arguments.samples)
    result |= {k: gap[k] for k in ('w2_squared', 'noise_floor', 'escaped', 'not_finite', 'far_out', 'grid', 'ode_scheme',
                                   'warnings')}
    return result | {'gap_seconds': gap['seconds']['total'], 'commit': commit()}


def check(arguments, fokker, report):
    """That PyTorch's draws of the data are fokker's, that its loss of fokker's initial network is fokker's, that both have the
    same loss after a short training, and that fokker computes PyTorch's scores from PyTorch's file."""
    import torch
    import torch_trainer
    torch.set_num_threads(arguments.threads)
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        for data in arguments.data:
            if report.find('checked_data', {'data': data}):
                continue
            import numpy
            for k in 'ab':
                generator = torch.Generator().manual_seed(ord(k))
                numpy.save(f'{folder}/{k}.npy', torch_trainer.DATA[data](200_000, generator).numpy())
            gap = fokker('gap', '--a', f'{folder}/a.npy', '--b', f'{folder}/b.npy', '--data', data)
            distances, floor = gap['w2_squared'], gap['noise_floor']
            furthest = max(distances['a_truth'], distances['b_truth'])
            good = furthest < 2 * max(floor, distances['a_b']) and max(gap['escaped'].values()) < 1e-3
            report.add('checked_data', {'data': data}, {'w2_squared': distances, 'noise_floor': floor, 'same': good})
            say(f'check: {data}: PyTorch’s draws from fokker’s {furthest:.5f}, noise floor {floor:.5f}: {good}')
            bad += [] if good else [data]
        for sde in arguments.sdes:
            for net in arguments.nets:
                row = {'sde': sde, 'data': arguments.data[0], 'net': net, 'seed': 7}
                if report.find('checked_losses', row):
                    continue
                points, short = 1 << 19, 300
                path, log = f'{folder}/model.safetensors', f'{folder}/log.csv'
                first = fokker.train(row, path, '--iterations', 1, '--schedule', 'constant', '--peak-rate', 1e-30,
                                     '--denoising-points', points)
                recipe = first['recipe']
                law, generator = torch_trainer.TimeLaw(recipe), torch.Generator().manual_seed(3)
                loss, error = torch_trainer.loss_of(torch_trainer.Network(recipe).load(path), law, points, generator)
                off = (first['last']['denoising'] - loss) / error / math.sqrt(2)
                trained = fokker.train(row, path, '--iterations', short, '--log', log)
                with open(log) as file:
                    records = [float(r['denoising']) for r in csv.DictReader(file)]
                recipe = trained['recipe']
                network, _ = torch_trainer.train(recipe, row['seed'])
                # fokker refuses a file whose scores, by PyTorch, are not its own.
                network.save(f'{folder}/torch.safetensors', torch.Generator().manual_seed(5))
                fokker('sample', '--model', f'{folder}/torch.safetensors', '--samples', 10, '--out', f'{folder}/s.npy')
                estimate = [torch_trainer.loss_of(n, law, 1 << 17, torch.Generator().manual_seed(4))[0]
                            for n in (torch_trainer.Network(recipe).load(path), network)]
                last = sum(records[-20:]) / 20
                good = abs(off) < 5 and abs(estimate[0] / estimate[1] - 1) < 0.1 and abs(last / estimate[0] - 1) < 0.1
                report.add('checked_losses', row, {
                    'initial_fokker': first['last']['denoising'], 'initial_torch': loss, 'standard_errors_apart': off,
                    'iterations': short, 'last_20_fokker': last, 'final_fokker_by_torch': estimate[0],
                    'final_torch': estimate[1], 'same': good})
                say(f'check: {sde} {net}: initial loss {first["last"]["denoising"]:.5g} and in PyTorch {loss:.5g}, {off:.1f} '
                    f'standard errors apart; after {short} iterations {estimate[0]:.5g} ({last:.5g} in its log) and '
                    f'{estimate[1]:.5g}: {good}')
                bad += [] if good else [f'{sde} {net}']
    if bad:
        sys.exit(f"fokker and PyTorch do not train the same: {', '.join(bad)}")


def column_table(path, seed):
    """[COLUMN_ROWS, 8]: four correlated Gaussian clusters of four weights, each number through sinh(0.2 z)/0.2, which makes
    the tails heavier, then columns of unequal scales and offsets."""
    import numpy
    random = numpy.random.default_rng(seed)
    which = random.choice(4, COLUMN_ROWS, p=[0.4, 0.3, 0.2, 0.1])
    means = 1.5 * random.standard_normal((4, 8))
    mixing = random.standard_normal((4, 8, 8)) / math.sqrt(8) * 0.7 + 0.4 * numpy.eye(8)
    z = means[which] + numpy.einsum('nij,nj->ni', mixing[which], random.standard_normal((COLUMN_ROWS, 8)))
    z = (z - z.mean(0)) / z.std(0)
    x = numpy.array(COLUMN_OFFSETS) + numpy.array(COLUMN_SCALES) * numpy.sinh(0.2 * z) / 0.2
    numpy.save(path, x.astype(numpy.float32))


def columns(arguments, fokker, report, models):
    import numpy
    for sde in arguments.sdes:
        row = {'sde': sde, 'net': 'potential', 'seed': arguments.seeds[0]}
        if report.find('columns', row):
            continue
        table, model = models / 'columns.npy', models / f'{sde}_columns.safetensors'
        column_table(table, 13)
        trained = fokker('train', '--sde', sde, '--data', table, '--standardise', '--iterations', arguments.iterations,
                         '--seed', row['seed'], '--out', model)
        data = numpy.load(table).astype(float)
        mean, deviation = data.mean(0), data.std(0)
        numpy.save(models / 'columns_z.npy', ((data - mean) / deviation).astype(numpy.float32))

        def beyond(x):
            z = numpy.abs((x - mean) / deviation).max(1)
            return {'share_beyond_8': float((~(z <= FAR)).mean()), 'largest': float(numpy.nanmax(z))}
        result = {'train_seconds': trained['seconds'], 'recipe': trained['recipe'] | {'data': table.name},
                  'truth': beyond(data)}
        # The distances are of z, sliced: in x the column of the largest numbers would be all of them.
        files = []
        for scheme in ('euler-maruyama', 'euler'):
            out = models / f'{sde}_{scheme}.npy'
            fokker('sample', '--model', model, '--scheme', scheme, '--samples', COLUMN_SAMPLES, '--seed', GAP_SEED, '--out', out)
            x = numpy.load(out).astype(float)
            result[scheme] = beyond(x)
            numpy.save(out, ((x - mean) / deviation).astype(numpy.float32))
            files.append(out)
        gap = fokker('gap', '--a', files[0], '--b', files[1], '--data', models / 'columns_z.npy')
        result |= {'sliced_w2_squared': gap['sliced_w2_squared'], 'noise_floor': gap['noise_floor'],
                   'samples': COLUMN_SAMPLES, 'commit': commit(),
                   'no_runaways': all(result[s]['share_beyond_8'] == 0 for s in ('euler-maruyama', 'euler'))}
        report.add('columns', row, result)
        say(f"columns, {sde}: beyond {FAR} deviations SDE {result['euler-maruyama']}, ODE {result['euler']}, data {result['truth']}")


def exact(arguments, fokker, report, models):
    """What the sampler's steps alone cost: the distances with the exact score of blob in the network's place."""
    means = [[0.65 * x, 0.65 * y] for x, y in
             ((0, 0), (2, 2), (2, -2), (-2, 2), (-2, -2), (4, 0), (-4, 0), (0, 4), (0, -4))]
    path = models / 'blob.json'
    path.write_text(json.dumps({'weights': [1 / 9] * 9, 'means': means, 'covariances': [0.2 * 0.65**2] * 9}))
    grids = {'ou': ['paper'], 've': ['geometric:300', 'uniform:300:0.001']}
    for sde in arguments.sdes:
        for grid in grids.get(sde, ['geometric:300']):
            row = {'sde': sde, 'grid': grid}
            if report.find('exact', row):
                continue
            gap = fokker('gap', '--model', path, '--sde', sde, '--grid', grid, '--data', 'blob', '--samples', arguments.samples,
                         '--seed', GAP_SEED)
            report.add('exact', row, {k: gap[k] for k in ('w2_squared', 'noise_floor', 'escaped', 'ode_scheme')} |
                       {'commit': commit()})
            say(f"exact score, {sde}, {grid}: {gap['w2_squared']}, noise floor {gap['noise_floor']:.4f}")


def checkerboard(n, seed):
    """[n, 2]: uniform on the squares of side 2 of one colour in [-4, 4]^2 (as FFJORD has it), whose area is 32."""
    import numpy
    random = numpy.random.default_rng(seed)
    x = random.uniform(-2, 2, n)
    y = random.uniform(0, 1, n) - 2 * random.integers(0, 2, n) + numpy.floor(x) % 2
    return numpy.stack([2 * x, 2 * y], 1).astype(numpy.float32)


def likelihood(arguments, fokker, report, models):
    """The mean of -log p of fresh points by a solver of tolerance 1e-5, beside the entropy; and of a mixture with an edm net the
    score's error, as a share of the score that noise alone would have, beside the exact score."""
    import numpy
    points, held_out, exact_nats = 200_000, 20_000, math.log(32)
    board, test = models / 'checkerboard.npy', models / 'checkerboard_test.npy'
    numpy.save(board, checkerboard(points, 1))
    numpy.save(test, checkerboard(held_out, 2))
    for sde in arguments.sdes:
        row = {'sde': sde, 'data': 'checkerboard', 'seed': arguments.seeds[0]}
        if report.find('likelihood', row):
            continue
        model = models / f'{sde}_checkerboard.safetensors'
        trained = fokker('train', '--sde', sde, '--data', board, '--iterations', arguments.iterations, '--seed', row['seed'],
                         '--hidden', '128,128,128', '--activation', 'silu', '--out', model)
        density = fokker('density', '--model', model, '--points', test, '--scheme', 'dopri5', '--tolerance', '1e-5', '--out',
                         models / f'{sde}_log_p.npy')
        log_p = numpy.load(models / f'{sde}_log_p.npy').astype(float)
        result = {'nats': -log_p.mean(), 'standard_error': log_p.std() / math.sqrt(held_out), 'exact_nats': exact_nats,
                  'not_finite': int((~numpy.isfinite(log_p)).sum()), 'time': density['time'], 'steps': density['steps'],
                  'train_seconds': trained['seconds'], 'density_seconds': density['seconds'], 'points': held_out,
                  'recipe': trained['recipe'] | {'data': board.name}, 'commit': commit()}
        report.add('likelihood', row, result)
        say(f"likelihood, {sde}: {result['nats']:.4f} ± {result['standard_error']:.4f} nats where ln 32 = {exact_nats:.4f}")
    if report.find('toy', {'sde': 'edm', 'data': 'mixture'}):
        return
    random = numpy.random.default_rng(5)
    angles = 2 * math.pi * numpy.arange(7) / 7
    mixture = models / 'mixture.json'
    mixture.write_text(json.dumps({'weights': [1 / 7] * 7, 'covariances': [0.01] * 7,
                                   'means': numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1).tolist()}))
    model = models / 'edm_mixture.safetensors'
    trained = fokker('train', '--sde', 'edm', '--data', mixture, '--iterations', arguments.iterations, '--output',
                     'potential:edm', '--hidden', '128,128,128', '--activation', 'silu', '--out', model)
    errors = {}
    for sigma in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2):
        x = numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)[random.integers(0, 7, 4000)]
        x = x + math.sqrt(0.01 + sigma**2) * random.standard_normal(x.shape)
        numpy.save(models / 'toy.npy', numpy.concatenate([numpy.full((4000, 1), sigma), x], 1).astype(numpy.float32))
        scores = []
        for of in (model, mixture):
            fokker('field', '--model', of, '--points', models / 'toy.npy', '--out', models / 'toy.safetensors',
                   *(['--sde', 'edm'] if of == mixture else []))
            from safetensors.numpy import load_file
            scores.append(load_file(models / 'toy.safetensors')['score'].astype(float))
        errors[sigma] = sigma * math.sqrt(((scores[0] - scores[1])**2).mean())
    report.add('toy', {'sde': 'edm', 'data': 'mixture'},
               {'sigma_times_rms_score_error': errors, 'train_seconds': trained['seconds'],
                'recipe': trained['recipe'] | {'data': mixture.name}, 'commit': commit()})
    say(f'toy, edm: {errors}')


def table(report):
    """The rows in Markdown; what does not reach its mark is bold."""
    yield '| SDE | data | net | seeds | SDE–truth in floors | PyTorch | ratio | ODE–truth in floors | escaped SDE | PyTorch |'
    yield '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'
    every = [g for g in groups(report.get('rows', [])) if g['fokker']]

    def bold(text, good):
        return text if good else f'**{text}**'
    for group in every:
        ours, theirs = group['fokker'], group['torch']
        row = ours[0]

        def of(rows, cell, number):
            return format(mean(rows, number), cell) if rows else '–'
        yield ' | '.join([f"| {row['sde']}", row['data'], row['net'], str(len(ours)),
                          bold(of(ours, '.2f', lambda r: r['in_floors']), all(r['within_floors'] for r in ours)),
                          of(theirs, '.2f', lambda r: r['in_floors']),
                          bold(f"{row['ratio_to_torch']:.2f}", row['within_ratio']) if theirs else '–',
                          of(ours, '.2f', lambda r: r['w2_squared']['ode_truth'] / r['noise_floor']),
                          of(ours, '.2%', lambda r: r['escaped']['sde']).replace('%', ' %'),
                          of(theirs, '.2%', lambda r: r['escaped']['sde']).replace('%', ' %') + ' |'])
    yield ''
    far = sum(not r['within_floors'] for g in every for r in g['fokker'])
    above = sum(not g['fokker'][0].get('within_ratio', True) for g in every)
    yield (f"{len(every)} rows, {far} trainings of them above {FLOORS} floors; {sum(bool(g['torch']) for g in every)} with PyTorch "
           f"beside them, {above} above {RATIO} times its distance.")
    if report.get('columns'):
        yield ''
        yield '| 8 columns, SDE | SDE: beyond 8 deviations, largest | ODE | data | sliced W2² SDE–truth in floors |'
        yield '| --- | --- | --- | --- | --- |'
        for row in report['columns']:
            cells = [f"{100 * row[s]['share_beyond_8']:.3f} %, {row[s]['largest']:.2f}" for s in ('euler-maruyama', 'euler', 'truth')]
            yield f"| {row['sde']} | {' | '.join(cells)} | {row['sliced_w2_squared']['a_truth'] / row['noise_floor']:.2f} |"
    if report.get('exact'):
        yield ''
        yield '| exact score of blob, SDE | grid | SDE–truth in floors | ODE–truth in floors |'
        yield '| --- | --- | --- | --- |'
        for row in report['exact']:
            cells = [f"{row['w2_squared'][d] / row['noise_floor']:.2f}" for d in ('sde_truth', 'ode_truth')]
            yield f"| {row['sde']} | `{row['grid']}` | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(prog='bench/peers/run.sh --quality', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fokker', help='path of fokker (run.sh gives it; without, arguments are only checked)')
    parser.add_argument('--name', default='quality_5000', help='the result is bench/results/NAME.json (default: %(default)s)')
    parser.add_argument('--iterations', type=int, default=5000, help='default: %(default)s')
    parser.add_argument('--samples', type=int, default=20000, help='of each sampler and of the data (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1], help='of the trainings (default: 1)')
    parser.add_argument('--threads', type=int, default=1, help='of everybody (default: %(default)s)')
    parser.add_argument('--sdes', nargs='+', choices=SDES, default=SDES)
    parser.add_argument('--data', nargs='+', choices=DATA, default=DATA)
    parser.add_argument('--nets', nargs='+', choices=NETS, default=NETS)
    parser.add_argument('--programs', nargs='+', choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument('--models', default=ROOT / 'build' / 'quality', type=pathlib.Path, help='folder for the models (default: build/quality)')
    parser.add_argument('--check', action='store_true', help='check that both train the same, and no more')
    parser.add_argument('--columns', action='store_true', help='the 8-column table, and no more')
    parser.add_argument('--exact', action='store_true', help='the sampler with the exact score of blob, and no more')
    parser.add_argument('--likelihood', action='store_true', help='log-densities and scores beside exact ones, and no more')
    parser.add_argument('--table', action='store_true', help='print the rows that are there in Markdown, and no more')
    arguments = parser.parse_args()
    for option, least in (('iterations', 1), ('samples', 1), ('threads', 1)):
        if getattr(arguments, option) < least:
            parser.error(f'--{option} {getattr(arguments, option)}: at least {least} is needed')
    if '/' in arguments.name or not arguments.name:
        parser.error(f"--name '{arguments.name}': a file name without folders is needed")
    path = ROOT / 'bench' / 'results' / f'{arguments.name}.json'
    if arguments.table:
        if not path.exists():
            parser.error(f'--table: there is no {path.relative_to(ROOT)}')
        print('\n'.join(table(json.loads(path.read_text()))))
        return
    if arguments.fokker is None:
        return
    os.environ['OMP_NUM_THREADS'] = str(arguments.threads)
    arguments.models.mkdir(parents=True, exist_ok=True)
    fokker = Fokker(arguments.fokker, arguments.threads)
    report = Report(path, arguments.models / f'{arguments.name}.lock',
                    {'threads': arguments.threads, 'versions': versions(fokker),
                     'iterations': arguments.iterations, 'samples': arguments.samples, 'gap_seed': GAP_SEED,
                     'most_floors': FLOORS, 'most_ratio': RATIO})
    if arguments.check:
        return check(arguments, fokker, report)
    if arguments.columns:
        return columns(arguments, fokker, report, arguments.models)
    if arguments.likelihood:
        return likelihood(arguments, fokker, report, arguments.models)
    if arguments.exact:
        return exact(arguments, fokker, report, arguments.models)
    rows = [{'sde': sde, 'data': data, 'net': net, 'seed': seed, 'program': program} for program in arguments.programs
            for seed in arguments.seeds for net in arguments.nets for data in arguments.data for sde in arguments.sdes]
    for k, row in enumerate(rows):
        with open(arguments.models / f"{'_'.join(map(str, row.values()))}.lock", 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another call is at it
                continue
            if report.find('rows', row):
                continue
            result = make_row(row, arguments, fokker, arguments.models)
            report.add('rows', row, result)
        say(f"{k + 1} of {len(rows)}: {' '.join(map(str, row.values()))}: SDE–truth {result['w2_squared']['sde_truth']:.4f}, "
            f"{result['w2_squared']['sde_truth'] / result['noise_floor']:.2f} floors; trained in {result['train_seconds']:.0f} s, "
            f"measured in {result['gap_seconds']:.0f} s")
    print('\n'.join(table(json.loads(path.read_text()))))


def versions(fokker):
    import platform
    from importlib.metadata import version
    described = subprocess.run([fokker.executable, '--version'], capture_output=True, text=True, check=True).stdout.strip()
    return {'fokker': described, 'python': platform.python_version(), 'torch': version('torch'), 'numpy': version('numpy')}


if __name__ == '__main__':
    main()
