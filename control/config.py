"""Vehicle geometry and the envelope that the policy is trained in and the guard enforces."""

from __future__ import annotations

import msgspec


class Vehicle(msgspec.Struct, frozen=True, kw_only=True):
    """A mid-size car. The origin of ``ego_`` is the ground point under the middle of the wheelbase."""

    length_m: float = 4.5
    width_m: float = 1.8
    height_m: float = 1.5
    wheelbase_m: float = 2.7
    mass_kg: float = 1500.0
    max_steering_angle_rad: float = 0.55


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of comfort-and-safety driving; the guard alone may brake down to ``emergency_acceleration_mps2``.

    Sources: ISO 15622 (ACC: -3.5 .. +2.0 m/s2 at higher speeds), ISO 11270:2014 5.4 (lane keeping: lateral 3.0 m/s2);
    the others are chosen, see the table in docs/guard.md.
    """

    min_acceleration_mps2: float = -3.5
    max_acceleration_mps2: float = 2.0
    max_lateral_acceleration_mps2: float = 3.0
    max_jerk_mps3: float = 25.0  # change of commanded acceleration per second
    max_steering_rate_radps: float = 0.6
    emergency_acceleration_mps2: float = -8.0


VEHICLE = Vehicle()
ENVELOPE = Envelope()
