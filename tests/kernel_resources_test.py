#!/usr/bin/env python3
"""What the compiler made of the resident kernels, whose mangled names hold `resident_`, on every architecture.

usage: kernel_resources_test.py (resources|instructions) OBJECT...

resources     ptxas's report beside each object (kernels/ptxas_report.sh): no spill, no stack in local memory, and at most
              255 registers, with which a block of 256 threads fits the 65536 of a multiprocessor
instructions  the machine code as cuobjdump shows it: kernels of the precisions split and half multiply on tensor cores
              (HMMA), those of fp32 do not. cuobjdump and nvdisasm come from the CUDA toolkit or from the PyPI packages
              nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm; exits with 77, which ctest counts as skipped, without.

Without objects, in a build without CUDA, exits with 77 too. Each check is first shown texts with a violation and has to
find it.
"""
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys

MOST_REGISTERS = 255
NAME = 'resident_'
# A template argument fokker::Precision in a mangled name; the enumerators have the order of formulas/precision.hpp.
PRECISION = re.compile(r'9PrecisionE(\d)E')
PRECISIONS = ('split', 'fp32', 'half')


def skip(why):
    print(f'skipped: {why}')
    sys.exit(77)


def resources(report):
    """(kernel, architecture, registers, bytes of stack, bytes of spills) of each kernel of a ptxas report."""
    found, kernel = [], None
    for line in report.splitlines():
        if m := re.match(r"ptxas info\s*: Compiling entry function '(\S+)' for '(\S+)'", line):
            if kernel:
                raise ValueError(f'the report on {kernel[0]} for {kernel[1]} has no end')
            kernel, own, stack, spills = m.groups(), False, None, None
        elif m := re.match(r'ptxas info\s*: Function properties for (\S+)', line):
            own = kernel is not None and m[1] == kernel[0]  # else of a function that was not inlined
        elif m := re.match(r'\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads', line):
            if own:
                stack, spills = int(m[1]), int(m[2]) + int(m[3])
        elif m := re.match(r'ptxas info\s*: Used (\d+) registers', line):
            if kernel is None or stack is None:
                raise ValueError(f'no kernel and stack stand before: {line}')
            called = re.search(r'(\d+) bytes cumulative stack size', line)  # with the functions that it calls
            found.append((*kernel, int(m[1]), max(stack, int(called[1]) if called else 0), spills))
            kernel = None
    if kernel:
        raise ValueError(f'the report on {kernel[0]} for {kernel[1]} has no end')
    return found


def resource_violations(found):
    for kernel, architecture, registers, stack, spills in found:
        where = f'{kernel} for {architecture}'
        if spills:
            yield f'{where} spills {spills} bytes'
        if stack:
            yield f'{where} keeps {stack} bytes on a stack in local memory'
        if registers > MOST_REGISTERS:
            yield f'{where} takes {registers} registers; allowed are {MOST_REGISTERS}'


def instructions(lines):
    """{(kernel, architecture): whether it multiplies on tensor cores} of the output of cuobjdump -sass, line by line."""
    found, kernel, architecture = {}, None, None
    for line in lines:  # millions: no regular expressions
        if ' HMMA' in line:
            found[kernel] = True
        elif 'code for ' in line:
            architecture = line.split()[-1]
        elif 'Function : ' in line:
            kernel = (line.split()[-1], architecture)
            found[kernel] = False
    return found


def instruction_violations(found):
    for (kernel, architecture), tensor_cores in found.items():
        precisions = {int(m) for m in PRECISION.findall(kernel)}
        if len(precisions) != 1 or max(precisions) >= len(PRECISIONS):
            yield f'{kernel} names no precision, so it is not known which instructions it should have'
            continue
        precision = PRECISIONS[precisions.pop()]
        if tensor_cores != (precision != 'fp32'):
            has = 'has' if tensor_cores else 'has no'
            yield f'{kernel} for {architecture} is of precision {precision} and {has} tensor-core instructions'


