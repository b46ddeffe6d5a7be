#!/usr/bin/env bash
# Installs the browser that the page is tested in, unless there is one. CHROMIUM names another one.
set -euo pipefail

command -v "${CHROMIUM:-chromium}" >/dev/null && exit 0

if ! command -v apt-get >/dev/null; then
  echo "the page's test needs Chromium: install it, or name it with CHROMIUM=PATH" >&2
  exit 1
fi
echo "installing chromium with apt-get" >&2
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update --quiet=2
"${as_root[@]}" apt-get install --quiet=2 --yes --no-install-recommends chromium
