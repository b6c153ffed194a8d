#!/usr/bin/env python3
"""tools/gpu_check where there is no GPU (argument: the root of the tree): its arguments, its refusals, and whole runs on
stand-ins for the driver's and the toolkit's programs and for a built tree, of which it has to say what passed and what
did not."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

CHECK = None
CASES = ()  # as tools/gpu_report.py has them
INFO = {'version': '0.1.0', 'backends': [
    {'name': 'cpu', 'available': True, 'detail': 'AVX2'},
    {'name': 'cuda', 'available': True, 'detail': 'NVIDIA H9 (compute capability 9.0, 80 GiB); driver for CUDA 13.1, runtime 13.0'}]}
TESTS = {'testsuites': [{'testsuite': [
    {'name': 'Small', 'classname': 'Fields', 'status': 'RUN', 'result': 'COMPLETED'},
    {'name': 'Large', 'classname': 'Fields', 'status': 'RUN', 'result': 'COMPLETED'},
    {'name': 'Published', 'classname': 'Fields', 'status': 'RUN', 'result': 'SKIPPED',
     'skipped': [{'message': 'published_test.cpp:9\nno published files\n'}]},
    {'name': 'Off', 'classname': 'Fields', 'status': 'NOTRUN', 'result': 'SUPPRESSED'}]}]}
BENCH = {'context': {'limit_tflops_split': '330.0', 'multiprocessors': '132', 'host_name': 'x'}, 'benchmarks': [
    {'name': 'gpu/sample/paper/3000000/split/iterations:3/manual_time', 'run_type': 'iteration', 'real_time': 1250.0,
     'time_unit': 'ms', 'gflops': 112000.0, 'fraction_of_limit': 0.41, 'memory_beside_samples_mib': 2.0,
     'label': 'limit: special functions'},
    {'name': 'gpu/score/w64/1048576/half/manual_time', 'run_type': 'iteration', 'real_time': 500.0, 'time_unit': 'us',
     'gflops': 1.0},
    {'name': 'gpu/train/paper/200000_50000/split/manual_time', 'run_type': 'iteration', 'real_time': 450.0, 'time_unit': 'us',
     'fraction_of_limit': 0.34, 'limit_us': 152.0},
    {'name': 'gpu/train/twelve/200000_50000/split/manual_time', 'run_type': 'iteration', 'real_time': 5.0, 'time_unit': 'ms',
     'over_alone': 1.25}]}

NCU = """==PROF== Connected to process 7
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","resident_sample","Warp Cycles Per Issued Instruction","cycle","3.5"
"0","resident_sample","Stall Short Scoreboard","inst","0.4"
"0","resident_sample","","",""
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n' + text)
    path.chmod(0o755)


def answer(value):
    return f"cat <<'END'\n{value if isinstance(value, str) else json.dumps(value)}\nEND\n"


def out_of(option):
    """Shell that sets `out` to the value of --option=VALUE."""
    return f'for a; do case $a in {option}=*) out=${{a#{option}=}} ;; esac; done\n'


def built_tree(folder, tests=TESTS, test_status=0, bench=BENCH, bench_status=0, info=INFO, summary='ERROR SUMMARY: 0 errors',
               sanitizer_status=0, sanitizer=True, reproduce_status=0, ncu=NCU, first=False, names='gpu/score/w64/1048576/half/manual_time\\n'):
    """A build folder and a folder of programs to stand first in PATH."""
    build, path = folder / 'build', folder / 'path'
    program(path / 'nvidia-smi', 'echo "NVIDIA H9 80GB, 580.1, 81559 MiB, 1980 MHz"\n')
    if sanitizer:
        program(path / 'compute-sanitizer', f'shift 4\n"$@" > /dev/null\necho "========= {summary}"\nexit {sanitizer_status}\n')
    if ncu is not None:
        program(path / 'ncu', f'echo "ncu $*" >> "{folder}/commands"\n{answer(ncu)}')
    program(build / 'tools/fokker', f'[ "$1" = info ] || {{ echo "$*" >> "{folder}/commands"; exit 0; }}\n{answer(info)}')
    program(build / 'tools/reproduce', f'echo "reproduce $*" >> "{folder}/commands"\nexit {reproduce_status}\n')
    program(build / 'bench/fokker_gpu_bench',
            f'echo "$*" >> "{folder}/benchmarks"\n[ "$1" != --benchmark_list_tests ] || {{ printf "{names}"; exit 0; }}\n' + out_of('--benchmark_out') + f'[ -z "$out" ] || {{ {answer(bench).replace("<<", "> $out <<", 1)} }}\nexit {bench_status}\n')
    program(build / 'tests/gpu/fields_test', out_of('--gtest_output') + 'out=${out#json:}\n' +
            (answer(tests).replace('<<', '> $out <<', 1) if tests else '') + f'exit {test_status}\n')
    for name in ('fragment_layout_test', 'device_field_test', 'device_loss_test') if first else ():
        shutil.copy(build / 'tests/gpu/fields_test', build / f'tests/gpu/{name}')
    (build / 'tests/gpu/notes.txt').write_text('not a test')
    return build, path


