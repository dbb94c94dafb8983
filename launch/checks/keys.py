"""Keys of hosts: secret ones are secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from visuomotor.launch.checks.examination import Check, Place

FOLDER = Path("keys")  # here and beside the profile


def check_keys(place: Place) -> list[Check]:
    """Key folders here and beside the profile; none of them is fine for a run on one host."""
    beside = [] if place.profile is None else [place.profile.source.parent / FOLDER]
    folders = {path.resolve(): None for path in (FOLDER, *beside) if path.is_dir()}
    checks = [check_key_folder(folder) for folder in folders]
    return checks or [Check("keys", "ok", "none: runs on several hosts need some, runs on this one don't")]


def check_key_folder(folder: Path) -> Check:
    """One folder: nobody else may write in it or read a secret key."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        return Check("keys", "bad", f"{folder}: mode {mode:o}, others may put keys there", f"chmod 700 {folder}")
    secrets = sorted(folder.glob("*.key_secret"))
    for path in secrets:
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            do = f"chmod 600 {path}, and make it anew if others use this machine"
            return Check("keys", "bad", f"{path}: mode {mode:o}, others may read it", do)
        if status.st_uid not in (os.getuid(), 0):
            return Check("keys", "bad", f"{path}: belongs to user {status.st_uid}", f"chown {os.getuid()} {path}")
    public = len(list(folder.glob("*.key")))
    return Check("keys", "ok", f"{folder}: {public} public, {len(secrets)} secret with mode 600")
