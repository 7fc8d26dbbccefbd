#!/usr/bin/env bash
# The kernels for aarch64, cross-compiled and run under qemu-user, against this machine's, bit for bit; and all of the
# module's sources through that compiler. On Debian: apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
flags="-std=c++20 -DNDEBUG -ffp-contract=off -Wall -Wextra -Wno-psabi -Werror"
for machine in "$(uname -m)" aarch64; do
  "$machine-linux-gnu-g++" $flags -O3 -c csrc/cpu/kernels_portable.cpp -o "$folder/$machine.o"
  "$machine-linux-gnu-g++" $flags -O1 -static -Icsrc tests/csrc/kernel_bits.cpp "$folder/$machine.o" -o "$folder/$machine"
done
for source in csrc/cpu/*.cpp $(ls csrc/python/*.cpp | grep -v _cuda); do
  aarch64-linux-gnu-g++ $flags -fvisibility=hidden -fsyntax-only $(python3 -m pybind11 --includes) "$source"
done
"$folder/$(uname -m)" > "$folder/here"
qemu-aarch64 "$folder/aarch64" > "$folder/there"
diff "$folder/here" "$folder/there"
echo "aarch64 under qemu: $(grep -c noise "$folder/there") noises and $(grep -c steps "$folder/there") times three steps have the bits of $(uname -m)"
