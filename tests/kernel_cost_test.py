#!/usr/bin/env python3
"""The machine code of the kernels, on every architecture, disassembled once for two checks.

usage: kernel_cost_test.py [FILE OBJECT...]

Resident kernels of the precisions split and half multiply on tensor cores (HMMA), those of fp32 do not. And what
tools/kernel_cost counts of the main kernels is within 3 % of what FILE, bench/results/kernel_cost.json, holds, where the
compiler is of the same version: a change that costs instructions is seen here, and one that is meant renews the file.

Exits with 77, which ctest counts as skipped, in a build without CUDA, without cuobjdump and nvdisasm, and where another
version of nvcc built the objects. Each check is first shown a violation and has to find it.
"""
import importlib.machinery
import importlib.util
import json
import pathlib
import sys

TOOLS = pathlib.Path(__file__).resolve().parent.parent / 'tools'
sys.path.insert(0, str(TOOLS))
import kernel_code  # noqa: E402
import kernel_trace  # noqa: E402

TOLERANCE = 0.03
FEW = 100  # counts below are not held: one instruction would be more than the tolerance


def load_tool():
    loader = importlib.machinery.SourceFileLoader('kernel_cost', str(TOOLS / 'kernel_cost'))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('kernel_cost', loader))
    sys.modules['kernel_cost'] = module
    loader.exec_module(module)
    return module


cost = load_tool()


def skip(why):
    print(f'skipped: {why}')
    sys.exit(77)


def instruction_violations(found):
    """found: {(kernel, architecture): whether it multiplies on tensor cores}."""
    for (kernel, architecture), tensor_cores in found.items():
        precisions = {int(m) for m in kernel_code.PRECISION.findall(kernel)}
        if len(precisions) != 1 or max(precisions) >= len(kernel_code.PRECISIONS):
            yield f'{kernel} names no precision, so it is not known which instructions it should have'
            continue
        precision = kernel_code.PRECISIONS[precisions.pop()]
        if tensor_cores != (precision != 'fp32'):
            has = 'has' if tensor_cores else 'has no'
            yield f'{kernel} for {architecture} is of precision {precision} and {has} tensor-core instructions'


def counts_of(row):
    """{what: count} of a row."""
    counts = {'instructions of the code': row['instructions'], 'bytes of code': row['code_bytes']}
    counts.update((f'{pipe} instructions of the code', n) for pipe, n in row['static'].items())
    for case in row.get('cases', ()):
        of = f'of a {case["of"]} ({case["case"]})'
        if 'not_derived' in case:
            continue
        counts[f'instructions {of}'] = case['instructions']
        counts.update((f'{pipe} instructions {of}', n) for pipe, n in case['pipes'].items())
    return counts


def count_violations(before, now):
    """Counts of `now` that are not those of `before`, both rows of tools/kernel_cost."""
    before, now = ({(row['kernel'], row['architecture']): counts_of(row) for row in rows} for rows in (before, now))
    for kernel, architecture in sorted(before.keys() ^ now.keys()):
        there = 'the file' if (kernel, architecture) in before else 'the build'
        yield f'{kernel} for {architecture} is only in {there}'
    for kernel, architecture in sorted(before.keys() & now.keys()):
        old, new = before[kernel, architecture], now[kernel, architecture]
        for what in [*old, *(w for w in new if w not in old)]:
            a, b = old.get(what, 0), new.get(what, 0)
            if max(a, b) >= FEW and abs(b - a) > TOLERANCE * a:
                yield f'{kernel} for {architecture}: {a} {what} before, {b} now'


CODE = '''
\t.target\tsm_90a
\t.section\t.text._Z15resident_sampleILNS_9PrecisionE{precision}ELi80ELNS0_4WorkE3ELb0EEvPf,"ax",@progbits
	.sectioninfo	@"SHI_REGISTERS=40"
_Z15resident_sample:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R2, RZ ;
        /*0020*/                   IMAD R4, R0, 0x8, RZ ;
.L_x_0:
        /*0030*/                   {instruction} R12, R4, R12, R8 ;
        /*0040*/                   LDS.64 R6, [R4+0x10] ;
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/                   ISETP.GE.AND P0, PT, R2, c[0x0][0x210], PT ;
        /*0070*/               @!P0 BRA `(.L_x_0) ;
        /*0080*/                   ISETP.GT.U32.AND P1, PT, R0, 0xf, PT ;
        /*0090*/                   BSSY B0, `(.L_x_1) ;
        /*00a0*/               @P1 BRA `(.L_x_1) ;
        /*00b0*/                   STS [R4], R6 ;
.L_x_1:
        /*00c0*/                   BSYNC B0 ;
        /*00d0*/                   EXIT ;
'''


