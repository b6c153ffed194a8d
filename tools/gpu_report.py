#!/usr/bin/env python3
"""The parts of tools/gpu_check that read and write files.

    slug DEVICE                 the device's name for a file name
    cases                       what compute-sanitizer is run on
    available INFO              fails with a sentence where `fokker info --json` says that CUDA is not available
    points FILE                 a small .npy file of points (t, x_1, x_2)
    assemble FOLDER SECONDS OUT PART... one JSON of those parts (bench, tests, sanitizer, stalls), which gpu_check left in
                                the folder; fails where anything failed or did not run
    paper FOLDER RUN OUT        one JSON of the time that the paper preset took in the folder RUN and of what its table
                                shows; beside it RUN's results.json and report.html under OUT's name
    figures FILE...             what is to be reached, and whether it is, by results of gpu_check and of bench/peers/run.sh
                                on one kind of device
"""
import array
import csv
import datetime
import json
import pathlib
import re
import shutil
import sys

SANITIZERS = ('memcheck', 'racecheck', 'initcheck', 'synccheck')
CASES = ('sample', 'train', 'train_together', 'field', 'wide', 'vector', 'mixture', 'train_wide', 'train_vector',
         'distances', 'bench')
DEVICE = ('name', 'driver', 'memory', 'highest_clock')  # as gpu_check asks nvidia-smi
# What of a benchmark's counters is reported.
COUNTERS = ('gflops', 'fraction_of_limit', 'limit_us', 'over_tiny_cuda_nn', 'over_alone', 'over_fokker',
            'memory_beside_samples_mib', 'least_memory_mib', 'launches', 'gigabytes')
STALLS = ('sample', 'loss')  # the kernels that ncu is asked about
MILLISECONDS = {'ns': 1e-6, 'us': 1e-3, 'ms': 1, 's': 1e3}
NOT_RUN = 'not run'
PAST_LIMIT = (124, 137)  # timeout's exit status where TERM was enough, and where KILL was needed
# The iteration whose time is to be reached: 200 000 denoising and 50 000 residual points, the paper's network.
ITERATION = 'gpu/train/paper/200000_50000/split'
PEERS = {'torch': 50, 'torch.compile': 20, 'jax': 15}  # times as long as ours, at least


def device_of(line):
    return dict(zip(DEVICE, (field.strip() for field in line.split(','))))


def slug(line):
    name = re.sub('[^a-z0-9]+', '_', device_of(line)['name'].lower()).strip('_')
    return name.removeprefix('nvidia_')


def cuda_status(info):
    return next(b for b in info['backends'] if b['name'] == 'cuda')


def points(n=99):
    """The bytes of a .npy file (format 1.0) of float32 [n, 3]."""
    values = array.array('f', (v for k in range(n) for v in (0.05 + 0.1 * k, -3 + 6 * k / n, 3 - 6 * (k * k % n) / n)))
    if sys.byteorder == 'big':
        values.byteswap()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, 3), }}"
    header = header.ljust(117) + '\n'  # with the ten bytes before it a multiple of 64
    return b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode() + values.tobytes()


def status_of(folder, name):
    """The exit status of a run, None where it did not run."""
    path = folder / f'{name}.status'
    return int(path.read_text()) if path.is_file() else None


def outcome(status):
    return NOT_RUN if status is None else 'ran past the limit' if status in PAST_LIMIT else f'ended with exit status {status}'


