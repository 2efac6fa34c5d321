#!/usr/bin/env bash
# The core for arm64, by a cross compiler and qemu-user: everything in csrc/ that needs neither
# Python nor CUDA nor DALI is compiled and linked, the programs of this folder run with all loops,
# and recipes, labels and pictures have the digests that this machine's have. Skipped, with the
# reason, where the tools are missing; ARM64_REQUIRED=1 makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v $tool >/dev/null; then
    echo "arm64: skipped, there is no $tool (apt install g++-aarch64-linux-gnu qemu-user)"
    exit "${ARM64_REQUIRED:-0}"
  fi
done

# Those of yolodata/dali/compilers.py, which a test compares.
flags="-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math -DNDEBUG"

build() { # folder, compiler
  local work=build/native/$1 compiler=$2
  rm -rf "$work"
  mkdir -p "$work"
  find csrc tests/native -name '*.cpp' -not -path 'csrc/bind/*' | xargs -P "$(nproc)" -I{} sh -c \
    "$compiler $flags -Wall -Wextra -Werror -Icsrc -c {} -o $work/\$(echo {} | tr / -).o"
  for program in row_ops pictures; do
    $compiler -static -pthread "$work/tests-native-$program.cpp.o" "$work"/csrc-*.o -o "$work/$program"
  done
}

run() { # folder, instruction set, what runs a program
  for program in row_ops pictures; do
    YOLODATA_SIMD=$2 $3 "build/native/$1/$program"
  done | tee "build/native/$1/$2.txt"
}

build host "${CXX:-g++}"
build arm64 aarch64-linux-gnu-g++
run host portable ""
run arm64 portable qemu-aarch64
run arm64 neon qemu-aarch64
for set in arm64/portable arm64/neon; do
  diff <(grep digests build/native/host/portable.txt) <(grep digests "build/native/$set.txt")
done
echo "arm64: compiled, and run by qemu-user: the same bytes as here"
