#!/usr/bin/env bash
# Installs what is missing, builds, trains two small networks on a planar data set, one of them with the Fokker–Planck
# residual in its loss, samples each by the reverse SDE and by the probability-flow ODE, prints the distances and writes an
# HTML report.
# usage: tools/demo.sh [--no-install] [--out DIR] [any option of build/tools/reproduce, such as --preset smoke]
#   --no-install  trust that the packages are there
#   --out DIR     results, figures and report; build/demo-PRESET (quick: build/demo) by default. A second call goes on where the first stopped
# Exit codes: 0 done, 1 something failed, 2 wrong usage.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

install=yes preset=quick out='' arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,9s/^# //p' "$0"; exit 0 ;;
    --no-install) install=no ;;
    --out | --preset)
      [ $# -ge 2 ] || { echo "demo.sh: $1 needs a value" >&2; exit 2; }
      if [ "$1" = --out ]; then out=$2; else preset=$2; fi
      shift ;;
    --out=*) out=${1#*=} ;;
    --preset=*) preset=${1#*=} ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
name=demo
[ "$preset" = quick ] || name=demo-$preset
if [ -n "$out" ]; then out=$(cd "$called_from" && realpath -m -- "$out"); else out=$PWD/build/$name; fi

[ "$install" = no ] || tools/install_dependencies.sh core plots bench

# A folder that is configured already keeps its settings; a new one gets the tools and the benchmark, no tests, and CUDA
# where a driver is present. A configuration that failed left no build.ninja and is done again.
fresh=()
if [ ! -f build/CMakeCache.txt ]; then
  cuda=OFF
  if [ -e /proc/driver/nvidia/version ]; then cuda=AUTO; fi
  fresh=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DFOKKER_CUDA=$cuda -DFOKKER_BUILD_TESTS=OFF -DFOKKER_WERROR=OFF)
fi
cmake -S . -B build "${fresh[@]}" -DFOKKER_BUILD_TOOLS=ON -DFOKKER_BUILD_BENCH=ON
cmake --build build --parallel "$(nproc)" --target fokker_tool reproduce_tool fokker_bench

# Programs are called from where the user stands, so that relative names among their arguments mean what they say.
top=$PWD
cd "$called_from"
"$top/build/tools/reproduce" --preset "$preset" --out "$out" "${arguments[@]}"

# The first Python that has both packages; a Python of the user's own often has neither.
for python in python3 /usr/bin/python3; do
  if "$python" -c 'import numpy, matplotlib' 2> /dev/null; then
    report=$("$python" "$top/tools/report.py" "$out")
    echo "The report is in $report, its figures in $out/figures"
    exit 0
  fi
done
echo "demo.sh: no Python with numpy and matplotlib was found, so there is no report; the results are in $out" >&2
exit 1
