"""Cores, memory and disk: what there is, what a container leaves of it, and how long it lasts."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import psutil

from visuomotor.launch.checks.examination import Check, Place, read
from visuomotor.launch.profile import load_profile
from visuomotor.launch.tasks import DEFAULT
from visuomotor.messages.camera import load_camera
from visuomotor.messages.services import CONTROL_RATE_HZ

CORES_WANTED = 2
MEMORY_WANTED_BYTES = 2 * 10**9  # four nodes with their networks take 0.3 GB on a CPU; CUDA's context the rest
DISK_WANTED_BYTES = 2 * 10**9
FILES_WANTED = 1024


def check_machine(place: Place) -> list[Check]:
    """Cores, their governor, memory, open files, disk and how long a recording fits on it."""
    return [
        check_cores(place, len(os.sched_getaffinity(0)), os.cpu_count() or 1),
        check_governor(place),
        check_memory(place, psutil.virtual_memory().available),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        check_disk(place),
    ]


def check_cores(place: Place, allowed: int, existing: int) -> Check:
    """Cores that this process may use; ``allowed`` by its affinity, fewer by a container's quota."""
    quota = cpu_quota(place)
    cores = min(float(allowed), quota) if quota else float(allowed)
    found = f"{cores:g} of {existing}"
    if allowed < existing:
        found += f", affinity leaves {allowed}"
    if quota:
        found += f", a cgroup leaves {quota:g}"
    if cores >= CORES_WANTED:
        return Check("cores", "ok", found)
    do = f"give it {CORES_WANTED} (taskset, docker --cpus, CPUQuota=); with fewer, deadlines will be missed"
    return Check("cores", "note", found, do)


def cpu_quota(place: Place) -> float:
    """Cores that the cgroup allows; 0 where it sets no limit."""
    words = read(_cgroup(place) / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota, period = (read(place.sys / "fs/cgroup/cpu" / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else 0.0


def memory_limit(place: Place) -> int:
    """Bytes that the cgroup allows; 0 where it sets no limit."""
    text = read(_cgroup(place) / "memory.max") or read(place.sys / "fs/cgroup/memory/memory.limit_in_bytes")
    return int(text) if text.isdecimal() and int(text) < 1 << 60 else 0


def _cgroup(place: Place) -> Path:
    """The folder of our own cgroup (v2), or the root of all."""
    own = [line[3:] for line in read(place.proc / "self/cgroup").splitlines() if line.startswith("0::")]
    return place.sys / "fs/cgroup" / (own[0].lstrip("/") if own else "")


def check_governor(place: Place) -> Check:
    """Whether the cores run at full speed when they are asked to."""
    files = sorted((place.sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    governors = sorted({read(file) for file in files} - {""})
    if not governors:
        return Check("governor", "ok", "none: the machine, or what it runs on, sets the frequency")
    slow = [name for name in governors if name in ("powersave", "conservative", "userspace")]
    # powersave of intel_pstate and amd-pstate-epp still scales with the load, only later
    found = ", ".join(governors)
    if slow:
        return Check("governor", "note", found, "cpupower frequency-set -g performance, for steady step times")
    return Check("governor", "ok", found)


def check_memory(place: Place, available_bytes: int) -> Check:
    """Memory that is free now, and what a container leaves."""
    limit = memory_limit(place)
    usable = min(available_bytes, limit) if limit else available_bytes
    found = f"{available_bytes / 1e9:.1f} GB available" + (f", a cgroup allows {limit / 1e9:.1f}" if limit else "")
    if usable >= MEMORY_WANTED_BYTES:
        return Check("memory", "ok", found)
    return Check("memory", "note", found, f"{MEMORY_WANTED_BYTES / 1e9:.0f} GB are enough for everything but training")


def check_open_files(limit: int) -> Check:
    """How many files and sockets one process may hold."""
    if limit >= FILES_WANTED or limit < 0:
        return Check("open files", "ok", "no limit" if limit < 0 else str(limit))
    return Check("open files", "note", str(limit), f"ulimit -n {FILES_WANTED}, or LimitNOFILE= of the service")


def check_disk(place: Place, free_bytes: int | None = None) -> Check:
    """Room where run folders go, and how long a recording could run there at the very least."""
    folder = next(p for p in (place.runs.absolute(), *place.runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    profile = place.profile or load_profile(DEFAULT.profile)
    cameras = [load_camera(Path(file)) for file in profile.camera_files]
    rate = sum(3.0 * camera.width * camera.height for camera in cameras) * CONTROL_RATE_HZ  # frames as they are
    hours = free / rate / 3600.0
    found = f"{free / 1e9:.1f} GB free in {folder}: --record of {len(cameras)} cameras for at least {hours:.1f} h"
    inodes = os.statvfs(folder).f_favail
    if free >= DISK_WANTED_BYTES and inodes != 0:
        return Check("disk", "ok", found)
    do = "visuomotor launch ... --keep 50,2GB,30d removes old run folders; recordings are yours to remove"
    return Check("disk", "bad" if free < DISK_WANTED_BYTES / 40 else "note", found, do)
