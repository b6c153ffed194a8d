#!/usr/bin/env bash
# Installs what is missing, builds, trains two small networks on a planar data set, one of them with the Fokker–Planck
# residual in its loss, samples each by the reverse SDE and by the probability-flow ODE, prints the distances and writes an
# HTML report.
# usage: tools/demo.sh [--no-install] [--cuda] [--out DIR] [options of build/tools/reproduce]
#   --no-install  trust that the packages are there
#   --cuda        build the CUDA parts, also where no driver is present; by default a new build has them where one is
#   --out DIR     results, figures and report; build/demo-PRESET (quick: build/demo) by default. A second call goes on where the first stopped
#   of reproduce: --preset smoke|quick|paper|activations|activations-quick --data --weights --iterations --samples --grid --activation --beta --seed --seeds --detail --bounds --backend --threads --precision
# examples: tools/demo.sh
#           tools/demo.sh --preset smoke --no-install
#           tools/demo.sh --data checker --weights 0,0.1,1 --out checker
# Exit codes: 0 done, 1 something failed, 2 wrong usage.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

# Which options there are, and those of their values that are numbers or words of a list, is looked at here, before
# anything is installed or built; the rest by reproduce, before it trains.
refuse() { echo "demo.sh: $1" >&2; exit 2; }
install=yes cuda=no preset=quick out='' arguments=()
while [ $# -gt 0 ]; do
  option=${1%%=*}
  case $1 in
    -h | --help) sed -n '2,14s/^# //p' "$0"; exit 0 ;;
    --no-install) install=no; shift; continue ;;
    --cuda) cuda=yes; shift; continue ;;
    --*=*) value=${1#*=} ;;
    *) value=${2-}; given=$# ;;
  esac
  case $option in
    --out | --preset | --data | --weights | --iterations | --samples | --grid | --activation | --beta | --seed | --seeds | --detail | --bounds | --backend | --threads | --precision)
      if [[ $1 != *=* ]]; then
        [ "$given" -ge 2 ] || refuse "$1 needs a value"
        shift
      fi ;;
    *) refuse "unknown argument '$1'; see --help" ;;
  esac
  case $option in
    --iterations | --samples | --seed | --seeds | --threads)
      [[ $value =~ ^[0-9]+$ ]] || refuse "$option '$value' given; allowed: an integer that is not negative" ;;
    --backend) [[ $value =~ ^(auto|cpu|cuda)$ ]] || refuse "--backend '$value' given; allowed: auto, cpu, cuda" ;;
    --precision) [[ $value =~ ^(split|fp32|half)$ ]] || refuse "--precision '$value' given; allowed: split, fp32, half" ;;
    --preset)
      [[ $value =~ ^(smoke|quick|paper|activations|activations-quick)$ ]] ||
        refuse "--preset '$value' given; allowed: smoke, quick, paper, activations, activations-quick" ;;
    --detail | --bounds) [[ $value =~ ^(yes|no)$ ]] || refuse "$option '$value' given; allowed: yes, no" ;;
    --out) [ -n "$value" ] || refuse "--out '' given; allowed: the name of a folder" ;;
  esac
  case $option in
    --out) out=$value ;;
    --preset) preset=$value ;;
    *) arguments+=("$option" "$value") ;;
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
"$top/build/tools/reproduce" --preset "$preset" --out "$out" "${arguments[@]}"

if ! report=$(python3 "$top/tools/report.py" "$out"); then
  echo "demo.sh: there is no report; the results are in $out" >&2
  exit 1
fi
echo "The report is in $report, its figures in $out/figures"