def self_check():
    def read(precision, instruction):
        lines = CODE.format(precision=precision, instruction=instruction).splitlines(keepends=True)
        return next(iter(kernel_code.kernels(lines, lambda name: True)))

    for precision, instruction, right in ((0, 'HMMA.16816.F32', True), (2, 'HMMA.16816.F32', True), (1, 'FFMA', True),
                                          (0, 'FFMA', False), (2, 'FFMA', False), (1, 'HMMA.16816.F32', False)):
        kernel = read(precision, instruction)
        found = list(instruction_violations({(kernel.name, kernel.architecture): kernel.tensor_cores}))
        assert bool(found) != right, (precision, instruction, found)
    assert list(instruction_violations({('_Z13resident_testv', 'sm_80'): False}))

    # A loop of 7 rounds, whose LDS.64 reads 256 bytes in a row in 2 wavefronts; 16 lanes write 8 bytes apart, without a conflict.
    kernel = read(0, 'HMMA.16816.F32')
    instructions, labels = kernel_trace.parse(kernel.lines)
    trace = kernel_trace.Trace(instructions, labels, kernel_trace.Constants('sm_90a', bytes([7, 0, 0, 0]), 32, 1)).run()
    assert trace.executed == [1, 1, 1, 7, 7, 7, 7, 7, 1, 1, 1, 1, 1, 1], trace.executed
    assert {k: tuple(v) for k, v in trace.wavefronts.items()} == {4: (14, 7), 11: (1, 1)}, dict(trace.wavefronts)
    assert not trace.assumed and cost.loops_of(instructions, labels) == [(3, 7, 0)]

    row = cost.count(kernel, (instructions, labels))
    assert row['static'] == {'tensor': 1, 'integer': 4, 'move': 2, 'shared': 2, 'control': 5}, row['static']
    case = {'case': 'heun', 'of': 'tile and step', 'instructions': 4800, 'pipes': {'tensor': 600, 'move': 90}}
    row = dict(row, instructions=1000, code_bytes=16000, static={'tensor': 300, 'float': 600}, cases=[case])
    assert not list(count_violations([row], [row]))
    for changed, said in (
            (dict(row, static={'tensor': 300, 'float': 620}), '600 float instructions of the code before, 620 now'),
            (dict(row, instructions=969), '1000 instructions of the code before, 969 now'),
            (dict(row, static={'tensor': 300}), '600 float instructions of the code before, 0 now'),
            (dict(row, cases=[dict(case, instructions=4950)]), '4800 instructions of a tile and step (heun) before, 4950 now'),
            (dict(row, cases=[dict(case, pipes={'tensor': 600, 'move': 200})]), '90 move instructions of a tile and step'),
            (dict(row, cases=[]), 'before, 0 now'), (dict(row, architecture='sm_80'), 'only in the file')):
        found = list(count_violations([row], [changed]))
        assert any(said in violation for violation in found), (found, said)
    for few in (dict(row, instructions=1029), dict(row, cases=[dict(case, pipes={'tensor': 600, 'move': 99})])):
        assert not list(count_violations([row], [few]))


def main():
    self_check()
    if len(sys.argv) < 3:
        skip('this build has no CUDA parts (the self-check passed)')
    held = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding='utf-8'))

    def wanted(name):
        title = cost.title_of(name)
        return title is not None and cost.is_default(title)

    def read(kernel):
        return kernel

    try:
        # All that is resident, and of the wide way what the file holds.
        resident_objects = [p for p in sys.argv[2:] if kernel_code.RESIDENT.encode() in pathlib.Path(p).read_bytes()]
        others = [p for p in sys.argv[2:] if p not in resident_objects]
        found = kernel_code.disassemble(resident_objects, [kernel_code.RESIDENT], wanted, read)
        found += kernel_code.disassemble(others, None, wanted, read)
    except kernel_code.Missing as missing:
        skip(missing)
    resident = {(k.name, k.architecture): k.tensor_cores for k in found if kernel_code.RESIDENT in k.name}
    violations = list(instruction_violations(resident))
    if not resident:
        violations.append(f'no kernel named {kernel_code.RESIDENT}... is in {" ".join(sys.argv[2:])}')
    counted = [k for k in found if k.lines]
    compilers = {k.compiler for k in counted}, {row['compiler'] for row in held}
    same = compilers[0] == compilers[1]
    if same:
        # Those of the architectures that were built.
        built = {k.architecture for k in counted}
        rows = cost.rows_of(counted, cost.parser().parse_args([]))
        violations += count_violations([row for row in held if row['architecture'] in built], rows)
    if violations:
        print('\n'.join(violations))
        print('where the change is meant: tools/kernel_cost --build BUILD --json bench/results/kernel_cost.json')
        sys.exit(1)
    print(f'{len(resident)} resident kernels, counted by architecture, {sum(resident.values())} of them with tensor-core '
          'instructions')
    if not same:
        built, of_file = (' and '.join(sorted(c or 'an unknown version' for c in versions)) for versions in compilers)
        skip(f'counts of nvcc {built} are not compared with those of {of_file}')
    print(f'counts of {len(counted)} kernels as in {sys.argv[1]}')


if __name__ == '__main__':
    main()
