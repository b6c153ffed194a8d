#!/usr/bin/env bash
# Installs the build to a folder of its own, moves it, and builds and runs the consumer against it.
# usage: run.sh (package|subdirectory) BUILD_DIR SOURCE_DIR WORK_DIR CXX CXX_FLAGS
set -euo pipefail
way=$1 build=$2 source=$3 work=$4 cxx=$5 flags=$6
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work"
mkdir -p "$work"
common=(-G Ninja -DCMAKE_CXX_COMPILER="$cxx" "-DCMAKE_CXX_FLAGS=$flags")

case $way in
  package)
    cmake --install "$build" --prefix "$work/first" > "$work/install.log"
    mv "$work/first" "$work/prefix"  # an installed tree may be moved
    cmake "${common[@]}" -S "$here" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$work/prefix"
    cmake --build "$work/cmake"
    "$work/cmake/consumer"
    sed -n '/^```cpp$/,/^```$/p' "$source/README.md" | sed '1d;$d' | diff - "$here/readme.cpp" ||
      { echo "tests/consumer/readme.cpp is not the program of README.md" >&2; exit 1; }
    "$work/cmake/readme"

    pc=$(find "$work/prefix" -name fokker.pc)
    export PKG_CONFIG_PATH=${pc%/*}
    for static in "" --static; do
      # shellcheck disable=SC2046,SC2086  # flags are words
      "$cxx" $flags -std=c++20 "$here/main.cpp" -o "$work/consumer-pc$static" $(pkg-config $static --cflags --libs fokker)
      "$work/consumer-pc$static"
    done
    test "$(pkg-config --modversion fokker)" = "$("$work/cmake/consumer" | cut -d' ' -f2)"
    ;;
  subdirectory)
    cmake "${common[@]}" -S "$here" -B "$work/cmake" -DFOKKER_SOURCE="$source" -DFOKKER_CUDA=OFF
    cmake --build "$work/cmake" --target consumer
    "$work/cmake/consumer"
    ;;
  *) echo "unknown way '$way'; allowed: package, subdirectory" >&2; exit 2 ;;
esac
