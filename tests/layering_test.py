#!/usr/bin/env python3
"""Dependencies go downward only. Reads every #include of the tree (argument: its root) and prints each that breaks a rule.

include/fokker/           the standard library and public headers: no CUDA, no third-party and no internal header
include/fokker/diagnostics/  the same; only src/diagnostics/, tests, benchmarks and tools include it
include/fokker/formulas/  plain structs and formulas: of the standard library <cmath>, <cstddef>, <cstdint>, <type_traits>,
                          and formulas/ itself
kernels/                  the standard library, CUDA, formulas/ and kernels/ itself; device.hpp stands for the emulation too
src/core/                 public headers and itself; context.cpp, which makes the backends, also those; threads by parallel.hpp
src/io/                   core/
src/model/                core/, io/
src/operations/           core/, model/, io/
src/c/                    the public API
src/python/               the public API, c/
src/diagnostics/          core/, model/: a target of its own on the public API, core/'s headers and symmetric_eigen
src/cpu/                  nothing of src/cuda/ or kernels/, no CUDA header
src/cuda/                 nothing of src/cpu/; of kernels/ only launch.hpp, *_launch.hpp and *_layout.hpp
tools/                    only fokker/ headers of ours: nothing of kernels/, and of src/ io/json.hpp, which reads all JSON from outside
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
CUDA = re.compile(r'(^|/)(cuda|cublas|curand|cusolver|cub/|thrust/|nv/|cooperative_groups|mma\.h|device_launch_parameters)')
SOURCES = {'.hpp', '.cpp', '.cuh', '.cu', '.h'}
PLAIN = {'cmath', 'cstddef', 'cstdint', 'type_traits'}
# The rooms of src/, and which of the others each may include.
ROOMS = {'core': (), 'model': ('core', 'io'), 'io': ('core',), 'operations': ('core', 'model', 'io'),
         'diagnostics': ('core', 'model'), 'cpu': ('core', 'model', 'operations'), 'cuda': ('core', 'model', 'operations'), 'c': (), 'python': ('c',)}


def rule_broken(folder, path, header):
    """The rule that the include breaks, or None. folder: the file's place; header: what it names."""
    system = '/' not in header and '.' not in header  # <vector>, <cmath>: C++ headers have neither
    ours = header.startswith('fokker/')
    formulas = header.startswith('fokker/formulas/')
    cuda = bool(CUDA.search(header)) and not header.startswith('cuda/')
    top, _, room = folder.partition('/')
    if folder == 'include/fokker/formulas':
        if not (header in PLAIN or formulas):
            return 'formulas that host and device share include plain headers and each other only'
    elif header.startswith('fokker/diagnostics/') and top != 'tools' and room not in ('diagnostics', 'fokker/diagnostics'):
        return 'the library does not include its diagnostics, which are a target of their own'
    elif top == 'include':
        in_c = path.suffix == '.h' and header in ('stddef.h', 'stdint.h', 'dlpack/dlpack.h')
        if not (system or ours or in_c):
            return 'a public header includes the standard library and public headers only'
    elif top == 'kernels':
        sibling = (path.parent / header).is_file()
        twin = path.name == 'device.hpp' and header == 'emulation.hpp'
        if not (system or formulas or cuda or sibling or twin):
            return 'device code includes the standard library, CUDA, fokker/formulas/ and its own folder only'
    elif top == 'src':
        makes_backends = room == 'core' and path.name == 'context.cpp'
        if cuda and room != 'cuda' and not makes_backends:
            return 'only src/cuda includes CUDA'
        if header in ('omp.h', 'thread') and path.name != 'parallel.cpp':
            return 'only src/core/parallel.cpp makes threads'
        other = header.split('/')[0]
        if other == 'kernels' and not (room == 'cuda' and header.endswith(('launch.hpp', '_layout.hpp'))):
            return 'only src/cuda sees kernels/, and of them the launches and layouts'
        if other in ROOMS and other not in (room, *ROOMS[room]) and not (makes_backends and other in ('cpu', 'cuda')):
            return f'src/{room} includes ' + ', '.join((room, *ROOMS[room])) + ' only'
    elif top == 'tools' and header != 'io/json.hpp' and header.startswith(('src/', 'kernels/', *(f'{name}/' for name in ROOMS))):
        return 'tools use the public API only'
    return None


