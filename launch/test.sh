#!/usr/bin/env bash
# The whole test suite, the same that CI calls: style, types, import contracts, tests. Arguments go to pytest.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
source "$root/launch/install.sh"
install_once all
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg
bin="$root/.venv/bin"

echo "== style"
"$bin/ruff" check .
"$bin/ruff" format --check .

echo "== types and import contracts, on the built wheel"
wheel="$(mktemp -d)"
trap 'rm -rf "$wheel" "$root/build"' EXIT
rm -rf "$root/build" # or a module deleted since the last build would still be packed
"$bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w "$wheel" "$root"
"$bin/python" -m zipfile -e "$wheel"/visuomotor-*.whl "$wheel/site"
(cd "$wheel/site" && MYPYPATH="$wheel/site" "$bin/mypy" --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p visuomotor)
(cd "$wheel/site" && PYTHONPATH="$wheel/site" "$bin/lint-imports" --config "$root/.importlinter" --no-cache)

echo "== tests"
if [ $# -gt 0 ]; then
    "$bin/python" -m pytest "$@"
    exit
fi
# The fast ones share the cores; whole runs of the graph keep time, so they have the machine to themselves.
"$bin/python" -m pytest -n 2 --dist loadfile -m "not slow"
"$bin/python" -m pytest -m slow
