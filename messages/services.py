"""The service table: every topic of the bus, its type, rate, age limit, queue policy. All else derives from it."""

from __future__ import annotations

from typing import Literal

import msgspec

from visuomotor.messages import schema

CONTROL_RATE_HZ = 10.0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. ``rate_hz`` 0 means on event; ``max_age_s`` is how old a message may be and still be acted upon."""

    name: str
    type: type[schema.Message]
    rate_hz: float = CONTROL_RATE_HZ
    max_age_s: float = 0.3
    queue: Literal["newest", "all"] = "newest"  # in realtime; lockstep is always lossless
    logged: bool = True
    digested: bool = True
    max_bytes: int = 1 << 20


def _table(*rows: Service) -> dict[str, Service]:
    return {row.name: row for row in rows}


SERVICES: dict[str, Service] = _table(
    *(
        Service(name=f"camera_{name}", type=schema.CameraFrame, max_bytes=16 << 20)
        for name in ("front", "left", "right", "rear", "top", "wrist")
    ),
    Service(name="vehicle_state", type=schema.VehicleState),
    Service(name="arm_state", type=schema.ArmState),
    Service(name="order", type=schema.Order, max_age_s=0.5),
    Service(name="route", type=schema.Route, max_age_s=0.5),
    Service(name="detections", type=schema.Detections),
    Service(name="tracks", type=schema.Tracks),
    Service(name="forecast", type=schema.Forecast),
    Service(name="policy_command", type=schema.PolicyCommand),
    Service(name="command", type=schema.Command),
    Service(name="operator", type=schema.Operator, rate_hz=0.0, queue="all"),
    Service(name="episode", type=schema.Episode, rate_hz=0.0, queue="all", digested=False),
    Service(name="node_health", type=schema.NodeHealth, rate_hz=1.0, max_age_s=3.0, queue="all", digested=False),
    Service(name="trace", type=schema.Trace, queue="all", digested=False),
    Service(name="truth", type=schema.Truth, queue="all"),
)
