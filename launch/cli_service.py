"""``visuomotor service``: a run as a systemd service that starts with the machine and goes on for months."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visuomotor.launch.cli_options import PLAIN, Device

if TYPE_CHECKING:
    from visuomotor.launch.service import Scope, Service

service = typer.Typer(help="Run the graph as a systemd service.", **PLAIN)

ProfileToRun = Annotated[str, typer.Option(metavar="FILE", help="Profile of the run.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Of the service.  [default: the profile's]")]
InUser = Annotated[bool, typer.Option("--user/--system", help="A service of this user, or of the machine.")]
Prefix = Annotated[Path | None, typer.Option(metavar="DIR", help="Put the files below DIR: for a package or an image.")]
Camera = Annotated[str, typer.Option(metavar="FILE|INDEX|ADDRESS", help="As of `launch vehicle`.")]
RunAs = Annotated[str, typer.Option(metavar="USER", help="Who runs it.  [default: a user that systemd makes up]")]
KeepOption = Annotated[str, typer.Option("--keep", metavar="RUNS,SIZE,AGE", help="Run folders to keep.")]


@service.command("install")
def install(
    profile: ProfileToRun,
    name: Name = "",
    user: InUser = False,
    prefix: Prefix = None,
    camera: Camera = "",
    device: Device = None,
    run_as: RunAs = "",
    keep: KeepOption = "50,2GB,30d",
) -> int:
    """Check the profile and write the unit; says what comes next, and starts nothing."""
    from visuomotor.launch.service import write_unit
    from visuomotor.launch.service_unit import make_unit

    made = _make(profile, name, user, prefix, camera, device, run_as, keep)
    path, changed = write_unit(made, make_unit(made), prefix)
    typer.echo(f"{path}: {'written' if changed else 'is up to date, nothing was changed'}")
    control = f"systemctl{' --user' if user else ''}"
    journal = f"journalctl {'--user-unit' if user else '--unit'}={made.unit}"
    if prefix is not None:
        typer.echo(
            f"next, on the machine that it is for: {control} daemon-reload && {control} enable --now {made.unit}"
        )
        return 0
    typer.echo(f"next: {control} daemon-reload && {control} enable --now {made.unit}")
    if user:
        typer.echo("      loginctl enable-linger   # or it ends when the user logs out")
    typer.echo(f"      visuomotor service status --name {made.name}{' --user' if user else ''}; {journal}")
    typer.echo(f"      visuomotor doctor --profile {made.profile.source}")
    return 0


@service.command("show")
def show(
    profile: ProfileToRun,
    name: Name = "",
    user: InUser = False,
    prefix: Prefix = None,
    camera: Camera = "",
    device: Device = None,
    run_as: RunAs = "",
    keep: KeepOption = "50,2GB,30d",
) -> int:
    """Print the unit that `install` would write."""
    from visuomotor.launch.service_unit import make_unit

    typer.echo(make_unit(_make(profile, name, user, prefix, camera, device, run_as, keep)), nl=False)
    return 0


@service.command("status")
def status(
    profile: Annotated[str, typer.Option(metavar="FILE", help="Whose service.  [default: all]")] = "",
    name: Name = "",
    user: InUser = False,
    prefix: Prefix = None,
) -> int:
    """Say what is installed and how it does; exit code 1 when it is not installed or has failed."""
    from visuomotor.launch.service import ask_systemd, find_units, unit_folder

    scope = _scope(user)
    wanted = _unit_name(profile, name)
    units = [path for path in find_units(scope, prefix) if wanted in ("", path.name)]
    if not units:
        typer.echo(f"{wanted or 'no service'}: not installed in {unit_folder(scope, prefix)}")
        return 1
    failed = False
    for path in units:
        if prefix is not None:
            typer.echo(f"{path}: installed")
            continue
        state = ask_systemd(path.name, scope)
        if not state.known:
            typer.echo(f"{path}: installed; systemd does not answer here")
            continue
        failed |= state.active == "failed"
        text = f"{state.active} ({state.result}), {state.restarts} restarts"
        typer.echo(f"{path}: {text}{f'; {state.status}' if state.status else ''}")
    return int(failed)


@service.command("uninstall")
def uninstall(
    profile: Annotated[str, typer.Option(metavar="FILE", help="Whose service.")] = "",
    name: Name = "",
    user: InUser = False,
    prefix: Prefix = None,
) -> int:
    """Remove the unit; logs and environment file stay. A service that runs has to be stopped before."""
    from visuomotor.launch.service import ask_systemd, find_units, unit_folder

    scope, unit = _scope(user), _unit_name(profile, name)
    control = f"systemctl{' --user' if user else ''}"
    if not unit:
        raise ValueError("service uninstall: expected --name NAME or --profile FILE")
    path = unit_folder(scope, prefix) / unit
    if path not in find_units(scope, prefix):
        if path.exists():
            raise ValueError(f"{path}: was not written by visuomotor; it is left alone")
        typer.echo(f"{path}: is not there, nothing was changed")
        return 0
    if prefix is None and ask_systemd(unit, scope).active in ("active", "activating", "deactivating"):
        raise ValueError(f"{unit} is running; first: {control} disable --now {unit}")
    path.unlink()
    typer.echo(f"{path}: removed")
    if prefix is None:
        typer.echo(f"next: {control} daemon-reload")
    return 0


def _make(
    profile: str, name: str, user: bool, prefix: Path | None, camera: str, device: Device, run_as: str, keep: str
) -> Service:
    from visuomotor.launch.service import make_service

    return make_service(
        profile,
        name=name,
        scope=_scope(user),
        camera=camera,
        device=device.value if device is not None else "",
        run_as=run_as,
        keep=keep,
        elsewhere=prefix is not None,
    )


def _scope(user: bool) -> Scope:
    return "user" if user else "system"


def _unit_name(profile: str, name: str) -> str:
    stem = name or Path(profile).stem.lower()
    return f"visuomotor-{stem}.service" if stem else ""
