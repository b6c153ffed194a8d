#!/usr/bin/env python3
"""Dependencies go downward only. Reads every #include of the tree (argument: its root) and prints each that breaks a rule.

include/  only the standard library and fokker/ headers: no CUDA, no third-party and no internal header
kernels/  only the standard library, CUDA, fokker/ headers and kernels/ itself: nothing of src/; device.hpp stands for
          the emulation too
src/      (its own files) nothing of a backend, except in context.cpp, which makes it; threads by parallel.hpp
src/cpu/  nothing of src/cuda/ or kernels/, no CUDA header
src/cuda/ nothing of src/cpu/; of kernels/ only the launches, launch.hpp and *_launch.hpp
tools/    only fokker/ headers of ours: nothing of src/ or kernels/
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
CUDA = re.compile(r'(^|/)(cuda|cublas|curand|cusolver|cub/|thrust/|nv/|cooperative_groups|mma\.h|device_launch_parameters)')
BACKENDS = ('cpu/', 'cuda/', 'kernels/')
SOURCES = {'.hpp', '.cpp', '.cuh', '.cu', '.h'}


def rule_broken(folder, path, header):
    """The rule that the include breaks, or None. folder: the file's place; header: what it names."""
    system = '/' not in header and '.' not in header  # <vector>, <cmath>: C++ headers have neither
    ours = header.startswith('fokker/')
    cuda = bool(CUDA.search(header)) and not header.startswith('cuda/')
    if folder == 'include' and not (system or ours):
        return 'a public header includes the standard library and public headers only'
    if folder == 'kernels':
        sibling = (path.parent / header).is_file()
        twin = path.name == 'device.hpp' and header == 'emulation.hpp'
        if not (system or ours or cuda or sibling or twin):
            return 'device code includes the standard library, CUDA, public headers and its own folder only'
    if folder == 'src' and path.name != 'context.cpp' and (cuda or header.startswith(BACKENDS)):
        return 'only src/context.cpp includes a backend'
    if folder == 'src' and path.name != 'parallel.hpp' and header == 'omp.h':
        return 'only src/parallel.hpp makes threads'
    if folder == 'src/cpu' and (cuda or header.startswith(('cuda/', 'kernels/'))):
        return 'the CPU backend knows nothing of CUDA'
    if folder == 'src/cuda':
        if header.startswith('cpu/'):
            return 'the CUDA backend knows nothing of the CPU backend'
        if header.startswith('kernels/') and not header.endswith('launch.hpp'):
            return 'host code sees the launches of kernels/ only'
    if folder == 'tools' and header.startswith(('src/', 'cpu/', 'cuda/', 'kernels/', 'operations.hpp', 'file.hpp')):
        return 'tools use the public API only'
    return None


def violations(root):
    for folder in ('include', 'kernels', 'src', 'src/cpu', 'src/cuda', 'tools'):
        files = (root / folder).glob('*') if folder == 'src' else (root / folder).rglob('*')
        for path in sorted(files):
            if path.suffix not in SOURCES:
                continue
            for _, header in INCLUDE.findall(path.read_text(encoding='utf-8')):
                rule = rule_broken(folder, path, header)
                if rule:
                    yield f'{path.relative_to(root)} includes {header}: {rule}'


def self_check(root):
    """The rules find what they are there to find."""
    broken = [('include', 'cuda_runtime.h'), ('include', 'cpu/backend.hpp'), ('include', 'operations.hpp'),
              ('include', 'fmt/format.h'), ('kernels', 'operations.hpp'), ('kernels', 'train_schedule.hpp'), ('kernels', 'cpu/random.hpp'), ('kernels', 'emulation.hpp'),
              ('src', 'cpu/random.hpp'), ('src', 'cuda/status.hpp'), ('src', 'cuda_runtime_api.h'), ('src', 'omp.h'),
              ('src/cpu', 'cuda_runtime_api.h'), ('src/cpu', 'cuda/status.hpp'),
              ('src/cuda', 'cpu/random.hpp'), ('src/cuda', 'kernels/mlp.hpp'), ('src/cuda', 'kernels/device.hpp'), ('tools', 'cpu/backend.hpp')]
    allowed = [('include', 'vector'), ('include', 'fokker/view.hpp'), ('kernels', 'cuda_fp16.h'),
               ('kernels', 'fokker/philox.hpp'), ('src', 'operations.hpp'), ('src', 'fmt/format.h'),
               ('src/cpu', 'fokker/model.hpp'), ('src/cpu', 'omp.h'), ('src/cuda', 'kernels/launch.hpp'),
               ('src/cuda', 'kernels/wide_launch.hpp'), ('src/cuda', 'cuda_runtime_api.h'), ('src/cuda', 'omp.h'), ('tools', 'CLI/CLI.hpp')]
    nowhere = root / 'nowhere' / 'file.hpp'
    return ([f'self-check: {h} in {f} was let through' for f, h in broken if not rule_broken(f, nowhere, h)] +
            [f'self-check: {h} in {f} was refused' for f, h in allowed if rule_broken(f, nowhere, h)] +
            [f'self-check: {h} in src/context.cpp was refused' for h in ('cpu/backend.hpp', 'cuda/status.hpp')
             if rule_broken('src', root / 'src' / 'context.cpp', h)])


def main():
    root = pathlib.Path(sys.argv[1])
    if not (root / 'include' / 'fokker').is_dir():
        sys.exit(f'{root} is not the root of the tree')
    found = self_check(root) + list(violations(root))
    print('\n'.join(found))
    sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()
