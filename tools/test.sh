#!/usr/bin/env bash
# Installs what is missing (Debian packages, and some from PyPI into build/python), builds everything into build/ and runs
# the tests.
# usage: tools/test.sh [--slow] [--no-install] [--build DIR] [--help]
#   --slow        also the tests labelled slow: published checkpoints with 200 000 samples, the reproduction's quick
#                 preset, kills, failing calls, and all tests of the emulated device by racecheck and in other orders
#   --no-install  trust that the packages are there
#   --build DIR   build into DIR instead of build/; an existing folder keeps its settings
# FOKKER_PAPER_DATA names the folder with the paper's published checkpoints and histograms; tests that need it are
# skipped without it. Exit codes: 0 all tests passed, 1 something failed, 2 wrong usage.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

build=build install=yes filter=(-LE '^slow$')
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --slow) filter=() ;;
    --no-install) install=no ;;
    --build)
      [ $# -ge 2 ] || { echo "test.sh: --build needs a folder" >&2; exit 2; }
      build=$(cd "$called_from" && realpath -m -- "$2"); shift ;;
    *) echo "test.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
  shift
done

if [ -n "${FOKKER_PAPER_DATA:-}" ]; then
  # Tests run in other folders.
  FOKKER_PAPER_DATA=$(cd "$called_from" && realpath -e -- "$FOKKER_PAPER_DATA") || {
    echo "test.sh: FOKKER_PAPER_DATA names no folder" >&2; exit 2; }
  export FOKKER_PAPER_DATA
fi

# A Python with the packages that tests take from PyPI, since Debian has none, or not these: safetensors_package exchanges files
# with safetensors; the Python package is built by nanobind and scikit-build-core, and tested against PyTorch and JAX, some
# gigabytes, without which its tests of them skip; where nvcc is, kernel_cost reads machine code by cuobjdump.
add_python() {
  local python=$build/python/bin/python3
  take() {
    "$python" -m pip install --quiet --disable-pip-version-check -c tools/constraints.txt "$@" > /dev/null 2>&1
  }
  # add WHAT_SKIPS PACKAGE...
  add() {
    local skips=$1
    shift
    if take --no-index "$@" || take --retries 1 --timeout 10 "$@"; then return; fi
    echo "test.sh: pip could not install $* into $build/python; $skips"
  }
  if ! [ -x "$python" ] && ! python3 -m venv "$build/python" > /dev/null 2>&1; then
    rm -rf "$build/python"
    echo "test.sh: python3 makes no virtual environment; tests that need packages from PyPI say that they skip"
    return
  fi
  add 'tests that need them say that they skip' numpy safetensors
  if command -v nvcc > /dev/null; then
    add 'tests that need them say that they skip' nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
  fi
  add 'the Python package is not built' nanobind scikit-build-core pytest
  for package in matplotlib torch jax; do add 'tests that need it say that they skip' "$package"; done
}
if [ "$install" = yes ]; then
  tools/install_dependencies.sh
  tools/install_dependencies.sh mpi || echo "test.sh: without MPI tests of several ranks say that they skip"
  add_python
fi

# Only the first configuration chooses the generator and the type; later ones keep what the folder has, and add the parts.
# Warnings are errors here, and build/ has CUDA wherever it can; a demonstration may have made the folder without either.
fresh=()
[ "$build" != build ] || fresh=(-DFOKKER_CUDA=AUTO)
[ -f "$build/CMakeCache.txt" ] || fresh+=(-G Ninja -DCMAKE_BUILD_TYPE=Release)
# The Python package is built where its Python has what that takes.
if "$build/python/bin/python3" -c 'import nanobind, numpy, pytest' 2> /dev/null; then fresh+=(-DFOKKER_BUILD_PYTHON=ON); fi
cmake -S . -B "$build" "${fresh[@]}" -DFOKKER_BUILD_TESTS=ON -DFOKKER_BUILD_TOOLS=ON -DFOKKER_BUILD_BENCH=ON \
  -DFOKKER_WERROR=ON
type=$(sed -n 's/^CMAKE_BUILD_TYPE:[A-Z]*=//p' "$build/CMakeCache.txt")
[ "$type" = Release ] || echo "test.sh: $build/ was configured as '$type' before, and stays so"
cmake --build "$build" --parallel "$(nproc)"

log=$build/test.log
status=0
ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "${filter[@]}" 2>&1 | tee "$log" || status=1

# ctest's list of skipped tests, as suites with counts.
skipped=$(sed -n 's/^[[:space:]]*[0-9]* - \([^ ]*\).* (Skipped)$/\1/p' "$log" | sed 's/^\([^.]*\).*/\1/' | sort | uniq -c |
  sed 's/^ *\([0-9]*\) \(.*\)/\2 (\1)/' | paste -sd ' ')
if [ -z "${FOKKER_PAPER_DATA:-}" ]; then
  echo "FOKKER_PAPER_DATA is not set, so tests against the paper's published files were skipped: ${skipped:-none}"
elif [ -n "$skipped" ]; then
  echo "Skipped: $skipped"
fi
grep -E 'tests passed, [0-9]+ tests failed' "$log" || { echo "test.sh: ctest ran no test" >&2; status=1; }
exit $status
