#!/usr/bin/env bash
# package: installs the build to a folder of its own, moves it, and builds and runs the consumer against it, by CMake and by
# pkg-config. subdirectory: builds the consumer with the library as a part of it, shared and without a build type.
# usage: run.sh (package|subdirectory) BUILD_DIR SOURCE_DIR WORK_DIR CXX CXX_FLAGS [NVCC]
set -euo pipefail
way=$1 build=$2 source=$3 work=$4 cxx=$5 flags=$6 nvcc=${7-}
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
common=(-G Ninja -DCMAKE_CXX_COMPILER="$cxx" "-DCMAKE_CXX_FLAGS=$flags")
fail() { echo "run.sh: $1" >&2; exit 1; }

# The application in CUDA compiles and links; without a GPU it ends with a sentence.
runs_or_says_why() {
  local status=0
  "$1" no-such-model.safetensors 16 2> "$work/said" || status=$?
  [ $status -eq 1 ] && [ "$(wc -l < "$work/said")" -eq 1 ] || fail "$1 ended with $status and said: $(cat "$work/said")"
}

case $way in
  package)
    cmake --install "$build" --prefix "$work/first" > "$work/install.log"
    mv "$work/first" "$work/prefix"  # an installed tree may be moved
    [ -z "$nvcc" ] || common+=(-DCONSUMER_CUDA=ON -DCMAKE_CUDA_COMPILER="$nvcc")
    cmake "${common[@]}" -S "$here" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$work/prefix"
    cmake --build "$work/cmake"
    "$work/cmake/consumer"
    sed -n '/^```cpp$/,/^```$/p' "$source/README.md" | sed '1d;$d' | diff - "$here/readme.cpp" ||
      fail 'tests/consumer/readme.cpp is not the program of README.md'
    "$work/cmake/readme" | tee "$work/printed"
    # Training's bits are an instruction set's; README shows those of AVX-512.
    if "$work/prefix/bin/fokker" info | grep -q 'AVX-512' && ! grep -qF "\`$(cat "$work/printed")\`" "$source/README.md"; then
      fail 'README.md shows another number than its program prints'
    fi
    [ -z "$nvcc" ] || runs_or_says_why "$work/cmake/gpu_application"

    pc=$(find "$work/prefix" -name fokker.pc)
    export PKG_CONFIG_PATH=${pc%/*}
    for static in "" --static; do
      # shellcheck disable=SC2046,SC2086  # flags are words
      "$cxx" $flags "$here/main.cpp" -o "$work/consumer-pc$static" $(pkg-config $static --cflags --libs fokker)
      "$work/consumer-pc$static"
    done
    if [ -n "$nvcc" ]; then
      # shellcheck disable=SC2046
      "$nvcc" -arch=sm_90 -Werror=all-warnings "$here/gpu_application.cu" -o "$work/gpu-pc" $(pkg-config --cflags --libs fokker)
      runs_or_says_why "$work/gpu-pc"
    fi
    test "$(pkg-config --modversion fokker)" = "$("$work/cmake/consumer" | cut -d' ' -f2)"

    [ -n "$(find "$work/prefix" -name LICENSE)" ] || fail 'LICENSE is not installed'
    if [ -x "$work/prefix/bin/fokker" ]; then
      for program in fokker fokker-reproduce fokker-report; do
        "$work/prefix/bin/$program" --help > /dev/null || fail "the installed $program does not run"
      done
      [ -f "$work/prefix/share/fokker/fokker_report/page.py" ] || fail 'the modules of fokker-report are not installed'
    fi
    ;;
  subdirectory)
    # One instruction set, of all that Highway would compile for, takes a third of the time.
    common+=("-DCMAKE_CXX_FLAGS=$flags -DHWY_COMPILE_ONLY_STATIC")
    cmake "${common[@]}" -S "$here" -B "$work/cmake" -DFOKKER_SOURCE="$source" -DBUILD_SHARED_LIBS=ON \
      -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
    grep -q -- '-O3.*src/cpu/mlp\.cpp' "$work/cmake/compile_commands.json" ||
      fail 'the library is not optimised where the parent has no build type'
    cmake --build "$work/cmake" --target consumer
    "$work/cmake/consumer"
    library=$work/cmake/fokker/libfokker.so
    [ -e "$library" ] || fail 'BUILD_SHARED_LIBS gave no shared library'
    readelf -d "$library" | grep -q 'SONAME.*libfokker\.so\.[0-9]' || fail 'the shared library has no SONAME'
    nm -D --defined-only -C "$library" | cut -d' ' -f3- > "$work/symbols"
    grep -q '^fokker_sampler_sample$' "$work/symbols" || fail 'the shared library does not show the C API'
    grep -q '^fokker::Sampler::sample(' "$work/symbols" || fail 'the shared library does not show the C++ API'
    ! grep -E 'fokker::(cpu|cuda|kernels)::|fmt::|nlohmann|lemon::|hwy::' "$work/symbols" || fail 'the shared library shows what is not its API'
    ! grep -vE 'fokker|std::|__gnu_cxx|^typeinfo' "$work/symbols" || fail 'the shared library shows names of others'
    # A parent with CUDA gets the device code for its own architecture; configuring shows it.
    [ -z "$nvcc" ] || cmake "${common[@]}" -S "$here" -B "$work/cuda" -DFOKKER_SOURCE="$source" -DCONSUMER_CUDA=ON \
      -DCMAKE_CUDA_COMPILER="$nvcc"
    ;;
  *) echo "unknown way '$way'; allowed: package, subdirectory" >&2; exit 2 ;;
esac
