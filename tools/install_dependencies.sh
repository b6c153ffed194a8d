#!/usr/bin/env bash
# Installs what is missing of the Debian packages that fokker is built from; nothing where nothing is missing.
# usage: tools/install_dependencies.sh [--help] [GROUP...]   groups: core plots test bench, all of them by default; lint fuzz mpi
# A CUDA toolkit is not installed: where nvcc is found it is used.
# Exit codes: 0 everything is there, 1 something is missing and could not be installed, 2 wrong usage.
set -euo pipefail

declare -A packages=(
  [core]="g++ cmake ninja-build pkg-config libfmt-dev nlohmann-json3-dev libhwy-dev liblemon-dev libdlpack-dev zlib1g-dev libcli11-dev librandom123-dev"
  [plots]="python3-matplotlib python3-numpy"
  [test]="libgtest-dev libgmock-dev python3 python3-venv python3-dev"
  [bench]="libbenchmark-dev"
  [lint]="clang-format-14 clang-tidy-14"
  [fuzz]="clang-14 libclang-rt-14-dev"
  [mpi]="libopenmpi-dev openmpi-bin"
)

groups=()
for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;;
    core | plots | test | bench | lint | fuzz | mpi) groups+=("$argument") ;;
    *) echo "install_dependencies.sh: unknown group '$argument'; allowed: core, plots, test, bench, lint, fuzz, mpi" >&2; exit 2 ;;
  esac
done
[ ${#groups[@]} -gt 0 ] || groups=(core plots test bench)

# A program counts wherever it comes from; a library only as its package.
present() {
  case $1 in
    g++ | cmake | pkg-config | python3) command -v "$1" > /dev/null ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2> /dev/null ;;
    python3-dev) [ -f "$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["include"])' 2> /dev/null)/Python.h" ] ;;
    ninja-build) command -v ninja > /dev/null ;;
    *) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ] ;;
  esac
}

if ! command -v dpkg-query > /dev/null; then
  echo "install_dependencies.sh: this is not a Debian system; install the equivalents of these packages by hand:" >&2
  for group in "${groups[@]}"; do echo "  $group: ${packages[$group]}" >&2; done
  exit 1
fi

missing=()
for group in "${groups[@]}"; do
  for package in ${packages[$group]}; do present "$package" || missing+=("$package"); done
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "All packages for ${groups[*]} are installed."
  exit 0
fi

install=(apt-get install -y --no-install-recommends "${missing[@]}")
privilege=()
if [ "$(id -u)" -ne 0 ]; then
  # sudo may ask for a password only where somebody is there to answer.
  if command -v sudo > /dev/null && { [ -t 0 ] || sudo -n true 2> /dev/null; }; then
    privilege=(sudo)
  else
    echo "install_dependencies.sh: packages are missing and this user may not install them; as root, run:" >&2
    echo "  apt-get update && ${install[*]}" >&2
    exit 1
  fi
fi
echo "Installing ${missing[*]}"
"${privilege[@]}" apt-get update -qq || echo "install_dependencies.sh: the package lists could not be refreshed; trying with those there are" >&2
if ! "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}"; then
  echo "install_dependencies.sh: apt-get could not install ${missing[*]}; its own message is above" >&2
  exit 1
fi
