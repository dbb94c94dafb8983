"""Sub-commands for a run on several hosts: ``keys`` and ``join``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visuomotor.launch.cli_options import PLAIN, RunDir

ProfileOfHosts = Annotated[str, typer.Argument(metavar="PROFILE", help="Profile with a section `hosts`.")]

keys = typer.Typer(help="Keys and ports of the hosts of a run.", **PLAIN)


@keys.command("new")
def new(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...", help="Names of the hosts, as in the profile.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the key files.")] = Path("keys"),
) -> int:
    """Make a pair of keys for each host; a file that exists is never replaced."""
    from visuomotor.messages.keys import make_keys, public_file, secret_file

    make_keys(out, hosts)
    typer.echo(f"made {out}/ with a pair of keys for each of {', '.join(hosts)}. Copy, over a safe way,")
    public = " ".join(str(public_file(out, host)) for host in hosts)
    for host in hosts:
        typer.echo(f"  to {host}: {secret_file(out, host)} (it alone, mode 600) and {public}")
    typer.echo("into the folder that `hosts.keys` of the profile names there; then keep no secret key of another host.")
    return 0


@keys.command("ports")
def ports(profile: ProfileOfHosts) -> int:
    """Say at which port which host listens, and which hosts' keys open it: what a firewall has to let through."""
    from rich.console import Console
    from rich.table import Table

    from visuomotor.launch.hosts import make_network
    from visuomotor.launch.process_table import make_table
    from visuomotor.launch.profile import ProfileError, load_profile

    loaded = load_profile(profile)
    if loaded.hosts is None:
        raise ProfileError(f"{loaded.source}: hosts: none, so this run needs no ports")
    network = make_network(loaded, make_table(loaded), next(iter(loaded.hosts.members)), check_keys=False)
    table = Table(title=f"{loaded.source.name}, {network.encryption}", min_width=70)
    for name in ("socket", "listens on", "for"):
        table.add_column(name)
    for name, door in sorted(network.doors.items(), key=lambda item: item[1].port):
        address = network.endpoint(network.host_of(name.partition(".")[0]), name)
        table.add_row(name, address, ", ".join(door.hosts))
    Console().print(table)
    return 0


def join(
    profile: ProfileOfHosts,
    host: Annotated[str, typer.Option("--as", metavar="HOST", help="Which host of the profile this is.")],
    once: Annotated[bool, typer.Option("--once", help="End with the first run, not at a signal.")] = False,
    run_dir: RunDir = None,
) -> int:
    """Take part in runs that another host launches: start the nodes of this one, end them with the run."""
    from visuomotor.launch.join import join as take_part
    from visuomotor.launch.profile import load_profile

    return take_part(load_profile(profile), host, once=once, folder=run_dir)
