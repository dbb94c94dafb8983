"""Whether a vehicle profile can be driven on this machine, found out before any process is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from visuomotor.deploy.vehicle.capture import CameraError, SourceSettings, check_source, quiet
from visuomotor.deploy.vehicle.route import RouteError, RouteLine, load_route
from visuomotor.launch.profile import STRAIGHT, CanBus, Profile, Source
from visuomotor.launch.tasks import VEHICLE

LISTEN_S = 2.0  # for each message of the car to come once


def choose_sources(profile: Profile, cameras: Sequence[str]) -> dict[str, Source]:
    """Sources of a profile with those of the command line (``[NAME=]SOURCE``) in their place. Raises ValueError."""
    if cameras and profile.task != VEHICLE:
        raise ValueError(f"{profile.source.name}: --camera {cameras[0]}: the cameras of this profile are simulated")
    chosen = dict(profile.sources)
    given: set[str] = set()
    for text in cameras:
        name, _, device = text.partition("=")
        if not name.startswith("camera_"):  # an address may have '=' in it
            name, device = next(iter(profile.cameras)), text
        if name not in profile.cameras or not device:
            names = ", ".join(profile.cameras)
            raise ValueError(f"{profile.source.name}: --camera {text}: expected [NAME=]SOURCE, NAME one of {names}")
        if name in given:
            raise ValueError(f"{profile.source.name}: --camera {text}: {name} is given twice")
        given.add(name)
        chosen[name] = Source(device=device)
    return chosen


def check_vehicle(profile: Profile) -> None:
    """Open every camera, listen to the CAN bus, read the route. Raises ValueError that names all that is not there."""
    without = [name for name in profile.cameras if name not in profile.sources]
    if without:
        raise ValueError(
            f"{profile.source.name}: no source of {', '.join(without)}: expected --camera NAME=SOURCE or an entry "
            "under sources"
        )
    problems = _check_cameras(profile)
    route: RouteLine | None = None
    if profile.route != STRAIGHT:
        try:
            route = load_route(profile.source.parent / profile.route)
        except RouteError as error:
            problems.append(f"route: {error}")
    if profile.can is not None:
        problems += _check_can(profile.can, route)
    if problems:
        raise ValueError(f"{profile.source.name}: " + "; ".join(problems))


def check_bus(profile: Profile) -> None:
    """Open the CAN bus of a simulated car, and leave it again. Raises ValueError that names what is wrong with it."""
    from visuomotor.deploy.vehicle.can_codec import CanError
    from visuomotor.deploy.vehicle.can_link import open_link

    assert profile.can is not None
    try:
        link = open_link(("COMMAND",), profile.can.model_dump())
        try:
            for press in profile.can.driver:
                link.codec.signal_range("DRIVER", press.signal)
        finally:
            link.close()
    except CanError as error:
        raise ValueError(f"{profile.source.name}: can: {error}") from error


def _check_cameras(profile: Profile) -> list[str]:
    sources = {
        name: msgspec.convert(source.model_dump(), SourceSettings)
        for name, source in profile.sources.items()
        if not source.may_fail
    }

    def check(item: tuple[str, SourceSettings]) -> str:
        try:
            check_source(item[1])
        except CameraError as error:
            return f"sources.{item[0]}: {error}"
        return ""

    with quiet(), ThreadPoolExecutor() as pool:  # a dead address takes seconds to be given up
        return [problem for problem in pool.map(check, sources.items()) if problem]


def _check_can(can: CanBus, route: RouteLine | None) -> list[str]:
    from visuomotor.deploy.vehicle.can_codec import CanError
    from visuomotor.deploy.vehicle.can_link import open_link
    from visuomotor.deploy.vehicle.can_node import NAVIGATION, REQUIRED

    wanted = (*REQUIRED, *(NAVIGATION if can.navigation else ()))
    try:
        link = open_link(wanted, can.model_dump())
    except CanError as error:
        return [f"can: {error}"]
    try:
        deadline = time.monotonic() + LISTEN_S
        while (silent := [name for name in wanted if link.newest(name) is None]) and time.monotonic() < deadline:
            time.sleep(0.02)
        if silent:
            counted = ", ".join(f"{n} {cause}" for cause, n in link.faults.items())
            why = f" ({counted})" if counted else ""
            return [
                f"can: {link.name}: no {', '.join(silent)} within {LISTEN_S:.0f} s{why}; is the car on, the bit rate "
                f"right, and can.dbc its DBC file?"
            ]
        if route is not None:
            position, heading = link.newest("POSITION"), link.newest("HEADING")
            assert position is not None and heading is not None  # noqa: PT018
            route.check_start((position.values["X"], position.values["Y"], heading.values["Yaw"]))
    except (CanError, RouteError) as error:
        return [f"can: {error}" if isinstance(error, CanError) else f"route: {error}"]
    finally:
        link.close()
    return []