def test_results(folder):
    """Counts over all executables, what failed, what was skipped and why."""
    result = {'passed': 0, 'failed': 0, 'skipped': 0, 'executables': {}, 'failures': [], 'skips': {}}
    for log in sorted((folder / 'tests').glob('*.log')):
        name, status = log.stem, status_of(folder, f'tests/{log.stem}')
        counts = {'passed': 0, 'failed': 0, 'skipped': 0}
        written = folder / 'tests' / f'{name}.json'
        suites = json.loads(written.read_text())['testsuites'] if written.is_file() else []
        for test in (t for suite in suites for t in suite['testsuite']):
            full = f"{name}: {test.get('classname', '')}.{test['name']}"
            if test.get('failures'):
                counts['failed'] += 1
                result['failures'].append(f"{full}: {test['failures'][0]['failure'].splitlines()[0]}")
            elif test.get('result') == 'SKIPPED':
                counts['skipped'] += 1
                said = [s['message'].strip().splitlines()[-1] for s in test.get('skipped', []) if s.get('message', '').strip()]
                reason = said[0] if said else 'no reason given'
                result['skips'][reason] = result['skips'].get(reason, 0) + 1
            elif test.get('status') == 'RUN':
                counts['passed'] += 1
        if status != 0 and counts['failed'] == 0:  # it crashed, or said what is wrong outside of any test
            counts['failed'] = 1
            result['failures'].append(f'{name}: {outcome(status)}')
        elif status == 0 and not any(counts.values()):
            counts['failed'] = 1
            result['failures'].append(f'{name}: ran no test')
        result['executables'][name] = counts
        for key, count in counts.items():
            result[key] += count
    result['failures'] += [f'{name}: {NOT_RUN}' for name in (folder / 'tests.names').read_text().split()
                           if name not in result['executables']]
    return result


def sanitizer_results(folder):
    """{tool: {case: 'passed', 'failed: ...' or 'not run'}}. A tool that says nothing of its errors has not checked."""
    result = {}
    for tool in SANITIZERS:
        result[tool] = {}
        for case in CASES:
            name = f'sanitizer/{tool}-{case}'
            status = status_of(folder, name)
            if status is None:
                result[tool][case] = NOT_RUN
                continue
            said = re.findall(r'(?:ERROR|RACECHECK) SUMMARY: (.*)', (folder / f'{name}.log').read_text(errors='replace'))
            if status != 0:
                result[tool][case] = f'failed: {said[-1] if said else outcome(status)}'
            elif not said or not re.match(r'0 (?:errors|hazards)', said[-1]):
                result[tool][case] = f"failed: {said[-1] if said else 'it gave no summary'}"
            else:
                result[tool][case] = 'passed'
    return result


def stall_results(folder):
    """{kernel: {metric: 'value unit'} of ncu's CSV, or why there is none}."""
    result = {}
    for kernel in STALLS:
        status = status_of(folder, f'stalls/{kernel}')
        if status is None:
            result[kernel] = NOT_RUN
            continue
        text = (folder / f'stalls/{kernel}.log').read_text(errors='replace')
        lines = text.splitlines()
        table = [line for line in lines if line.startswith('"')]
        rows = [row for row in csv.DictReader(table) if row.get('Metric Name')]
        said = [line for line in lines if line.startswith('==ERROR==')]
        why = (said[0].removeprefix('==ERROR==').strip() if said else
               'ncu profiled no kernel' if status == 0 else outcome(status))
        result[kernel] = ({row['Metric Name']: f"{row['Metric Value']} {row['Metric Unit']}".strip() for row in rows} or
                          f'not known: {why}')
    return result


