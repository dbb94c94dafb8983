"""Cameras and CAN interfaces: there, and ours to open."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import subprocess
from pathlib import Path

import psutil

from visuomotor.launch.checks.examination import Check, Place, State, read
from visuomotor.launch.tasks import VEHICLE

QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP of videodev2.h: driver[16], card[32], bus[32], version, caps, device caps
QUERYCAP_BYTES = 104
CAPTURES = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, ..._MPLANE
ARPHRD_CAN = "280"  # of if_arp.h


def check_cameras(place: Place) -> list[Check]:
    """Every V4L2 device that delivers images."""
    needed = place.profile is not None and place.profile.task == VEHICLE
    paths = sorted(place.dev.glob("video*"))
    found = [check for path in paths if (check := check_camera(path, needed=needed)) is not None]
    found += _missing_cameras(place, {path.name for path in paths})
    if found:
        return found
    return [Check("cameras", "note", f"no {place.dev}/video*", "plug one in, or give a file or an address to --camera")]


def _missing_cameras(place: Place, there: set[str]) -> list[Check]:
    """The devices that a vehicle's profile names and this host has not."""
    checks = []
    for camera, source in place.profile.sources.items() if place.profile is not None else ():
        name = f"video{source.device}" if source.device.isdecimal() else source.device.removeprefix("/dev/")
        if name.startswith("video") and name[5:].isdecimal() and name not in there:
            do = f"plug it in, or give what there is to --camera {camera}=..."
            state: State = "note" if source.may_fail else "bad"
            checks.append(Check(f"camera {name[5:]}", state, f"no {place.dev}/{name}, sources.{camera}", do))
    return checks


def check_camera(path: Path, *, needed: bool) -> Check | None:
    """One device; None for the nodes beside it that carry no images (metadata, encoders)."""
    state: State = "bad" if needed else "note"
    name = f"camera {path.name.removeprefix('video')}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except PermissionError:
        do = "usermod -aG video USER and log in again (a service has SupplementaryGroups=video)"
        return Check(name, state, f"{path}: no permission to open it", do)
    except OSError as error:
        return Check(name, state, f"{path}: does not open ({error.strerror})", "plug it in again; dmesg says more")
    try:
        answer = array.array("B", bytes(QUERYCAP_BYTES))
        fcntl.ioctl(descriptor, QUERYCAP, answer)
    except OSError as error:
        return Check(name, state, f"{path}: is no camera ({error.strerror})", "take another device, or a video file")
    finally:
        os.close(descriptor)
    return read_capability(name, path, answer.tobytes())


def read_capability(name: str, path: Path, answer: bytes) -> Check | None:
    """What a device says of itself, in the struct v4l2_capability."""
    driver, card = (part.split(b"\0")[0].decode(errors="replace") for part in (answer[:16], answer[16:48]))
    capabilities = int.from_bytes(answer[88:92], "little")  # of this node rather than of the whole device
    if not capabilities & CAPTURES:
        return None
    return Check(name, "ok", f"{path}: {card} ({driver})")


def check_can(place: Place) -> list[Check]:
    """The CAN interfaces of this host, and whether that of the profile is up."""
    wanted = ""
    if place.profile is not None and place.profile.can is not None and place.profile.can.interface == "socketcan":
        wanted = place.profile.can.channel
    net = place.sys / "class/net"
    names = sorted(p.name for p in net.iterdir() if read(p / "type") == ARPHRD_CAN) if net.is_dir() else []
    checks = [check_can_interface(place, name, needed=name == wanted) for name in names]
    if wanted and wanted not in names:
        do = f"ip link set {wanted} up type can bitrate 500000 (or: ip link add {wanted} type vcan), as root"
        checks.append(Check(f"CAN {wanted}", "bad", f"no such interface; there are: {', '.join(names) or 'none'}", do))
    if not checks:
        checks.append(Check("CAN", "note", "no interface", "nothing, unless a car is behind one; udp_multicast works"))
    return checks


def check_can_interface(place: Place, name: str, *, needed: bool) -> Check:
    """One interface: up, its bit rate, and whether it opens for us."""
    flags = read(place.sys / "class/net" / name / "flags")
    state, rate = ask_ip(name)
    up = bool(int(flags or "0", 16) & 0x1)  # IFF_UP
    found = f"{'up' if up else 'down'}{f', {rate / 1000:.0f} kbit/s' if rate else ''}{f', {state}' if state else ''}"
    bad: State = "bad" if needed else "note"
    if not up:
        return Check(f"CAN {name}", bad, found, f"ip link set {name} up type can bitrate 500000, as root")
    if state == "BUS-OFF":
        return Check(f"CAN {name}", bad, found, "see to cables, termination and bit rate; then set it down and up")
    if problem := _try_can(name):
        return Check(
            f"CAN {name}",
            bad,
            f"{found}; does not open: {problem}",
            "a service needs AF_CAN, a container the host's network",
        )
    return Check(f"CAN {name}", "ok", found)


def ask_ip(name: str) -> tuple[str, int]:
    """State of the CAN controller and bit rate, as ``ip`` tells them; empty and 0 where it does not."""
    try:
        command = ["ip", "-details", "-json", "link", "show", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        data = json.loads(done.stdout or "[]")[0]["linkinfo"]["info_data"]
        return str(data.get("state", "")), int(data.get("bittiming", {}).get("bitrate", 0))
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, AttributeError):
        return "", 0


def _try_can(name: str) -> str:
    try:
        with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as bus:
            bus.bind((name,))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_ports(place: Place) -> list[Check]:
    """Ports of this host that a run may want: of CAN over UDP, and of the viewer."""
    wanted = [("tcp", 9876, "viewer of --view", False)]
    if place.profile is not None and place.profile.can is not None:
        can = place.profile.can
        if can.interface == "udp_multicast":
            wanted.insert(0, ("udp", int(can.options.get("port", 43113)), "CAN over UDP", True))
    return [check_port(kind, port, what, shared=shared) for kind, port, what, shared in wanted]


def check_port(kind: str, port: int, what: str, *, shared: bool) -> Check:
    """Whether a port is free, and who has it otherwise. ``shared``: several processes may bind it, each on purpose."""
    name = f"port {port}/{kind}"
    family = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(socket.AF_INET, family) as probe:
            if kind == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
        return Check(name, "ok", f"free, for the {what}")
    except OSError as error:
        problem = error.strerror or str(error)
    who = find_owner(kind, port) or "somebody whom this user may not see"
    do = f"end it, or choose another port for the {what}"
    if shared:
        do = f"if that is another run, give each an own port for {what}, or they hear each other"
    return Check(name, "note", f"{problem}: {who}", do)


def find_owner(kind: str, port: int) -> str:
    """Process that has a port, by name and number; empty where it cannot be seen."""
    try:
        connections = psutil.net_connections(kind)
        pids = [c.pid for c in connections if c.laddr and c.laddr.port == port and c.pid is not None]
        return f"{psutil.Process(pids[0]).name()} (process {pids[0]})" if pids else ""
    except psutil.Error:
        return ""
