#!/usr/bin/env bash
# The measured works in this library, PyTorch (eager and compiled) and JAX, in turn on this machine's CPU.
# usage: bench/peers/run.sh [--build DIR] [--venv DIR] [compare.py's options, among them --name --threads --rounds --small]
# PyTorch and JAX come from PyPI into a virtual environment of their own (some gigabytes: PyTorch's wheel brings CUDA along).
# The result goes to bench/results/NAME.json. torch.compile needs g++ and Python's headers (Debian: python3-dev, python3-venv).
set -euo pipefail
cd "$(dirname "$0")/../.."

build=build venv=build/peers-venv
rest=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,5s/^# //p' "$0"; exec python3 bench/peers/compare.py --help ;;
    --build) build=${2:?--build needs a folder}; shift ;;
    --venv) venv=${2:?--venv needs a folder}; shift ;;
    *) rest+=("$1") ;;
  esac
  shift
done

if [ ! -f "$build/CMakeCache.txt" ]; then
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFOKKER_BUILD_TESTS=OFF -DFOKKER_BUILD_BENCH=ON
fi
cmake --build "$build" --target fokker_bench --parallel "$(nproc)"

if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
if ! "$venv/bin/python" -c 'import torch, jax, numpy, safetensors' 2> /dev/null; then
  "$venv/bin/python" -m pip install --quiet --upgrade torch 'jax[cpu]' numpy safetensors
fi
exec "$venv/bin/python" bench/peers/compare.py --bench "$build/bench/fokker_bench" "${rest[@]}"
