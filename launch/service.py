"""A run as a systemd service: the unit, where it goes, and what has to be true before it is written."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

import visuomotor
from visuomotor.deploy.runtime.bundle import META_FILE
from visuomotor.deploy.runtime.device import check_device
from visuomotor.launch.profile import Profile, load_profile
from visuomotor.launch.run import check_bundles
from visuomotor.launch.run_folders import parse_keep
from visuomotor.launch.supervisor import BRAKE_S
from visuomotor.launch.tasks import VEHICLE

Scope = Literal["system", "user"]
MARK = "# Written by `visuomotor service install`; a change made here is lost with the next one."
KEEP = "50,2GB,30d"
GROUPS = ("video", "render")  # of cameras and GPUs
MARGIN_S = 10.0
IMPORT_S = 30.0  # from the start of the interpreter to that of the nodes, on a slow disk
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit is made from. ``run_as`` empty: a user that systemd makes up for it (with scope "system")."""

    name: str
    profile: Profile
    scope: Scope = "system"
    camera: str = ""
    device: str = ""
    run_as: str = ""
    groups: tuple[str, ...] = GROUPS
    keep: str = KEEP

    @property
    def unit(self) -> str:
        """Its name in systemd."""
        return f"visuomotor-{self.name}.service"


def make_service(
    profile: str,
    *,
    name: str = "",
    scope: Scope = "system",
    camera: str = "",
    device: str = "",
    run_as: str = "",
    keep: str = KEEP,
    elsewhere: bool = False,
) -> Service:
    """Check all that can be checked before anything is written. Raises ValueError that says what was expected.

    ``elsewhere``: the unit is for another machine, so devices, groups and users of this one don't matter.
    """
    checked = load_profile(profile)
    check_bundles(checked)
    _check_paths(checked)
    parse_keep(keep)
    name = name or checked.source.stem.lower()
    if not NAME.fullmatch(name):
        raise ValueError(f"--name: expected small letters, digits, - and _, at most 41, got {name!r}")
    without = [n for n in checked.cameras if n not in checked.sources][int(bool(camera)) :]  # --camera is the first's
    if checked.task == VEHICLE and without:
        expected = "--camera FILE|INDEX|ADDRESS" if len(without) == 1 and not camera else "an entry each under sources"
        raise ValueError(f"{checked.source.name}: no source of {', '.join(without)}: expected {expected}")
    if re.search(r"://[^/]*@", camera):
        raise ValueError(
            "--camera: an address with a password has no place in a unit, which everybody may read; install with the "
            f"address alone and put VISUOMOTOR_OPTIONS='--camera {camera.partition('://')[0]}://...' "
            f"into {environment_file(name, scope)} (mode 600)"
        )
    if camera and not camera.isdecimal() and "://" not in camera:
        camera = str(Path(camera).absolute())
    if run_as and scope == "user":
        raise ValueError("--run-as: a service of --user runs as that user")
    service = Service(name=name, profile=checked, scope=scope, camera=camera, device=device, run_as=run_as, keep=keep)
    if elsewhere:
        return service
    check_device(device or checked.device)
    known = {group.gr_name for group in grp.getgrall()}
    service = msgspec.structs.replace(service, groups=tuple(g for g in GROUPS if g in known))
    if run_as:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(run_as)
            return service
        raise ValueError(f"--run-as: no user {run_as!r} on this machine")
    if scope == "system" and (closed := find_closed_path(needed_paths(checked))):
        raise ValueError(
            f"{closed}: not open to the user that systemd makes up for the service; "
            "give --run-as USER, or install where everybody may read"
        )
    return service


def _check_paths(profile: Profile) -> None:
    """A service has a working directory of its own: nothing of its profile may be found from today's."""
    parts = {"policy": profile.policy, "perception.forecaster": profile.perception.forecaster}
    parts |= {f"perception.detector.{camera}": name for camera, name in profile.perception.detectors.items()}
    parts |= {"can.dbc": profile.can.dbc} if profile.can is not None and profile.can.dbc else {}
    for key, value in parts.items():
        from_here = key == "can.dbc" or (Path(value) / META_FILE).is_file()
        if from_here and not Path(value).is_absolute():
            raise ValueError(
                f"{profile.source}: {key}: a service runs in a folder of its own; expected "
                f"{Path(value).absolute()}, got {value}"
            )


def needed_paths(profile: Profile) -> list[Path]:
    """What the service reads: interpreter, package, profile, calibrations, bundles."""
    bundles = [bundle.path for bundle in check_bundles(profile).values()]
    package = Path(visuomotor.__file__ or ".").parent
    return [Path(sys.executable), package, profile.source, *map(Path, profile.camera_files), *bundles]


def find_closed_path(paths: Iterable[Path]) -> Path | None:
    """The first of ``paths``, or of the folders above them, that not everybody may read or pass."""
    for path in paths:
        for place in (path, path.resolve()):
            mode = place.stat().st_mode
            if not mode & stat.S_IROTH or (place.is_dir() and not mode & stat.S_IXOTH):
                return place
            for folder in place.parents:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return folder
    return None


def unit_folder(scope: Scope, prefix: Path | None = None) -> Path:
    """Where systemd looks for units that an administrator, or a user, has installed."""
    folder = Path("/etc/systemd/system") if scope == "system" else _config_home() / "systemd/user"
    return folder if prefix is None else prefix / folder.relative_to("/")


def environment_file(name: str, scope: Scope) -> Path:
    """Where secrets and further options of a service go; not written by us."""
    folder = Path("/etc") if scope == "system" else _config_home()
    return folder / "visuomotor" / f"{name}.env"


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config").absolute()


def write_unit(service: Service, text: str, prefix: Path | None = None) -> tuple[Path, bool]:
    """Put the unit in its place; returns that, and whether anything was changed. ValueError for somebody else's."""
    path = unit_folder(service.scope, prefix) / service.unit
    before = path.read_text() if path.exists() else None
    if before is not None and MARK not in before:
        raise ValueError(f"{path}: exists and was not written by visuomotor; move it away or choose another --name")
    if before == text:
        return path, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".service.tmp")
        partial.write_text(text)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        hint = "; as root, or with --user" if isinstance(error, PermissionError) else ""
        raise ValueError(f"{path}: cannot be written ({error.strerror}){hint}") from error
    return path, True


def find_units(scope: Scope, prefix: Path | None = None) -> list[Path]:
    """Installed units of ours."""
    found = sorted(unit_folder(scope, prefix).glob("visuomotor-*.service"))
    return [path for path in found if MARK in path.read_text()]


class UnitState(msgspec.Struct, frozen=True):
    """What systemd says of a unit; ``known`` False where it cannot be asked."""

    known: bool
    active: str = ""  # active, activating, inactive, failed ...
    result: str = ""
    restarts: int = 0
    status: str = ""


def ask_systemd(unit: str, scope: Scope) -> UnitState:
    """The state of a unit."""
    keys = "ActiveState,Result,NRestarts,StatusText"
    command = ["systemctl", f"--{scope}", "show", unit, f"--property={keys}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return UnitState(known=False)
    if done.returncode:
        return UnitState(known=False)
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    restarts = said.get("NRestarts", "")
    return UnitState(
        known=True,
        active=said.get("ActiveState", ""),
        result=said.get("Result", ""),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        status=said.get("StatusText", ""),
    )


def stop_limit_s(profile: Profile) -> float:
    """From the request to stop to the kill: brake to a stop, end the episode, stop the nodes."""
    return BRAKE_S + profile.timeouts.step_s + profile.timeouts.stop_s + MARGIN_S
