"""``visuomotor order``: another order for a run that is going on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MANY = 100  # what is ordered without a count


def order(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of the run, as it says when it starts.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help='What to pick from now on, as in "red cube, 2 duck".')],
    wait_s: Annotated[float, typer.Option("--wait", min=1.0, help="Seconds to wait for the answer.")] = 10.0,
) -> int:
    """Give a running shift another order, and say whether its cell took it."""
    import msgspec

    from visuomotor.launch.job import Job
    from visuomotor.launch.process_table import SOURCE
    from visuomotor.launch.tasks import PARTS, load
    from visuomotor.messages.schema import Order
    from visuomotor.messages.word import Word, WordError, say

    path = run_dir / f"{SOURCE}.job.json"
    try:
        job = msgspec.json.decode(path.read_bytes(), type=Job)
    except OSError as error:
        raise ValueError(f"{run_dir}: expected the folder of a run ({path.name}: {error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: not a node of a run ({error})") from error
    row = next((row for row in PARTS.values() if row.takes_orders and row.world == job.spec.module), None)
    if row is None:
        raise ValueError(f"{run_dir}: {job.spec.module} takes no orders")
    load(row.check_order)(text)
    if not Path(job.place.sockets).is_dir():
        raise ValueError(f"{run_dir}: the run has ended")
    try:
        answer = say(job.place, Word("order", text), answer="order", node=SOURCE, timeout_s=wait_s)
    except WordError as error:
        typer.echo(f"visuomotor: {run_dir}: {error}", err=True)
        return 1
    assert isinstance(answer, Order)
    if answer.refused:
        typer.echo(f"visuomotor: refused: {answer.refused}", err=True)
        return 1
    names = row.task.class_names
    counts = zip(names, answer.wanted.tolist(), strict=False)
    wanted = [f"{count} {name}" if count < MANY else f"every {name}" for name, count in counts if count > 0]
    typer.echo(f"wanted from tick {answer.header.tick} on: {', '.join(wanted)}")
    return 0