def benchmark_rows(text):
    """Google Benchmark's report, which is written row by row, up to the last whole row where it was ended before."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        rows, end, _ = text.rpartition('\n    }')
        return json.loads(f'{rows}{end}\n  ]\n}}') if end else {}


def benchmark_results(folder):
    """The timed works and the limits that they were compared with."""
    status = status_of(folder, 'bench')
    written = folder / 'bench.json'
    report = benchmark_rows(written.read_text()) if written.is_file() else {}
    works, failures = {}, []
    name_of = lambda full: re.sub(r'/(?:iterations|repeats):\d+|/(?:manual|real)_time', '', full)
    missing = [name_of(full) for full in (folder / 'bench.names').read_text().split()]
    for row in report.get('benchmarks', []):
        if row.get('run_type') == 'aggregate':
            continue
        name = name_of(row['name'])
        missing = [m for m in missing if m != name]
        if row.get('error_occurred'):
            failures.append(f"{name}: {row['error_message']}")
            continue
        works[name] = {'ms': row['real_time'] * MILLISECONDS[row['time_unit']]}
        works[name].update((key, row[key]) for key in COUNTERS if key in row)
        if row.get('label'):
            works[name]['limit'] = row['label'].removeprefix('limit: ')
    if status is None:
        failures.append('the benchmarks did not run')
    elif status != 0 and not failures:
        failures.append(f'the benchmarks: {outcome(status)}')
    elif status == 0 and not works:
        failures.append('no benchmark ran')
    failures += [f'{name}: {NOT_RUN}' for name in missing]
    context = report.get('context', {})
    limits = {key: context[key] for key in context if key.startswith(('limit_', 'multiprocessors', 'clock_mhz'))}
    chosen = (folder / 'bench.filter').read_text().strip()
    return {'selected': chosen or None, 'limits': limits, 'works': works, 'failures': failures}


def device_name(report):
    """The device that a result of gpu_check or of bench/peers/run.sh names; None where it names none."""
    return (report.get('device') or report.get('gpu') or {}).get('name')


def figures(reports):
    """What is to be reached, by the last of the reports that has it: its time or ratio, the limits and a verdict. The
    paper's time is that of one seed, its table that of the most seeds."""
    works, peers, paper, seeds, acceptance = {}, {}, None, 0, []
    for report in reports:
        works |= report.get('benchmarks', {}).get('works', {})
        peers |= report.get('work', {}).get(ITERATION, {}).get('ratio_to_fokker', {})
        run = report.get('paper', {'seeds': 0})
        if run['seeds'] == 1:
            paper = run['seconds']
        if run['seeds'] > 0 and run['seeds'] >= seeds:
            seeds, acceptance = run['seeds'], run['acceptance']
    iteration = works.get(ITERATION, {})

    def row(name, measured, unit, reach, aim=None, floor=None, at_most=True):
        within = lambda limit: measured <= limit if at_most else measured >= limit
        verdict = ('not measured' if measured is None else 'not reached' if not within(reach) else
                   'aim reached' if aim is not None and within(aim) else 'reached')
        return {'figure': name, 'measured': measured, 'unit': unit, 'reach': reach, 'aim': aim, 'floor': floor,
                'verdict': verdict}

    outcomes = [entry['outcome'] for entry in acceptance]
    beside = row('our table against the published one', outcomes.count('met') if outcomes else None, 'met',
                 len(outcomes) or None, at_most=False)
    if 'not evaluated' in outcomes and 'not met' not in outcomes:
        beside['verdict'] = 'not evaluated'
    beside['requirements'] = acceptance

    limit = iteration.get('limit_us')
    return [row('one iteration, 200 000 DSM + 50 000 FP points', iteration.get('ms'), 'ms', 0.6, 0.3,
                None if limit is None else 1e-3 * limit),
            *(row(f'the same in {peer}, over ours', peers.get(peer), 'x', ratio, at_most=False)
              for peer, ratio in PEERS.items()),
            row('the paper preset, from nothing to report', None if paper is None else paper / 60, 'min', 15, 8),
            beside]


def figure_lines(rows, device):
    yield f'{device or "no device"}: what is to be reached'
    for r in rows:
        measured = '-' if r['measured'] is None else f"{r['measured']:.3g} {r['unit']}"
        limits = ', '.join(f"{name} {r[name]:.2g}" for name in ('reach', 'aim', 'floor') if r[name] is not None)
        yield f"{r['figure']:48}{measured:>12}   {r['verdict']}{limits and f' ({limits})'}"
        for entry in r.get('requirements', []):
            yield f"    {entry['data']}: {entry['criterion']}: {entry['outcome']}"


def measured_on(folder):
    """What gpu_check wrote of the device and of what was built."""
    info = json.loads((folder / 'info.json').read_text())
    cuda = cuda_status(info)
    versions = re.search(r'driver for CUDA ([\d.]+), runtime ([\d.]+)', cuda['detail'])
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'commit': (folder / 'commit').read_text().strip() or None,
        'device': device_of((folder / 'device').read_text()),
        'cuda': {'driver': versions[1], 'runtime': versions[2]} if versions else {'status': cuda['detail']},
        'fokker': info['version'],
    }


def paper(folder, run):
    """The time of all calls, what was done again after a call was ended with it. A line of the file of calls has the
    starts of calls, of which all but the last were killed, and the end of the last, in seconds since 1970."""
    lines = [list(map(int, line.split())) for line in (run / 'calls').read_text().splitlines()]
    results = json.loads((run / 'results.json').read_text())
    return measured_on(folder) | {'paper': {'seconds': sum(line[-1] - line[0] for line in lines),
                                            'calls': sum(len(line) - 1 for line in lines),
                                            'seeds': results['seeds'], 'acceptance': results['acceptance']}}


