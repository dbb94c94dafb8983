"""The text of a unit file. What each line guards against stands beside it, in the unit itself."""

from __future__ import annotations

import sys
from pathlib import Path

from visuomotor.launch.service import IMPORT_S, MARGIN_S, MARK, Service, environment_file, stop_limit_s
from visuomotor.launch.tasks import VEHICLE

# Cameras, CAN and the GPU rule out PrivateDevices, ProtectClock (it closes all devices but its own), PrivateNetwork and
# MemoryDenyWriteExecute (CUDA compiles); realtime scheduling and namespaces stay as the system has them.
SANDBOX_ANYWHERE = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_CAN
UMask=0027
"""
SANDBOX_SYSTEM = """\
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictNamespaces=yes
CapabilityBoundingSet=
OOMScoreAdjust=-500
"""


def make_unit(service: Service) -> str:
    """The unit file of a checked service."""
    profile, place = service.profile, f"visuomotor/{service.name}"
    system = service.scope == "system"
    home = f" HOME=%S/{place}" if system and not service.run_as else ""  # a made-up user has none
    limits = profile.timeouts
    return f"""\
{MARK}
[Unit]
Description=visuomotor {service.name} ({profile.source.name})
{"After=network.target time-sync.target" if system else "After=basic.target"}
# A run that fails again and again is left alone, so that somebody looks.
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={_command(service)}
# Options and secrets of this machine: VISUOMOTOR_OPTIONS='--camera ...', mode 600.
EnvironmentFile=-{environment_file(service.name, service.scope)}
Environment=VISUOMOTOR_OPTIONS= PYTHONUNBUFFERED=1 TMPDIR=%t/{place}{home}
# The supervisor alone is asked to stop: it brakes to a stop, and ends its nodes itself.
ExecStop=-/bin/sh -c "kill -s TERM ${{MAINPID}} && while kill -s 0 ${{MAINPID}} 2>/dev/null; do sleep 0.1; done"
# If it has died, its nodes are asked: the one that moves the car brakes first.
KillMode=control-group
TimeoutStartSec={limits.ready_s + IMPORT_S:.0f}
TimeoutStopSec={stop_limit_s(profile):.0f}
# It says that it is well only while every node does. A silent node it ends itself, after step_s; this is for its own.
WatchdogSec={limits.step_s + MARGIN_S:.0f}
# It says where it hung, and goes; the nodes ignore this signal.
WatchdogSignal=SIGQUIT
Restart=on-failure
RestartSec=5
# 2 is bad input: it would be bad the next time, too.
RestartPreventExitStatus=2
# A node that takes too much is killed and named; the supervisor decides what then.
MemoryMax=80%
OOMPolicy=continue
LimitNOFILE=8192
LimitCORE=0
# Run folders are in runs/ of the logs' directory; sockets in the runtime directory.
RuntimeDirectory={place}
RuntimeDirectoryMode=0700
StateDirectory={place}
LogsDirectory={place}
WorkingDirectory=%L/{place}
{_identity(service)}{SANDBOX_ANYWHERE}{SANDBOX_SYSTEM if system else ""}
[Install]
WantedBy={"multi-user.target" if system else "default.target"}
"""


def _command(service: Service) -> str:
    on_vehicle = service.profile.task == VEHICLE or service.profile.can is not None
    words = [sys.executable, "-m", "visuomotor.launch.cli", "launch", VEHICLE if on_vehicle else service.profile.task]
    words += ["--profile", str(Path(service.profile.source).absolute()), "--keep", service.keep]
    words += ["--camera", service.camera] if service.camera else []
    words += ["--device", service.device] if service.device else []
    return " ".join([*map(_quote, words), "$VISUOMOTOR_OPTIONS"])


def _quote(word: str) -> str:
    """One word of a command line as systemd.service(5) reads it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(c in word for c in " \t'\";") or not word else word


def _identity(service: Service) -> str:
    if service.scope == "user":
        return ""
    lines = [f"User={service.run_as}"] if service.run_as else ["DynamicUser=yes"]
    if service.groups:
        lines.append(f"SupplementaryGroups={' '.join(service.groups)}")
    return "".join(f"{line}\n" for line in lines)
