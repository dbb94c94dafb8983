# Sourced by the other scripts: makes .venv in the checkout once and installs the package with the given extras.
# VISUOMOTOR_PYTHON names the interpreter to build it with (Python 3.11 for simulation: pybullet has no later wheels).

find_python() {
    local candidate
    for candidate in "${VISUOMOTOR_PYTHON:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "visuomotor: simulation needs Python 3.11 (pybullet's wheels end there); install it, or name it with VISUOMOTOR_PYTHON=..." >&2
    return 2
}

# install_once EXTRAS: no-op while pyproject.toml, constraints.txt and the extras are those of the last installation.
install_once() {
    local extras="$1" venv="$root/.venv" stamp wanted python
    stamp="$venv/.installed-$extras"
    wanted="$(cat "$root/pyproject.toml" "$root/constraints.txt" | sha256sum | cut -d' ' -f1)"
    # Whoever installed everything has what fewer extras need, too.
    for candidate in "$stamp" "$venv/.installed-all"; do
        if [ -x "$venv/bin/visuomotor" ] && [ "$(cat "$candidate" 2>/dev/null)" = "$wanted" ]; then
            return
        fi
    done
    (
        flock 9 # two first calls at once: the second waits and finds the work done
        if [ -x "$venv/bin/visuomotor" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
            exit 0
        fi
        if [ ! -x "$venv/bin/python" ]; then
            python="$(find_python)"
            echo "visuomotor: first call, making $venv with $python" >&2
            "$python" -m venv "$venv"
        fi
        echo "visuomotor: installing (extras: $extras)" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            -c "$root/constraints.txt" -e "$root[$extras]" >&2
        echo "$wanted" >"$stamp"
    ) 9>"$root/.venv.lock"
}
