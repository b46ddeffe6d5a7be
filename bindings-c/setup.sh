#!/usr/bin/env bash
# Installs what the tests of the C library need and the machine lacks: compilers, make, pkg-config, valgrind.
set -euo pipefail

missing=()
for tool in gcc g++ make pkg-config valgrind; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "the C library needs ${missing[*]}: install them with the package manager of this system" >&2
  exit 1
fi
echo "installing ${missing[*]} with apt-get" >&2
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update --quiet=2
"${as_root[@]}" apt-get install --quiet=2 --yes "${missing[@]}"