def check(*arguments, path=None, environment=None):
    environment = dict(os.environ, **(environment or {}))
    environment.pop('FOKKER_PAPER_DATA', None)
    if path:
        environment['PATH'] = f'{path}:{environment["PATH"]}'
    return subprocess.run([CHECK, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


def whole(folder, only=(), **tree):
    build, path = built_tree(folder, **tree)
    out = folder / 'new/result.json'
    done = check('--build', build, '--no-build', '--out', out, '--commit', 'abc', *only, path=path)
    return done, json.loads(out.read_text()) if out.is_file() else None


def refusal(done, status, *words):
    assert done.returncode == status, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('gpu_check: ') and all(w in lines[0] for w in words), done


def test_arguments(folder):
    done = check('--help')
    assert done.returncode == 0 and 'usage: tools/gpu_check' in done.stdout and 'Exit codes' in done.stdout
    assert 'set -euo' not in done.stdout
    refusal(check('--bad'), 2, "'--bad'")
    refusal(check('--build'), 2, '--build')
    refusal(check('--out', ''), 2, '--out')
    refusal(check('--only', 'bench,all'), 2, "'bench,all'", 'bench, tests, sanitizer and stalls')
    refusal(check('--only', 'bench', '--paper', folder / 'run'), 2, '--only', '--paper')
    refusal(check('--first', '--paper', folder / 'run'), 2, '--first', '--paper')
    refusal(check('--first', '--only', 'bench'), 2, '--first', '--only')


def test_no_gpu(folder):
    """One sentence, and nothing else is done: not even the build folder is looked at."""
    program(folder / 'path/nvidia-smi', 'echo "No devices were found"\nexit 6\n')
    refusal(check('--build', folder / 'build', path=folder / 'path'), 1, 'GPU')
    assert not (folder / 'build').exists()


def test_refusals(folder):
    build, path = built_tree(folder / 'one')
    (build / 'tests/gpu/fields_test').unlink()
    done = check('--build', build, '--no-build', path=path)
    assert done.returncode == 1 and 'holds no test' in done.stderr, done
    (build / 'bench/fokker_gpu_bench').unlink()
    done = check('--build', build, '--no-build', path=path)
    assert done.returncode == 1 and 'fokker_gpu_bench is missing' in done.stderr, done
    cpu_only = {'version': '0.1.0', 'backends': [{'name': 'cuda', 'available': False, 'detail': 'this build has no code for it'}]}
    done, report = whole(folder / 'two', info=cpu_only)
    assert done.returncode == 1 and 'not available: this build has no code for it' in done.stderr and report is None, done


def test_all_passed(folder):
    done, report = whole(folder)
    assert done.returncode == 0, done
    assert report['ok'] is True and report['commit'] == 'abc' and report['fokker'] == '0.1.0'
    assert report['device'] == {'name': 'NVIDIA H9 80GB', 'driver': '580.1', 'memory': '81559 MiB', 'highest_clock': '1980 MHz'}
    assert report['cuda'] == {'driver': '13.1', 'runtime': '13.0'} and report['date'][:2] == '20'
    tests = report['tests']
    assert (tests['passed'], tests['failed'], tests['skipped']) == (2, 0, 1), tests
    assert tests['executables'] == {'fields_test': {'passed': 2, 'failed': 0, 'skipped': 1}}
    assert tests['skips'] == {'no published files': 1} and tests['failures'] == []
    assert report['sanitizer'] == {tool: dict.fromkeys(CASES, 'passed')
                                   for tool in ('memcheck', 'racecheck', 'initcheck', 'synccheck')}
    works = report['benchmarks']['works']
    assert works == {'gpu/sample/paper/3000000/split': {'ms': 1250.0, 'gflops': 112000.0, 'fraction_of_limit': 0.41,
                                                        'memory_beside_samples_mib': 2.0, 'limit': 'special functions'},
                     'gpu/score/w64/1048576/half': {'ms': 0.5, 'gflops': 1.0},
                     'gpu/train/paper/200000_50000/split': {'ms': 0.45, 'fraction_of_limit': 0.34, 'limit_us': 152.0},
                     'gpu/train/twelve/200000_50000/split': {'ms': 5.0, 'over_alone': 1.25}}, works
    verdicts = [(row['measured'], row['reach'], row['aim'], row['verdict']) for row in report['figures']]
    assert verdicts == [(0.45, 0.6, 0.3, 'reached'), (None, 50, None, 'not measured'), (None, 20, None, 'not measured'),
                        (None, 15, None, 'not measured'), (None, 15, 8, 'not measured'), (None, None, None, 'not measured')], verdicts
    assert report['figures'][0]['floor'] == 0.152
    assert 'reached (reach 0.6, aim 0.3, floor 0.15)' in done.stdout
    assert '1.25 times as fast as one after another' in done.stdout
    assert report['benchmarks']['limits'] == {'limit_tflops_split': '330.0', 'multiprocessors': '132'}
    said = [line.split() for line in (folder / 'commands').read_text().splitlines()]
    checked = [line for line in said if line[line.index('--backend') + 1] == 'cuda']
    trained = {' '.join(line[line.index('--hidden') if '--hidden' in line else 2:][:2]) for line in checked if line[0] == 'train'}
    assert 'train' in {line[0] for line in checked} and '--hidden 200,150' in trained, trained
    assert sum('score' in line for line in checked if line[0] == 'train') == 4
    assert sum(line[0] == 'reproduce' for line in checked) == 4
    assert [line for line in said if line[0] == 'train' and line not in checked] == said[:3]
    assert len(checked) == 4 * (len(CASES) - 1) and all(checked.count(line) == 4 for line in checked), checked
    models = {pathlib.Path(line[line.index('--model') + 1]).stem for line in checked if '--model' in line}
    assert models == {'paper', 'wide', 'vector', 'mixture'}, models
    assert sum(line[0] == 'gap' for line in checked) == 4
    assert '2 passed, 0 failed, 1 skipped' in done.stdout and '0.41 of its limit' in done.stdout


def test_parts(folder):
    """Only what is asked for is run, needed, written and judged."""
    done, report = whole(folder / 'tests', only=('--only', 'tests'), bench_status=1, sanitizer_status=86)
    assert done.returncode == 0 and report['ok'] is True and report['tests']['passed'] == 2, done
    assert report['parts'] == ['tests']
    assert not {'sanitizer', 'benchmarks', 'figures'} & report.keys() and not (folder / 'tests/commands').exists(), report
    done, report = whole(folder / 'others', only=('--only', 'sanitizer,bench'), test_status=1)
    assert done.returncode == 0 and report['ok'] is True and 'tests' not in report, done
    assert report['sanitizer']['racecheck']['train'] == 'passed' and report['figures'][0]['verdict'] == 'reached'


def test_first(folder):
    """What tells most, in its order; and what was done before a call was ended is in its file."""
    done, report = whole(folder, only=('--first',), first=True, sanitizer_status=86)
    assert done.returncode == 0 and report['ok'] is True and report['parts'] == ['tests', 'bench', 'stalls'], done
    assert list(report['tests']['executables']) == ['device_field_test', 'device_loss_test', 'fragment_layout_test']
    steps = [line.split('] ')[1] for line in done.stdout.splitlines() if line.startswith('gpu_check: [')][1:]
    assert steps == ['tests: fragment_layout_test', 'tests: device_field_test', 'tests: device_loss_test', 'benchmarks',
                     'stalls: sample', 'stalls: loss'], steps
    assert report['stalls'] == dict.fromkeys(('sample', 'loss'), {'Warp Cycles Per Issued Instruction': '3.5 cycle',
                                                                  'Stall Short Scoreboard': '0.4 inst'})
    assert 'stalls of loss: Stall Short Scoreboard 0.4 inst\n' in done.stdout
    assert '--print-details all' in (folder / 'commands').read_text()
    asked = (folder / 'benchmarks').read_text().splitlines()
    assert len(asked) == 2 and all('--benchmark_filter=gpu/(sample|train|loss)/paper' in line for line in asked), asked
    done, report = whole(folder / 'chosen', only=('--first', '--benchmarks', 'loss/paper_4'), first=True)
    assert '--benchmark_filter=loss/paper_4 ' in (folder / 'chosen/benchmarks').read_text()
    assert report['benchmarks']['selected'] == 'loss/paper_4' and not (folder / 'chosen/new/result_unfinished.json').exists()
    refusal(check('--only', 'tests,stalls', '--benchmarks', 'loss'), 2, '--benchmarks', 'tests,stalls')
    done, report = whole(folder / 'twice', only=('--only', 'tests,bench,tests'))
    assert report['parts'] == ['bench', 'tests'] and done.stdout.count('] tests: ') == 1, done

    # The counters may be the administrator's alone, and a profiler may find no kernel: that is said.
    for said, wanted in (('==ERROR== ERR_NVGPUCTRPERM - no permission', 'not known: ERR_NVGPUCTRPERM - no permission'),
                         ('==PROF== Connected', 'not known: ncu profiled no kernel')):
        done, report = whole(folder / said[2:6], only=('--only', 'stalls'), ncu=said)
        assert done.returncode == 0 and report['stalls']['sample'] == wanted, report
    # Ended from outside during the benchmarks: by its parent's process number the stand-in finds timeout, and gpu_check by
    # that one's.
    build, path = built_tree(folder / 'ended', first=True)
    program(build / 'bench/fokker_gpu_bench', '[ "$1" != --benchmark_list_tests ] || { echo gpu/a; exit 0; }\nkill -9 $(cut -d" " -f4 /proc/$PPID/stat)\nsleep 2\n')
    out = folder / 'ended.json'
    out.write_text('an earlier result')
    done = check('--first', '--build', build, '--no-build', '--out', out, path=path)
    assert out.read_text() == 'an earlier result'
    report = json.loads((folder / 'ended_unfinished.json').read_text())
    assert done.returncode != 0 and report['ok'] is False and report['tests']['passed'] == 6, done
    assert report['benchmarks']['failures'] == ['the benchmarks did not run', 'gpu/a: not run'], report
    assert report['stalls'] == {'sample': 'not run', 'loss': 'not run'}


def failing(folder, wanted, **tree):
    """The run fails, says `wanted`, and writes its file all the same."""
    done, report = whole(folder, **tree)
    assert done.returncode == 1 and report is not None and report['ok'] is False, done
    assert 'problem: ' in done.stdout and wanted in done.stdout, done.stdout
    return report


def test_failures(folder):
    failed = {'testsuites': [{'testsuite': [
        {'name': 'Small', 'classname': 'Fields', 'status': 'RUN', 'result': 'COMPLETED', 'failures': [{'failure': 'x.cpp:3\nwrong'}]},
        {'name': 'Large', 'classname': 'Fields', 'status': 'RUN', 'result': 'COMPLETED'}]}]}
    report = failing(folder / 'test', 'Fields.Small: x.cpp:3', tests=failed, test_status=1)
    assert report['tests']['passed'] == 1 and report['tests']['failed'] == 1
    failing(folder / 'crash', 'fields_test: ended with exit status 139', tests=None, test_status=139)
    failing(folder / 'later crash', 'fields_test: ended with exit status 134', test_status=134)
    for status in (124, 137):
        failing(folder / f'late {status}', 'fields_test: ran past the limit', tests=None, test_status=status)
    failing(folder / 'empty', 'fields_test: ran no test', tests={'testsuites': []})
    failing(folder / 'none passed', 'no test passed', tests={'testsuites': [{'testsuite': TESTS['testsuites'][0]['testsuite'][2:]}]})
    report = failing(folder / 'sanitizer', 'memcheck, bench: failed: 3 errors', summary='ERROR SUMMARY: 3 errors', sanitizer_status=86)
    assert report['sanitizer']['synccheck']['field'] == 'failed: 3 errors'
    failing(folder / 'hazard', 'racecheck, field: failed: 1 hazard', summary='RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)')
    failing(folder / 'mute', "it gave no summary", summary='Device not supported')
    error = {'context': {}, 'benchmarks': [{'name': 'gpu/score/w64/99/half', 'error_occurred': True, 'error_message': 'the score is wrong'}]}
    failing(folder / 'wrong', 'gpu/score/w64/99/half: the score is wrong', bench=error, bench_status=1)
    failing(folder / 'no bench', 'no benchmark ran', bench={'context': {}, 'benchmarks': []})
    # Where benchmarks were ended in between, the rows that are there count and the others are named.
    rows = json.dumps({'context': {}, 'benchmarks': BENCH['benchmarks'][:3]}, indent=2)
    report = failing(folder / 'cut off', 'problem: gpu/train/paper/200000_50000/split: not run\n',
                     bench=rows[:rows.index('    },\n', rows.index('/w64/')) + 5], bench_status=137,
                     names=''.join(row['name'] + '\\n' for row in BENCH['benchmarks']))
    assert list(report['benchmarks']['works']) == ['gpu/sample/paper/3000000/split', 'gpu/score/w64/1048576/half'], report
    assert report['benchmarks']['failures'] == ['the benchmarks: ran past the limit', 'gpu/train/paper/200000_50000/split: not run',
                                                'gpu/train/twelve/200000_50000/split: not run'], report
    failing(folder / 'bench crash', 'the benchmarks: ended with exit status 1', bench_status=1)


def test_figures(folder):
    """Reached or not, by results of gpu_check, of the paper's run and of the peers."""
    def shown(*reports):
        names = []
        for k, report in enumerate(reports):
            names.append(str(folder / f'{k}.json'))
            pathlib.Path(names[-1]).write_text(json.dumps(report))
        lines = subprocess.run([sys.executable, pathlib.Path(CHECK).with_name('gpu_report.py'), 'figures', *names], check=True,
                               capture_output=True, text=True).stdout.splitlines()
        return lines[1:]

    iteration = 'gpu/train/paper/200000_50000/split'
    ours = lambda ms: {'benchmarks': {'works': {iteration: {'ms': ms, 'limit_us': 150.0}}}}
    peers = {'work': {iteration: {'ratio_to_fokker': {'torch': 50.0, 'torch.compile': 19.9, 'jax': 31.0, 'fokker fp32': 2.0}}}}
    paper = lambda seconds, seeds, outcomes=(): {'paper': {
        'seconds': seconds, 'calls': 1, 'seeds': seeds,
        'acceptance': [{'data': 'blob', 'criterion': f'falls {k}', 'outcome': outcome} for k, outcome in enumerate(outcomes)]}}
    for ms, verdict in ((0.3, 'aim reached'), (0.6, '  reached'), (0.61, 'not reached')):
        assert verdict + ' (reach 0.6, aim 0.3, floor 0.15)' in shown(ours(ms))[0], ms
    lines = shown(ours(0.4), peers, paper(901, 1))
    for line, verdict in zip(lines[1:5], ('  reached (reach 50)', 'not reached (reach 20)', '  reached (reach 15)',
                                         'not reached (reach 15, aim 8)'), strict=True):
        assert verdict in line, line
    assert 'aim reached' in shown(paper(480, 1))[4]
    nothing = shown({})
    assert len(nothing) == 6 and all('not measured' in line for line in nothing), nothing
    # On one device, which is named.
    names = [folder / 'a.json', folder / 'b.json']
    names[0].write_text(json.dumps(ours(0.4) | {'device': {'name': 'NVIDIA H9'}}))
    names[1].write_text(json.dumps(peers | {'gpu': {'name': 'NVIDIA H8'}}))
    report = lambda *files: subprocess.run([sys.executable, pathlib.Path(CHECK).with_name('gpu_report.py'), 'figures', *files],
                                           capture_output=True, text=True, check=False)
    assert report(names[0]).stdout.startswith('NVIDIA H9: '), report(names[0])
    mixed = report(*names)
    assert mixed.returncode == 1 and f'{names[0]} is of NVIDIA H9 and {names[1]} is of NVIDIA H8; allowed' in mixed.stderr, mixed
    # The table, of the run with the most seeds, which says nothing of the time of one.
    for outcomes, verdict in ((('met', 'met'), 'reached (reach 2)'), (('met', 'not evaluated'), 'not evaluated (reach 2)'),
                              (('not met', 'not evaluated'), 'not reached (reach 2)')):
        lines = shown(paper(100, 3, outcomes), paper(480, 1, ('not evaluated',)))
        assert 'aim reached' in lines[4] and f"{outcomes.count('met')} met   {verdict}" in lines[5], lines
        assert lines[6:] == [f'    blob: falls {k}: {outcome}' for k, outcome in enumerate(outcomes)], lines
        assert 'not measured' in shown(paper(100, 3, outcomes))[4]


def test_paper(folder):
    """The preset's time over several calls, of which the limit ended the first."""
    build, path = built_tree(folder / 'ends', reproduce_status=1)
    run, out = folder / 'run', folder / 'paper.json'
    arguments = ('--build', build, '--no-build', '--paper', run, '--out', out, '--commit', 'abc')
    refusal(check('--limit', '0'), 2, '--limit')
    refusal(check('--paper', run, '--seeds', '0'), 2, '--seeds')
    refusal(check('--seeds', '3'), 2, '--paper')
    done = check(*arguments, path=path)
    assert done.returncode == 1 and 'ended with exit status 1' in done.stderr and not out.exists(), done
    program(build / 'tools/reproduce', f'echo "$*" >> "{folder}/paper"\nexec sleep 60\n')
    done = check(*arguments, '--limit', 1, path=path)
    assert done.returncode == 3 and 'the same call goes on' in done.stdout and not out.exists(), done
    assert (folder / 'paper').read_text().split() == ['--preset', 'paper', '--seeds', '1', '--backend', 'cuda', '--out', str(run)]
    calls = [list(map(int, line.split())) for line in (run / 'calls').read_text().splitlines()]
    assert [len(line) for line in calls] == [2, 2] and calls[1][1] - calls[1][0] >= 1, calls
    assert (run / 'device').read_text() == 'NVIDIA H9 80GB\n'
    # KILL is the limit's where there is one.
    program(build / 'tools/reproduce', 'kill -KILL $$\n')
    assert check(*arguments, '--limit', 9, path=path).returncode == 3
    done = check(*arguments, path=path)
    assert done.returncode == 1 and 'ended with exit status 137' in done.stderr, done
    # What follows the preset is the report, of results that are there.
    results = {'seeds': 1, 'acceptance': [{'data': 'blob', 'criterion': 'falls', 'outcome': 'met', 'numbers': '2, 1'}]}
    writes = lambda: program(build / 'tools/reproduce', f'echo "$*" > "{folder}/paper"\n' +
                             answer(results).replace('<<', f'> "{run}/results.json" <<', 1))
    writes()
    done = check(*arguments, path=path)
    assert done.returncode == 1 and 'ended with exit status 1' in done.stderr and not out.exists(), done
    program(path / 'python3', f'[ "$1" != tools/report.py ] || {{ echo told > "{run}/report.html"; exit 0; }}\nexec {sys.executable} "$@"\n')
    done = check(*arguments, path=path)
    report = json.loads(out.read_text())
    assert done.returncode == 0 and report['paper']['calls'] == 6 and report['paper']['seconds'] >= 1, done
    assert [row['verdict'] for row in report['figures']] == ['aim reached', 'reached'] and report['commit'] == 'abc'
    assert json.loads((folder / 'paper_results.json').read_text()) == results
    assert (folder / 'paper.html').read_text() == 'told\n'
    assert report['figures'][1]['requirements'] == results['acceptance'] and '    blob: falls: met\n' in done.stdout, done
    # A call that is killed counts up to the end of the next.
    program(build / 'tools/reproduce', 'sleep 1\nkill -KILL $(cut -d" " -f4 /proc/$PPID/stat)\n')
    assert check(*arguments, path=path).returncode == -9
    writes()
    before = report['paper']['seconds']
    assert check(*arguments, path=path).returncode == 0
    report = json.loads(out.read_text())
    assert report['paper']['calls'] == 8 and report['paper']['seconds'] >= before + 1, report
    killed, begun, ended = map(int, (run / 'calls').read_text().splitlines()[-1].split())
    assert killed < begun <= ended
    # With more seeds the time is no figure.
    results['seeds'] = 3
    writes()
    assert check(*arguments, '--seeds', 3, path=path).returncode == 0
    assert '--seeds 3' in (folder / 'paper').read_text()
    assert [row['measured'] for row in json.loads(out.read_text())['figures']] == [1], out.read_text()
    # Nor is there a time of one seed afterwards.
    (run / 'blob_softplus100_w0_s1').mkdir()
    (run / 'blob_softplus100_w0_s1/recipe.json').write_text('{}')
    refusal(check(*arguments, path=path), 2, 'has runs of more seeds')
    # Nor of seeds on another device, nor of runs whose time is not known.
    calls = (run / 'calls').read_text()
    program(path / 'nvidia-smi', 'echo "NVIDIA H8, 580.1, 81559 MiB, 1980 MHz"\n')
    refusal(check(*arguments, path=path), 2, 'NVIDIA H9 80GB', 'NVIDIA H8')
    assert (run / 'calls').read_text() == calls
    (folder / 'plain/blob_softplus100_w0_s0').mkdir(parents=True)
    (folder / 'plain/blob_softplus100_w0_s0/recipe.json').write_text('{}')
    refusal(check(*arguments[:3], '--paper', folder / 'plain', path=path), 2, 'not begun by gpu_check')


def test_no_sanitizer(folder):
    if shutil.which('compute-sanitizer') or pathlib.Path('/usr/local/cuda/bin/compute-sanitizer').exists():
        return
    report = failing(folder, 'compute-sanitizer memcheck, bench: not run', sanitizer=False)
    assert set(report['sanitizer']['initcheck'].values()) == {'not run'} and report['tests']['passed'] == 2


def test_points(folder):
    """A .npy file by its definition."""
    report = pathlib.Path(CHECK).with_name('gpu_report.py')
    subprocess.run([sys.executable, report, 'points', folder / 'p.npy'], check=True)
    content = (folder / 'p.npy').read_bytes()
    length = int.from_bytes(content[8:10], 'little')
    assert content[:8] == b'\x93NUMPY\x01\x00' and (10 + length) % 64 == 0 and content[10 + length - 1:10 + length] == b'\n'
    assert len(content) == 10 + length + 99 * 3 * 4 and "'shape': (99, 3)" in content.decode('latin1')
    slug = subprocess.run([sys.executable, report, 'slug', 'NVIDIA H100 80GB HBM3, 580.1, 1 MiB, 1 MHz'], check=True,
                          capture_output=True, text=True).stdout
    assert slug == 'h100_80gb_hbm3\n', slug


def main():
    global CHECK, CASES
    CHECK = str(pathlib.Path(sys.argv[1]) / 'tools' / 'gpu_check')
    CASES = subprocess.run([sys.executable, pathlib.Path(CHECK).with_name('gpu_report.py'), 'cases'], check=True,
                           capture_output=True, text=True).stdout.split()
    assert len(CASES) > 9, CASES
    for name, test in list(globals().items()):
        if name.startswith('test_'):
            with tempfile.TemporaryDirectory() as folder:
                test(pathlib.Path(folder))
            print(f'{name}: passed')


if __name__ == '__main__':
    main()
