#!/usr/bin/env python3
"""What the compiler made of the resident kernels, whose mangled names hold `resident_`, on every architecture, as ptxas's
report beside each object says it (kernels/ptxas_report.sh): no spill, no stack in local memory, and at most 255
registers, with which a block of 256 threads fits the 65536 of a multiprocessor.

usage: kernel_resources_test.py OBJECT...

Without objects, in a build without CUDA, exits with 77, which ctest counts as skipped. The check is first shown texts
with a violation and has to find it.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'tools'))
from kernel_code import RESIDENT, report_of, resources  # noqa: E402

MOST_REGISTERS = 255


def resource_violations(found):
    for kernel, architecture, registers, stack, spills in found:
        where = f'{kernel} for {architecture}'
        if spills:
            yield f'{where} spills {spills} bytes'
        if stack:
            yield f'{where} keeps {stack} bytes on a stack in local memory'
        if registers > MOST_REGISTERS:
            yield f'{where} takes {registers} registers; allowed are {MOST_REGISTERS}'


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


def main():
    self_check()
    if len(sys.argv) < 2:
        print('skipped: this build has no CUDA parts (the self-check passed)')
        sys.exit(77)
    found = []
    for path in sys.argv[1:]:
        report = report_of(path)
        if report is None:
            sys.exit(f'{path}.ptxas is missing: build with the launcher that kernels/CMakeLists.txt sets')
        found += [k for k in report if RESIDENT in k[0]]
    violations = list(resource_violations(found))
    if not found:
        violations = [f'no kernel named {RESIDENT}... is in {" ".join(sys.argv[1:])}']
    most = max((k[2] for k in found), default=0)
    print('\n'.join(violations) if violations else f'{len(found)} kernels, counted by architecture, at most {most} registers')
    sys.exit(1 if violations else 0)


if __name__ == '__main__':
    main()
