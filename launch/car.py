"""``visuomotor launch car``: a simulated car for a vehicle profile, which is driven over CAN and seen through video."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from visuomotor.launch.evaluate.score import write_json
from visuomotor.launch.profile import Profile, ProfileError, load_profile
from visuomotor.launch.tasks import VEHICLE

EXIT_DONE, EXIT_FAILED = 0, 1


def drive_car(profile_file: str, seed: int, route: Path | None, wait_s: float, json_file: Path | None) -> int:
    """Run the car of a profile to its end; returns the exit code: 1 when nobody drove it."""
    profile = load_profile(profile_file)
    port = stream_port(profile)
    assert profile.can is not None  # checked by stream_port
    from visuomotor.sim import can_car
    from visuomotor.sim.mjpeg import MjpegServer

    can = profile.can.model_dump()
    config = {
        "suite": profile.suite,
        "split": profile.split,
        "cameras": profile.camera_files,
        "driver": can.pop("driver"),
        "can": can,
    }
    try:
        streams = MjpegServer(tuple(profile.cameras), port)
    except OSError as error:
        raise ProfileError(f"{profile.source.name}: sources: port {port} is not free ({error.strerror})") from error
    try:
        car = can_car.create(config, seed)
        try:
            if route is not None:
                route.parent.mkdir(parents=True, exist_ok=True)
                car.write_route(route)
            sys.stderr.write(f"car: seed {seed}, standing by on CAN {car.link.name} and {streams.url('*')}\n")
            log = can_car.drive(car, streams, wait_s)
        finally:
            car.close()
    finally:
        streams.close()
    sys.stderr.write(f"car: {log.end}, {log.progress_m:.0f} of {log.route_length_m:.0f} m in {log.duration_s:.1f} s\n")
    if json_file is not None:
        write_json(json_file, msgspec.to_builtins(log))
    return EXIT_FAILED if log.end == "not driven" else EXIT_DONE


def stream_port(profile: Profile) -> int:
    """The port on this host that all sources of a profile name. Raises ProfileError for a profile of another car."""
    where = profile.source.name
    if profile.task != VEHICLE or profile.can is None:
        raise ProfileError(f"{where}: expected task 'vehicle' with a CAN bus, got task '{profile.task}'")
    ports = set()
    for name in profile.cameras:
        device = profile.sources[name].device if name in profile.sources else ""
        url = urlsplit(device)
        if (url.scheme, url.hostname, url.path) != ("http", "127.0.0.1", f"/{name}.mjpg") or url.port is None:
            raise ProfileError(f"{where}: sources.{name}: expected http://127.0.0.1:PORT/{name}.mjpg, got '{device}'")
        ports.add(url.port)
    if len(ports) > 1:
        raise ProfileError(f"{where}: sources: expected one port for all cameras, got {sorted(ports)}")
    return ports.pop()
