"""The clocks: fine enough for stage times, and synchronised, for recordings and for several hosts."""

from __future__ import annotations

import ctypes
import itertools
import time

import msgspec

from visuomotor.launch.checks.examination import Check, Place, read

RESOLUTION_S = 1e-5
BUILT_S = 1_700_000_000  # no run is older than this code
ERROR_MAX_MS = 10.0
UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
SOURCE = "devices/system/clocksource/clocksource0/current_clocksource"
SLOW_SOURCES = ("jiffies", "acpi_pm", "hpet", "pit")


class KernelClock(msgspec.Struct, frozen=True):
    """What the kernel knows of its clock."""

    known: bool
    synchronised: bool = False
    error_ms: float = 0.0  # at most


class _Timex(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_long if name != "modes" else ctypes.c_uint) for name in ("modes", "offset", "freq")],
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def ask_kernel() -> KernelClock:
    """adjtimex(2), which only reads when nothing is to be changed."""
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return KernelClock(known=False)
    return KernelClock(True, not timex.status & UNSYNCHRONISED, timex.maxerror * 1e-3)


def check_clock(place: Place) -> list[Check]:
    """Monotonic clock, its source, wall clock."""
    return [
        check_monotonic(measure_step_s(), read(place.sys / SOURCE)),
        check_wall(ask_kernel(), time.time()),
    ]


def measure_step_s(samples: int = 1000) -> float:
    """The least difference between two different readings of the monotonic clock."""
    times = [time.monotonic_ns() for _ in range(samples)]
    return min((b - a for a, b in itertools.pairwise(times) if b > a), default=10**9) * 1e-9


def check_monotonic(step_s: float, source: str) -> Check:
    """The clock that all stage times are on."""
    found = f"steps of {step_s * 1e6:.2f} us" + (f", from {source}" if source else "")
    if step_s > RESOLUTION_S or source in SLOW_SOURCES:
        return Check("monotonic clock", "note", found, "boot with clocksource=tsc: stage times are coarse, reads slow")
    return Check("monotonic clock", "ok", found)


def check_wall(kernel: KernelClock, now_s: float) -> Check:
    """The clock that recordings and logs are on. Commands depend on the monotonic one alone."""
    service = "timedatectl set-ntp true, or chrony"
    today = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now_s))
    if now_s < BUILT_S:
        return Check("wall clock", "note", f"says {today}", f"{service}; without a battery it starts in the past")
    if not kernel.known:
        return Check("wall clock", "note", "the kernel does not tell whether it is synchronised", service)
    if not kernel.synchronised:
        do = f"{service}; it may step, and recordings of several hosts don't fit together"
        return Check("wall clock", "note", "not synchronised", do)
    found = f"synchronised, at most {kernel.error_ms:.1f} ms off"
    if kernel.error_ms > ERROR_MAX_MS:
        return Check("wall clock", "note", found, "for several hosts use chrony or PTP with a server nearby")
    return Check("wall clock", "ok", found)
