#!/usr/bin/env bash
# Picks ordered parts off a belt in simulation. On a fresh clone it first makes .venv and installs what that needs (no torch).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$root/launch/install.sh"
install_once sim
exec "$root/.venv/bin/visuomotor" launch pick "$@"