def self_check():
    """Texts as the tools write them, with and without violations."""
    def kernel(properties, used, name='_Z13resident_testv'):
        return (f"ptxas info    : Compiling entry function '{name}' for 'sm_80'\n"
                f'ptxas info    : Function properties for {name}\n    {properties}\n'
                f'ptxas info    : Used {used}, 400 bytes cmem[0]\nptxas info    : Compile time = 1.0 ms\n')

    clean = '0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'
    called = ('ptxas info    : Function properties for _Z6helperv\n'
              '    64 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n')
    good = 'ptxas info    : 0 bytes gmem\n' + kernel(clean, '255 registers, used 1 barriers')
    assert resources(good + called) == [('_Z13resident_testv', 'sm_80', 255, 0, 0)]
    assert not list(resource_violations(resources(good + good)))
    for properties, used, wrong in (
            (clean, '256 registers', '256 registers'),
            ('0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads', '64 registers', 'spills 4'),
            ('0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads', '64 registers', 'spills 8'),
            ('400 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads', '64 registers', '400 bytes'),
            (clean, '64 registers, used 0 barriers, 72 bytes cumulative stack size', '72 bytes')):
        violations = list(resource_violations(resources(good + kernel(properties, used))))
        assert len(violations) == 1 and wrong in violations[0], (violations, wrong)
    for broken in (kernel(clean, 'x registers'), kernel('', '64 registers'), kernel(clean, 'x') + good):
        try:
            resources(broken)
        except ValueError:
            continue
        raise AssertionError(f'taken for a report: {broken}')

    def sass(precision, instruction):
        return (f'\tcode for sm_90a\n\t\tFunction : _Z15resident_fieldsILN6fokker9PrecisionE{precision}ELi80EEvPf\n'
                f'        /*0370*/       {instruction} R12, R4, R12, R8 ;    /* 0x0000000c040c723c */\n').splitlines()

    for precision, instruction, right in ((0, 'HMMA.16816.F32', True), (2, 'HMMA.16816.F32', True), (1, 'FFMA', True),
                                          (0, 'FFMA', False), (2, 'FFMA', False), (1, 'HMMA.16816.F32', False)):
        violations = list(instruction_violations(instructions(sass(precision, instruction))))
        assert bool(violations) != right, (precision, instruction, violations)
    assert list(instruction_violations(instructions(['code for sm_80', 'Function : _Z13resident_testv'])))


def tool_folder(name):
    """Where the program is: PATH, the CUDA toolkit, or the wheels that this Python and those in PATH see."""
    places = os.environ.get('PATH', '').split(os.pathsep) + ['/usr/local/cuda/bin']
    places += [p for site in sys.path for p in sorted(glob.glob(os.path.join(site, 'nvidia', 'cu*', 'bin')), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join(places))
    return os.path.dirname(found) if found else None


def all_resources(objects):
    found = []
    for path in objects:
        report = pathlib.Path(path + '.ptxas')
        if not report.is_file():
            sys.exit(f'{report} is missing: build with the launcher that kernels/CMakeLists.txt sets')
        found += [k for k in resources(report.read_text(encoding='utf-8')) if NAME in k[0]]
    return found, list(resource_violations(found)), f'at most {max((k[2] for k in found), default=0)} registers'


def all_instructions(objects):
    folders = {name: tool_folder(name) for name in ('cuobjdump', 'nvdisasm')}
    for name, folder in folders.items():
        if folder is None:
            skip(f'{name} is not here (python3 -m pip install -c tools/constraints.txt nvidia-cuda-{name})')
    environment = dict(os.environ, PATH=os.pathsep.join([folders['nvdisasm'], os.environ.get('PATH', '')]))
    found = {}
    for path in objects:
        if NAME.encode() not in pathlib.Path(path).read_bytes():
            continue
        with subprocess.Popen([os.path.join(folders['cuobjdump'], 'cuobjdump'), '-sass', path], env=environment,
                              stdout=subprocess.PIPE, text=True) as dump:
            of_object = instructions(dump.stdout)
        if dump.returncode != 0:
            sys.exit(f'cuobjdump -sass {path} ended with exit status {dump.returncode}')
        found.update({k: v for k, v in of_object.items() if NAME in k[0]})
    return found, list(instruction_violations(found)), f'{sum(found.values())} of them with tensor-core instructions'


def main():
    self_check()
    checks = {'resources': all_resources, 'instructions': all_instructions}
    if len(sys.argv) < 2 or sys.argv[1] not in checks:
        sys.exit(f'usage: {sys.argv[0]} ({"|".join(checks)}) OBJECT...')
    objects = sys.argv[2:]
    if not objects:
        skip('this build has no CUDA parts (the self-check passed)')
    found, violations, note = checks[sys.argv[1]](objects)
    if not found:
        violations = [f'no kernel named {NAME}... is in {" ".join(objects)}']
    print('\n'.join(violations) if violations else f'{len(found)} kernels, counted by architecture, {note}')
    sys.exit(1 if violations else 0)


if __name__ == '__main__':
    main()
