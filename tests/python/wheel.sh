#!/usr/bin/env bash
# Builds a wheel, installs it into a virtual environment that has NumPy and nothing else, and runs the example of README.md
# there. library: a wheel on the library that BUILD_DIR has compiled; all: `pip wheel .`, which compiles it too.
# usage: wheel.sh (library|all) PYTHON BUILD_DIR SOURCE_DIR WORK_DIR
set -euo pipefail
way=$1 python=$2 build=$3 source=$4 work=$5
fail() { echo "wheel.sh: $1" >&2; exit 1; }
if ! "$python" -c 'import nanobind, numpy, pip, scikit_build_core' 2> /dev/null; then
  echo "wheel.sh: $python lacks nanobind, numpy, pip or scikit-build-core"
  exit 77
fi
rm -rf "$work"
mkdir -p "$work"

options=()
if [ "$way" = library ]; then
  cmake --install "$build" --prefix "$work/library" > "$work/install.log"
  options+=(-C cmake.source-dir=src/python -C "cmake.define.CMAKE_PREFIX_PATH=$work/library")
fi
PATH=$(dirname "$python"):$PATH "$python" -m pip wheel "$source" --no-deps --no-build-isolation --no-index --wheel-dir "$work" \
  -C build-dir="$work/build" "${options[@]}" > "$work/wheel.log" 2>&1 || { cat "$work/wheel.log"; fail 'pip makes no wheel'; }
wheels=("$work"/fokker-*.whl)
[ ${#wheels[@]} -eq 1 ] && [ -f "${wheels[0]}" ] || fail "pip made ${#wheels[@]} wheels"

# NumPy is that of $python, so that nothing is downloaded.
"$python" -m venv --without-pip "$work/bare"
folder=$("$work/bare/bin/python3" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$python" -m pip --python "$work/bare/bin/python3" install --no-deps --no-index --quiet --disable-pip-version-check "${wheels[0]}"
for part in "$("$python" -c 'import numpy, os; print(os.path.dirname(numpy.__path__[0]))')"/numpy*; do ln -s "$part" "$folder"; done

cd "$work"
"$work/bare/bin/python3" "$source/src/python/examples/readme.py" | tee "$work/printed"
grep -q '^W2² between the two samplers: 0\.[0-9]*, noise floor 0\.[0-9]*$' "$work/printed" || fail 'the example printed something else'
[ -f circles2.safetensors ] || fail 'the example left no model'
"$work/bare/bin/python3" - "$build/CMakeCache.txt" << 'END'
import importlib.metadata, sys
import fokker
version = next(line.partition('=')[2].strip() for line in open(sys.argv[1]) if line.startswith('CMAKE_PROJECT_VERSION:'))
assert fokker.__version__ == importlib.metadata.version('fokker') == version, (fokker.__version__, version)
assert 'build' not in fokker.__file__.replace(sys.prefix, ''), fokker.__file__
for name in ('autograd', 'plot'):
    try:
        getattr(fokker, name)
        print(name, 'needs no package')
    except ImportError as error:
        print(error)
END
