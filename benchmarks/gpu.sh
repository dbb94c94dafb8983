#!/usr/bin/env bash
# Measures networks and the frame-to-command path on an NVIDIA GPU; without one, a dry run on the CPU that says so.
# Installs nothing: takes the checkout's .venv, or the python that has the package (PYTHON=...). See docs/runtime.md.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
[ -x "$python" ] || python=python3
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
fi
exec "$python" "$root/benchmarks/gpu.py" "$@"
