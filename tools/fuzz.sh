#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz, one after another, with clang's libFuzzer and sanitizers.
# usage: tools/fuzz.sh [--seconds N] [--jobs N] [--build DIR] [--list] [--help] [TARGET...]
#   --seconds N   seconds for each target (default 60); 0 runs until it is ended
#   --jobs N      processes for each target (default 1)
#   --build DIR   a build of the whole, which it takes what it does not fuzz from (default build)
#   --list        prints the targets, which are all run where none is named
# It begins with tests/fuzz/inputs/TARGET and keeps what reaches more code in DIR/fuzz/corpus/TARGET. An input that fails is
# kept in DIR/fuzz/failed and named; copied into tests/fuzz/inputs/TARGET it is a test.
# Exit codes: 0 no input failed, 1 one did or the targets could not be built, 2 wrong usage, 77 there is no clang with libFuzzer.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(npy npz csv safetensors model mixture kept_json trainer_state gap_state energy_state log grid_file time_grid sde numbers part)
seconds=60 jobs=1 build=build targets=()
usage() { echo "fuzz.sh: $1; see --help" >&2; exit 2; }
number() { [[ $2 =~ ^[0-9]+$ ]] || usage "$1 '$2' given; allowed: an integer"; }
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --list) printf '%s\n' "${all[@]}"; exit 0 ;;
    --seconds | --jobs | --build)
      [ $# -gt 1 ] || usage "$1 needs a value"
      case $1 in
        --seconds) number "$1" "$2"; seconds=$2 ;;
        --jobs) number "$1" "$2"; jobs=$2 ;;
        --build) build=$2 ;;
      esac
      shift ;;
    -*) usage "unknown option '$1'" ;;
    *)
      [[ " ${all[*]} " == *" $1 "* ]] || usage "unknown target '$1'; allowed: ${all[*]}"
      targets+=("$1") ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")

for compiler in clang++ clang++-14 ''; do
  [ -n "$compiler" ] || { echo "fuzz.sh: no clang++ with libFuzzer is here (tools/install_dependencies.sh fuzz)" >&2; exit 77; }
  if echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    "$compiler" -x c++ -fsanitize=fuzzer,address - -o /dev/null 2> /dev/null; then break; fi
done
[ -f "$build/tools/libfokker_tools.a" ] || { echo "fuzz.sh: '$build' is no build of static libraries; run tools/test.sh, or name one by --build" >&2; exit 1; }

fuzz=$(realpath "$build")/fuzz
mkdir -p "$fuzz/failed"
cmake -S tests/fuzz -B "$fuzz" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DFOKKER_BUILD="$(realpath "$build")" > "$fuzz/configure.log" ||
  { cat "$fuzz/configure.log" >&2; exit 1; }
cmake --build "$fuzz" --parallel "$(nproc)" -- -k 0 "${targets[@]/#/fuzz_}" || { echo "fuzz.sh: the targets could not be built" >&2; exit 1; }

status=0
for target in "${targets[@]}"; do
  corpus=$fuzz/corpus/$target log=$fuzz/$target.log
  mkdir -p "$corpus"
  echo "$target: $seconds s, of which this tells now and then"
  mode=()
  [ "$jobs" -le 1 ] || mode=(-fork="$jobs" -ignore_crashes=0)
  # The readers of the rest of the library come uninstrumented, so vectors may pass between the two.
  if ASAN_OPTIONS=detect_container_overflow=0:allocator_may_return_null=1 "$fuzz/fuzz_$target" "${mode[@]}" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$fuzz/failed/$target-" "$corpus" "tests/fuzz/inputs/$target" 2>&1 | tee "$log" |
    grep --line-buffered -E 'pulse|^#[0-9]+: |ERROR: |SUMMARY: |what\(\)|number_of_executed' | sed -u 's/^/  /'; then
    echo "  none failed"
  else
    status=1
    echo "  FAILED: $(ls -t "$fuzz/failed/$target-"* 2> /dev/null | head -1) (said in full in $log)"
  fi
done
exit $status
