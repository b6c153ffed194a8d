"""What nvcc made of the kernels: ptxas's reports beside the objects, and the machine code in them.

cuobjdump and nvdisasm come from the CUDA toolkit or from the PyPI packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm. For tools/kernel_cost and the tests kernel_resources and kernel_cost; Python's standard library alone.
"""
import collections
import concurrent.futures
import glob
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

# Kernels of resident networks, whose names hold this.
RESIDENT = 'resident_'
# A template argument fokker::Precision in a mangled name; the enumerators have the order of formulas/precision.hpp.
PRECISION = re.compile(r'9PrecisionE(\d)E')
PRECISIONS = ('split', 'fp32', 'half')

Kernel = collections.namedtuple('Kernel', 'name architecture object compiler tensor_cores lines')


class Missing(Exception):
    """A program that is not on this machine."""


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


def report_of(path):
    """ptxas's report on an object (kernels/ptxas_report.sh), or None."""
    report = pathlib.Path(f'{path}.ptxas')
    return resources(report.read_text(encoding='utf-8')) if report.is_file() else None


def tool_folder(name):
    """Where the program is: PATH, the CUDA toolkit, or the wheels that this Python and those in PATH see."""
    places = os.environ.get('PATH', '').split(os.pathsep) + ['/usr/local/cuda/bin']
    places += [p for site in sys.path for p in sorted(glob.glob(os.path.join(site, 'nvidia', 'cu*', 'bin')), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join(places))
    return os.path.dirname(found) if found else None


def programs():
    """{name: path} of cuobjdump and nvdisasm."""
    found = {}
    for name in ('cuobjdump', 'nvdisasm'):
        folder = tool_folder(name)
        if folder is None:
            raise Missing(f'{name} is not here (python3 -m pip install -c tools/constraints.txt nvidia-cuda-{name})')
        found[name] = os.path.join(folder, name)
    return found


def kernels(lines, keep, path='', compiler=''):
    """The kernels of nvdisasm's output, line by line, with the lines of those that `keep` names. Functions that a kernel
    calls stand in its section, behind it."""
    architecture, name, kept, tensor_cores = '', None, None, False
    for line in lines:  # millions: no regular expressions
        if ' HMMA' in line:
            tensor_cores = True
        elif line.startswith(('\t.section\t', '\t.target\t')):
            if name:
                yield Kernel(name, architecture, path, compiler, tensor_cores, kept or [])
                name = None
            if line.startswith('\t.target'):
                architecture = line.split()[-1]
                continue
            section = line.split()[1].split(',')[0]
            if section.startswith('.text.'):
                name, tensor_cores = section[len('.text.'):], False
                kept = [] if keep(name) else None
        if name and kept is not None:
            kept.append(line)
    if name:
        yield Kernel(name, architecture, path, compiler, tensor_cores, kept or [])


def compiler_of(cubin):
    found = re.search(rb'Cuda compilation tools, release [\d.]+, (V[\d.]+)', pathlib.Path(cubin).read_bytes())
    return found[1].decode() if found else ''


def functions(cubin):
    """{name: its index in the symbol table} of the functions of an ELF file of 64 bits."""
    data = pathlib.Path(cubin).read_bytes()
    place, = struct.unpack_from('<Q', data, 0x28)
    size, count = struct.unpack_from('<HH', data, 0x3A)
    sections = [struct.unpack_from('<IIQQQQIIQQ', data, place + k * size) for k in range(count)]
    found = {}
    for _, kind, _, _, start, length, link, _, _, entry in sections:
        if kind != 2:  # a symbol table
            continue
        names = sections[link][4]
        for k in range(length // entry):
            name, info = struct.unpack_from('<IB', data, start + k * entry)
            if info & 15 == 2:  # a function
                found[data[names + name:data.index(b'\0', names + name)].decode()] = k
    return found


def disassemble(objects, names, keep, work, architectures=None):
    """work() of every kernel whose name holds one of `names`, of all objects; lines are those of the kernels that
    keep(name) says. names = None: of the latter alone, which is quicker. Several processors work on it."""
    tools = programs()
    found = []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        def extract(number_and_path):
            number, path = number_and_path
            place = os.path.join(folder, str(number))
            os.mkdir(place)
            done = subprocess.run([tools['cuobjdump'], '-xelf', 'all', os.path.abspath(path)], cwd=place, text=True,
                                  capture_output=True, check=False)
            if done.returncode != 0:
                raise ValueError(f'cuobjdump -xelf all {path} ended with exit status {done.returncode}: {done.stderr}')
            return [(path, cubin) for cubin in sorted(glob.glob(os.path.join(place, '*.cubin')))]

        def read(path_and_cubin):
            path, cubin = path_and_cubin
            command = [tools['nvdisasm'], '-c', cubin]
            if names is None:
                chosen = [index for name, index in functions(cubin).items() if keep(name)]
                if not chosen:
                    return []
                command += ['-fun', ','.join(map(str, chosen))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
                results = [work(kernel) for kernel in kernels(dump.stdout, keep, path, compiler_of(cubin))
                           if any(name in kernel.name for name in names or [''])]
            if dump.returncode != 0:
                raise ValueError(f'nvdisasm {cubin} of {path} ended with exit status {dump.returncode}')
            return results

        wanted = []
        for path in objects:
            content = pathlib.Path(path).read_bytes()
            if names is None or any(name.encode() in content for name in names):
                wanted.append(path)
        cubins = [c for of_object in pool.map(extract, enumerate(wanted)) for c in of_object]
        if architectures:
            cubins = [c for c in cubins if any(f'.{a}.' in os.path.basename(c[1]) for a in architectures)]
        cubins.sort(key=lambda c: -os.path.getsize(c[1]))
        for results in pool.map(read, cubins):
            found += results
    return found
