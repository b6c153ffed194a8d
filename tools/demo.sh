#!/usr/bin/env bash
# Installs what is missing, builds, trains two small networks on a planar data set, one of them with the Fokker–Planck
# residual in its loss, samples each by the reverse SDE and by the probability-flow ODE, measures the distances and writes
# an HTML report.
# usage: tools/demo.sh [--no-install] [--cuda] [--out DIR] [options of build/tools/reproduce]
#   --no-install  trust that the packages are there
#   --cuda        build the CUDA parts, also where no driver is present; by default a new build has them where one is
#   --out DIR     results, figures and report; build/demo-PRESET (quick: build/demo) by default. A second call goes on
#                 where the first stopped
#   The other options go to reproduce, whose --help describes them; among them are --preset, --data and --weights.
# examples: tools/demo.sh
#           tools/demo.sh --preset smoke --no-install
#           tools/demo.sh --data checker --weights 0,0.1,1 --out checker
# Exit codes: 0 done, 1 something failed, 2 wrong usage.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

refuse() { echo "demo.sh: $1" >&2; exit 2; }
install=yes cuda=no preset=quick out='' arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,15s/^# //p' "$0"; exit 0 ;;
    --no-install) install=no ;;
    --cuda) cuda=yes ;;
    --out | --preset)
      [ $# -ge 2 ] || refuse "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      continue ;;
    --out=?*) out=${1#*=} ;;
    --out=) refuse "--out '' given; allowed: the name of a folder" ;;
    --preset=*) preset=${1#*=} ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
name=demo
[ "$preset" = quick ] || name=demo-$preset
if [ -n "$out" ]; then out=$(cd "$called_from" && realpath -m -- "$out"); else out=$PWD/build/$name; fi
arguments=(--preset "$preset" --out "$out" "${arguments[@]}")

[ "$install" = no ] || tools/install_dependencies.sh core plots bench

# A folder that is configured already keeps its settings; a new one gets the tools and the benchmark, no tests, and CUDA
# where a driver is present. A configuration that failed left no build.ninja and is done again.
fresh=()
if [ ! -f build/CMakeCache.txt ]; then
  parts=OFF
  if [ -e /proc/driver/nvidia/version ]; then parts=AUTO; fi
  fresh=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DFOKKER_CUDA="$parts" -DFOKKER_BUILD_TESTS=OFF -DFOKKER_WERROR=OFF)
fi
if [ "$cuda" = yes ]; then
  fresh+=(-DFOKKER_CUDA=ON)
  # A toolkit that is installed and not in PATH.
  if ! command -v nvcc > /dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
fi
cmake -S . -B build "${fresh[@]}" -DFOKKER_BUILD_TOOLS=ON -DFOKKER_BUILD_BENCH=ON
cmake --build build --parallel "$(nproc)" --target fokker_tool reproduce_tool fokker_bench

# Programs are called from where the user stands, so that relative names among their arguments mean what they say.
top=$PWD
cd "$called_from"
"$top/build/tools/reproduce" "${arguments[@]}"

if ! report=$(python3 "$top/tools/report.py" "$out"); then
  echo "demo.sh: there is no report; the results are in $out" >&2
  exit 1
fi
echo "The report is in $report, its figures in $out/figures"
