#!/usr/bin/env bash
# The measured works in this library, PyTorch (eager and compiled) and JAX, in turn on this machine's CPU or GPU.
# usage: bench/peers/run.sh [--build DIR [--no-build]] [--venv DIR] [compare.py's options, among them --device --name --rounds --small]
#        bench/peers/run.sh --quality [--build DIR [--no-build]] [--venv DIR] [quality.py's options: how good the trained models are, not how fast]
#        bench/peers/run.sh --solvers [--build DIR [--no-build]] [--venv DIR] [solvers.py's options: adaptive solvers beside diffrax and SciPy]
# PyTorch and JAX, and with --solvers diffrax and SciPy, come from PyPI, in the versions of tools/constraints.txt, into a virtual environment of their own (some gigabytes: PyTorch's wheel brings CUDA along).
# The result goes to bench/results/NAME.json. --no-build takes the benchmark, or with --quality and --solvers the command line, that DIR holds as it is. torch.compile needs g++ and Python's headers (Debian: python3-dev, python3-venv).
set -euo pipefail
cd "$(dirname "$0")/../.."

# refuse STATUS SENTENCE
refuse() {
  echo "run.sh: $2" >&2
  exit "$1"
}
if ! command -v python3 > /dev/null; then refuse 1 'python3 is needed (Debian: apt-get install python3 python3-venv)'; fi

build=build compile=yes venv=build/peers-venv bench=fokker_bench script=compare.py help= table=
jax='jax[cpu]' usable='import torch, jax, numpy, safetensors'
rest=() more=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) help=yes ;;
    --quality) script=quality.py ;;
    --solvers) script=solvers.py usable+=', diffrax, scipy' more=(diffrax scipy) ;;
    --build | --venv)
      if [ -z "${2:-}" ]; then refuse 2 "$1 needs a folder"; fi
      if [ "$1" = --build ]; then build=$2; else venv=$2; fi
      shift ;;
    --no-build) compile=no ;;
    --table) table=yes rest+=("$1") ;;
    *)
      if [ "$1" = --device=cuda ] || [ "$1 ${2:-}" = '--device cuda' ]; then
        bench=fokker_gpu_bench jax='jax[cuda13]' usable+='; assert torch.cuda.is_available() and jax.devices("cuda")'
      fi
      rest+=("$1") ;;
  esac
  shift
done

if [ -n "$help" ]; then
  sed -n '2,7s/^# //p' bench/peers/run.sh
  exec python3 "bench/peers/$script" --help
fi
python3 "bench/peers/$script" "${rest[@]}" # checks the arguments and does nothing, but for --table
if [ -n "$table" ]; then exit; fi
if [ ! -x "$venv/bin/python" ] && ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
  refuse 1 "Python's venv module is needed to install PyTorch and JAX (Debian: apt-get install python3-venv)"
fi
if ! command -v git > /dev/null; then
  echo 'run.sh: without git the result will not name its commit (Debian: apt-get install git)' >&2
fi
if [ "$compile" = yes ] && [ ! -f "$build/CMakeCache.txt" ]; then
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFOKKER_BUILD_TESTS=OFF -DFOKKER_BUILD_BENCH=ON
fi
target=$bench program=(--bench "$build/bench/$bench")
if [ "$script" != compare.py ]; then target=fokker_tool program=(--fokker "$build/tools/fokker"); fi
if [ "$compile" = yes ]; then cmake --build "$build" --target "$target" --parallel "$(nproc)"; fi

if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
if ! "$venv/bin/python" -c "$usable" 2> /dev/null; then
  "$venv/bin/python" -m pip install --quiet --upgrade -c tools/constraints.txt torch "$jax" numpy safetensors "${more[@]}"
fi
exec "$venv/bin/python" "bench/peers/$script" "${program[@]}" "${rest[@]}"