def assemble(folder, seconds, parts):
    report = measured_on(folder) | {'parts': parts, 'seconds': seconds}
    if 'tests' in parts:
        report['tests'] = test_results(folder)
    if 'sanitizer' in parts:
        report['sanitizer'] = sanitizer_results(folder)
    if 'bench' in parts:
        report['benchmarks'] = benchmark_results(folder)
    if 'stalls' in parts:
        report['stalls'] = stall_results(folder)
    return report


def problems(report):
    found = [failure for part in ('tests', 'benchmarks') for failure in report.get(part, {}).get('failures', [])]
    if report.get('tests', {}).get('passed') == 0:
        found.append('no test passed')
    for tool, cases in report.get('sanitizer', {}).items():
        found += [f'compute-sanitizer {tool}, {case}: {said}' for case, said in cases.items() if said != 'passed']
    return found


def summary(report):
    if tests := report.get('tests'):
        yield f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped"
    if clean := [c for cases in report.get('sanitizer', {}).values() for c in cases.values()]:
        yield f"compute-sanitizer: {clean.count('passed')} of {len(clean)} runs without an error, {clean.count(NOT_RUN)} not run"
    for name, work in report.get('benchmarks', {}).get('works', {}).items():
        fraction = f"{work['fraction_of_limit']:.2f} of its limit" if 'fraction_of_limit' in work else 'no limit known'
        alone = f", {work['over_alone']:.2f} times as fast as one after another" if 'over_alone' in work else ''
        fokker = f", {work['over_fokker']:.2f} times as long as fokker" if 'over_fokker' in work else ''
        yield f"{name:40}{work['ms']:12.3f} ms   {fraction}{alone}{fokker}"
    for kernel, metrics in report.get('stalls', {}).items():
        if isinstance(metrics, dict):
            metrics = ', '.join(f'{name} {value}' for name, value in metrics.items() if name.startswith('Stall'))
        yield f'stalls of {kernel}: {metrics}'
    if 'figures' in report:
        yield from figure_lines(report['figures'], device_name(report))


def main():
    command, *arguments = sys.argv[1:]
    if command == 'slug':
        print(slug(arguments[0]))
    elif command == 'available':
        cuda = cuda_status(json.loads(pathlib.Path(arguments[0]).read_text()))
        if not cuda['available']:
            sys.exit(f"gpu_check: the CUDA backend is not available: {cuda['detail']}")
    elif command == 'points':
        pathlib.Path(arguments[0]).write_bytes(points())
    elif command == 'cases':
        print(*CASES)
    elif command == 'figures':
        reports = [json.loads(pathlib.Path(a).read_text()) for a in arguments]
        devices = {device_name(r): a for r, a in zip(reports, arguments) if device_name(r)}
        if len(devices) > 1:
            sys.exit('gpu_report: ' + ' and '.join(f'{a} is of {d}' for d, a in devices.items()) + '; allowed: files of one device')
        print('\n'.join(figure_lines(figures(reports), next(iter(devices), None))))
    elif command == 'paper':
        report = paper(*map(pathlib.Path, arguments[:2]))
        report['figures'] = [row for row in figures([report]) if row['measured'] is not None]
        out = pathlib.Path(arguments[2])
        out.write_text(json.dumps(report, indent=2) + '\n')
        print('\n'.join(figure_lines(report['figures'], device_name(report))))
        for name, beside in (('results.json', '_results.json'), ('report.html', '.html')):
            shutil.copyfile(pathlib.Path(arguments[1]) / name, out.with_name(out.stem + beside))
        print(f'wrote {out}, and beside it results and report; their figures are in {arguments[1]}/figures')
    else:
        report = assemble(pathlib.Path(arguments[0]), int(arguments[1]), arguments[3:])
        if 'benchmarks' in report:
            report['figures'] = figures([report])
        found = problems(report)
        report['ok'] = not found
        part = pathlib.Path(f'{arguments[2]}.part')
        part.write_text(json.dumps(report, indent=2) + '\n')
        part.replace(arguments[2])
        print('\n'.join([*summary(report), *(f'problem: {p}' for p in found), f'wrote {arguments[2]}']))
        sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()
