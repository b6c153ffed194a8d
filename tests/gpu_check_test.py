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
CASES = ('bench', 'sample', 'field', 'wide', 'vector', 'mixture', 'train', 'distances')
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
     'gflops': 1.0}]}


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n' + text)
    path.chmod(0o755)


def answer(value):
    return f"cat <<'END'\n{json.dumps(value)}\nEND\n"


def out_of(option):
    """Shell that sets `out` to the value of --option=VALUE."""
    return f'for a; do case $a in {option}=*) out=${{a#{option}=}} ;; esac; done\n'


def built_tree(folder, tests=TESTS, test_status=0, bench=BENCH, bench_status=0, info=INFO, summary='ERROR SUMMARY: 0 errors',
               sanitizer_status=0, sanitizer=True):
    """A build folder and a folder of programs to stand first in PATH."""
    build, path = folder / 'build', folder / 'path'
    program(path / 'nvidia-smi', 'echo "NVIDIA H9 80GB, 580.1, 81559 MiB, 1980 MHz"\n')
    if sanitizer:
        program(path / 'compute-sanitizer', f'shift 4\n"$@" > /dev/null\necho "========= {summary}"\nexit {sanitizer_status}\n')
    program(build / 'tools/fokker', f'[ "$1" = info ] || {{ echo "$*" >> "{folder}/commands"; exit 0; }}\n{answer(info)}')
    program(build / 'bench/fokker_gpu_bench',
            out_of('--benchmark_out') + f'[ -z "$out" ] || {{ {answer(bench).replace("<<", "> $out <<", 1)} }}\nexit {bench_status}\n')
    program(build / 'tests/gpu/fields_test', out_of('--gtest_output') + 'out=${out#json:}\n' +
            (answer(tests).replace('<<', '> $out <<', 1) if tests else '') + f'exit {test_status}\n')
    (build / 'tests/gpu/notes.txt').write_text('not a test')
    return build, path


def check(*arguments, path=None, environment=None):
    environment = dict(os.environ, **(environment or {}))
    environment.pop('FOKKER_PAPER_DATA', None)
    if path:
        environment['PATH'] = f'{path}:{environment["PATH"]}'
    return subprocess.run([CHECK, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)


def whole(folder, **tree):
    build, path = built_tree(folder, **tree)
    out = folder / 'new/result.json'
    done = check('--build', build, '--no-build', '--out', out, '--commit', 'abc', path=path)
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
                     'gpu/score/w64/1048576/half': {'ms': 0.5, 'gflops': 1.0}}, works
    assert report['benchmarks']['limits'] == {'limit_tflops_split': '330.0', 'multiprocessors': '132'}
    said = [line.split() for line in (folder / 'commands').read_text().splitlines()]
    checked = [line for line in said if line[line.index('--backend') + 1] == 'cuda']
    assert [line for line in said if line[0] == 'train' and line not in checked] == said[:3]
    assert len(checked) == 4 * (len(CASES) - 1) and all(checked.count(line) == 4 for line in checked), checked
    models = {pathlib.Path(line[line.index('--model') + 1]).stem for line in checked if '--model' in line}
    assert models == {'paper', 'wide', 'vector', 'mixture'}, models
    assert sum(line[0] == 'gap' for line in checked) == 4
    assert '2 passed, 0 failed, 1 skipped' in done.stdout and '0.41 of its limit' in done.stdout


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
    failing(folder / 'late', 'fields_test: ran past its limit', tests=None, test_status=124)
    failing(folder / 'empty', 'fields_test: ran no test', tests={'testsuites': []})
    failing(folder / 'none passed', 'no test passed', tests={'testsuites': [{'testsuite': TESTS['testsuites'][0]['testsuite'][2:]}]})
    report = failing(folder / 'sanitizer', 'memcheck, bench: failed: 3 errors', summary='ERROR SUMMARY: 3 errors', sanitizer_status=86)
    assert report['sanitizer']['synccheck']['field'] == 'failed: 3 errors'
    failing(folder / 'hazard', 'racecheck, field: failed: 1 hazard', summary='RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)')
    failing(folder / 'mute', "it gave no summary", summary='Device not supported')
    error = {'context': {}, 'benchmarks': [{'name': 'gpu/score/w64/99/half', 'error_occurred': True, 'error_message': 'the score is wrong'}]}
    failing(folder / 'wrong', 'gpu/score/w64/99/half: the score is wrong', bench=error, bench_status=1)
    failing(folder / 'no bench', 'no benchmark ran', bench={'context': {}, 'benchmarks': []})
    failing(folder / 'bench crash', 'the benchmarks: ended with exit status 1', bench_status=1)


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
    global CHECK
    CHECK = str(pathlib.Path(sys.argv[1]) / 'tools' / 'gpu_check')
    for name, test in list(globals().items()):
        if name.startswith('test_'):
            with tempfile.TemporaryDirectory() as folder:
                test(pathlib.Path(folder))
            print(f'{name}: passed')


if __name__ == '__main__':
    main()