def violations(root):
    folders = ['include/fokker', 'include/fokker/diagnostics', 'include/fokker/formulas', 'kernels', 'tools']
    for path in sorted((root / 'src').iterdir()):
        if path.is_dir() and path.name not in ROOMS:
            yield f'src/{path.name} is no room: those are {", ".join(ROOMS)}'
        elif path.suffix in SOURCES:
            yield f'{path.relative_to(root)} lies in no room of src/'
    for folder in folders + [f'src/{room}' for room in ROOMS]:
        for path in sorted((root / folder).glob('*')):
            if path.suffix not in SOURCES:
                continue
            for _, header in INCLUDE.findall(path.read_text(encoding='utf-8')):
                rule = rule_broken(folder, path, header)
                if rule:
                    yield f'{path.relative_to(root)} includes {header}: {rule}'


def self_check(root):
    """The rules find what they are there to find."""
    broken = [('include/fokker', 'cuda_runtime.h'), ('include/fokker', 'cpu/backend.hpp'),
              ('include/fokker', 'core/operations.hpp'), ('include/fokker', 'fmt/format.h'),
              ('include/fokker', 'fokker/diagnostics/energy.hpp'), ('src/operations', 'fokker/diagnostics/energy.hpp'),
              ('include/fokker/formulas', 'string'), ('include/fokker/formulas', 'fokker/trainer.hpp'),
              ('include/fokker/formulas', 'fokker/sde.hpp'),
              ('kernels', 'core/operations.hpp'), ('kernels', 'fokker/data.hpp'), ('kernels', 'fokker/sde.hpp'),
              ('kernels', 'cpu/random.hpp'), ('kernels', 'emulation.hpp'), ('src/core', 'cpu/random.hpp'), ('src/core', 'operations/sampler_stages.hpp'),
              ('src/model', 'cuda_runtime_api.h'), ('src/operations', 'cuda/status.hpp'), ('src/operations', 'omp.h'),
              ('src/diagnostics', 'operations/sampler_stages.hpp'), ('src/diagnostics', 'cuda_runtime_api.h'),
              ('src/cpu', 'omp.h'), ('src/cpu', 'thread'), ('src/cpu', 'cuda_runtime_api.h'),
              ('src/cpu', 'cuda/status.hpp'), ('src/cpu', 'kernels/launch.hpp'),
              ('src/python', 'core/operations.hpp'), ('src/python', 'cuda_runtime_api.h'), ('src/c', 'python/bindings.hpp'),
              ('src/cuda', 'cpu/random.hpp'), ('src/cuda', 'kernels/mlp.hpp'), ('src/cuda', 'kernels/device.hpp'),
              ('tools', 'cpu/backend.hpp'), ('tools', 'core/operations.hpp'), ('tools', 'io/file.hpp')]
    allowed = [('include/fokker', 'vector'), ('include/fokker', 'fokker/view.hpp'),
               ('include/fokker/diagnostics', 'fokker/diagnostics/energy.hpp'), ('tools', 'fokker/diagnostics/energy.hpp'),
               ('src/diagnostics', 'fokker/diagnostics/energy.hpp'),
               ('include/fokker/formulas', 'fokker/formulas/philox.hpp'), ('include/fokker/formulas', 'cmath'),
               ('kernels', 'cuda_fp16.h'), ('kernels', 'fokker/formulas/philox.hpp'),
               ('src/operations', 'core/operations.hpp'), ('src/core', 'fmt/format.h'), ('src/cpu', 'fokker/model.hpp'),
               ('src/cuda', 'kernels/launch.hpp'), ('src/cuda', 'kernels/shared_layout.hpp'), ('src/python', 'c/tensors.hpp'),
               ('src/python', 'nanobind/nanobind.h'), ('src/python', 'fokker/fokker.hpp'),
               ('src/cuda', 'cuda_runtime_api.h'), ('src/cuda', 'operations/sampler_stages.hpp'), ('tools', 'CLI/CLI.hpp'),
               ('tools', 'io/json.hpp')]
    nowhere = root / 'nowhere' / 'file.hpp'
    return ([f'self-check: {h} in {f} was let through' for f, h in broken if not rule_broken(f, nowhere, h)] +
            [f'self-check: {h} in {f} was refused' for f, h in allowed if rule_broken(f, nowhere, h)] +
            [f'self-check: {h} in src/core/context.cpp was refused' for h in ('cpu/backend.hpp', 'cuda/status.hpp')
             if rule_broken('src/core', root / 'src' / 'core' / 'context.cpp', h)])


def main():
    root = pathlib.Path(sys.argv[1])
    if not (root / 'include' / 'fokker').is_dir():
        sys.exit(f'{root} is not the root of the tree')
    found = self_check(root) + list(violations(root))
    print('\n'.join(found))
    sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()
