"""A run on several hosts, seen from the first: which nodes are where, and the processes of the others as its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from visuomotor import __version__
from visuomotor.deploy.runtime.bundle import Bundle
from visuomotor.launch.inject import Injection
from visuomotor.launch.job import Job
from visuomotor.launch.process_table import SOURCE, NodeSpec
from visuomotor.launch.processes import Processes
from visuomotor.launch.profile import Hosts, Profile, ProfileError
from visuomotor.messages.host_link import HostServer, HostState
from visuomotor.messages.keys import load_pair, load_public
from visuomotor.messages.network import CURVE, PLAIN, Network, assign_ports, make_doors

NEAR_THE_ACTUATORS = (SOURCE, "vehicle", "guard")  # what must still brake when the network is gone
STOP_LOOK_S = 0.02
PLAIN_WARNING = "plain tcp: anyone on this network can read every message and send commands"


class HostTask(msgspec.Struct, frozen=True, kw_only=True):
    """What another host makes its nodes from. Nothing in it is code: modules come from that host's own installation."""

    version: str
    profile: dict[str, Any]
    bundles: dict[str, str]  # name -> digest
    calibrations: dict[str, str]  # camera -> sha256
    faults: dict[str, tuple[Injection, ...]]


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a supervisor needs of a run on several hosts."""

    network: Network
    task: HostTask
    silent_s: float


def make_network(
    profile: Profile, table: Sequence[NodeSpec], own: str, *, clock_file: str = "", check_keys: bool = True
) -> Network:
    """The hosts of a profile as ``own`` sees them. Raises ProfileError (KeyFileError) that names what does not fit."""
    hosts = get_hosts(profile, own)
    where = {node: name for name, member in hosts.members.items() for node in member.nodes}
    specs = {spec.name: spec for spec in table}
    if set(where) != set(specs):
        raise ProfileError(
            f"{profile.source}: hosts: expected each of {', '.join(specs)} on one host, got {', '.join(where)}"
        )
    first = where[SOURCE]  # every table has one
    for node in NEAR_THE_ACTUATORS:
        if where.get(node, first) != first:
            raise ProfileError(
                f"{profile.source}: hosts.{where[node]}: {node} must be with {SOURCE} on '{first}', "
                "so that the car still brakes when the network is gone"
            )
    network = Network(
        own=own,
        first=first,
        addresses={name: member.address for name, member in hosts.members.items()},
        nodes=where,
        doors=make_doors(
            assign_ports(hosts.base_port, list(where)),
            where,
            first,
            {name: spec.inputs for name, spec in specs.items()},
            {name: spec.outputs for name, spec in specs.items()},
        ),
        encryption=hosts.encryption,
        keys=str(hosts.keys_folder(profile.source)),
        clock_file=clock_file,
    )
    if network.encryption == CURVE and check_keys:
        load_pair(Path(network.keys), own)
        for host in network.addresses:
            load_public(Path(network.keys), host)
    return network


def get_hosts(profile: Profile, own: str) -> Hosts:
    """The hosts of a profile; ProfileError when it has none, or not ``own``."""
    if profile.hosts is None:
        raise ProfileError(f"{profile.source}: hosts: none, so this run is on one host; expected no --as {own}")
    if own not in profile.hosts.members:
        raise ProfileError(f"--as: no host '{own}' in {profile.source}; expected {', '.join(profile.hosts.members)}")
    return profile.hosts


def adapt(profile: Profile, own: str) -> Profile:
    """The profile with what is different on one of its hosts."""
    return profile.override(device=get_hosts(profile, own).members[own].device)


def make_plan(
    profile: Profile,
    table: Sequence[NodeSpec],
    own: str,
    bundles: Mapping[str, Bundle],
    faults: Mapping[str, tuple[Injection, ...]],
) -> HostPlan:
    """How a run that is launched on ``own`` goes on with the other hosts."""
    network = make_network(profile, table, own)
    if own != network.first:
        raise ProfileError(f"--as {own}: a run is launched on the host of {SOURCE}, '{network.first}'; here: join")
    task = HostTask(
        version=__version__,
        profile=profile.model_dump(mode="json", exclude={"source"}),
        bundles={name: bundle.digest for name, bundle in bundles.items()},
        calibrations=digest_calibrations(profile),
        faults=dict(faults),
    )
    assert profile.hosts is not None  # make_network has looked
    return HostPlan(network=network, task=task, silent_s=profile.hosts.silent_s)


def digest_calibrations(profile: Profile) -> dict[str, str]:
    """Camera -> sha256 of its calibration."""
    files = zip(profile.cameras, profile.camera_files, strict=True)
    return {camera: hashlib.sha256(Path(file).read_bytes()).hexdigest() for camera, file in files}


class HostedProcesses(Processes):
    """Processes of all hosts of a run: ``jobs`` are those of this one."""

    def __init__(self, jobs: Sequence[Job], run_id: str, plan: HostPlan) -> None:
        super().__init__(jobs)
        self._plan = plan
        self._run_id = run_id
        self._elsewhere = {n: h for n, h in plan.network.nodes.items() if h != plan.network.own}
        self._lost: dict[str, tuple[int, str]] = {}  # node -> life with which its host was given up, and why
        self._server = HostServer(plan.network, run_id, msgspec.msgpack.encode(plan.task))

    def start(self) -> None:
        """Start those of this host; let the others start theirs, as soon as they come."""
        super().start()
        for name in self._elsewhere:
            self._server.start(name)

    def start_one(self, name: str, *, again: bool = False) -> None:
        """Start one, ``again`` in place of one that died; its log is begun anew."""
        if name in self._elsewhere:
            self._server.start(name)
        else:
            super().start_one(name, again=again)

    def find_dead(self) -> dict[str, str]:
        """Node -> how it ended, for every process that is no more, or whose host can't be heard any more."""
        dead = super().find_dead()
        self._server.refused()
        for host, state in self._server.states().items():
            if gone := self._why_gone(host, state):
                self._server.give_up(host)
                self._lost |= {node: (state.lives[node], gone) for node in state.nodes}
            for node in state.nodes:
                life, gone = self._lost.get(node, (0, ""))
                death = None if state.report is None else state.report.deaths.get(node)
                if life and life == state.lives[node]:
                    dead[node] = gone
                elif death is not None and death.life == state.lives[node]:
                    dead[node] = f"{death.how} on host {host}"
        return dead

    def _why_gone(self, host: str, state: HostState) -> str:
        """Why a host is given up; empty when it is not."""
        report = state.report
        if report is None:
            return ""
        if report.refused and report.run_id == self._run_id:
            return f"was refused by host {host}: {report.refused}"
        if not state.taken_up:
            return ""
        if report.leaving:
            return f"is gone: host {host} left the run ({report.leaving})"
        if state.silent_s > self._plan.silent_s:
            return f"can't be reached: host {host} was silent for {state.silent_s:.1f} s"
        if report.run_id != self._run_id:
            return f"is gone: host {host} has begun anew"
        return ""

    def bad_input(self, name: str) -> str:
        """Why a node or its host refused the configuration; empty when that is not how it ended."""
        if name not in self._elsewhere:
            return super().bad_input(name)
        host = self._elsewhere[name]
        report = self._server.states()[host].report
        if report is None:
            return ""
        death = report.deaths.get(name)
        return report.refused or (death.bad_input if death is not None else "")

    def absent(self) -> str:
        """Which hosts have not come, and what to do about it."""
        missing = [host for host, state in self._server.states().items() if state.report is None]
        return "".join(f"; host {host} has not come: `visuomotor join PROFILE --as {host}` there" for host in missing)

    def last_words(self, name: str) -> str:
        """The last line that a node printed."""
        if name not in self._elsewhere:
            return super().last_words(name)
        report = self._server.states()[self._elsewhere[name]].report
        death = None if report is None else report.deaths.get(name)
        return death.last_words if death is not None and name not in self._lost else ""

    def log_path(self, name: str) -> str:
        """Where a node's output is."""
        if name not in self._elsewhere:
            return super().log_path(name)
        host = self._elsewhere[name]
        return f"{self._server.states()[host].folder}/{name}.log on {host}"

    def kill(self, name: str) -> None:
        """End one process and what it started at once."""
        if name in self._elsewhere:
            self._server.kill(name)
        else:
            super().kill(name)

    def stop(self, timeout_s: float) -> None:
        """Ask all to stop, those of other hosts first; whoever has not after ``timeout_s`` is killed by its host."""
        self._server.finish()
        super().stop(timeout_s)
        pause, deadline = threading.Event(), time.monotonic() + 2 * timeout_s
        while self._still_running() and time.monotonic() < deadline:
            pause.wait(STOP_LOOK_S)
        self._server.close()

    def _still_running(self) -> bool:
        return any(
            state.taken_up
            and state.report is not None
            and state.report.run_id == self._run_id
            and not (state.report.leaving or state.report.refused)
            and state.silent_s < self._plan.silent_s
            for state in self._server.states().values()
        )

    def __len__(self) -> int:
        return super().__len__() + len(self._elsewhere)

    def describe(self, refused: Mapping[str, int]) -> dict[str, Any]:
        """For the score: nodes of each other host, its clock's offset and bound in ms; who was refused at any door."""
        facts: dict[str, Any] = {}
        for host, state in self._server.states().items():
            offset = None if state.report is None else state.report.offset
            facts[host] = {"nodes": list(state.nodes)}
            if offset is not None:
                facts[host] |= {
                    "clock_offset_ms": round(offset.offset_ns * 1e-6, 6),
                    "clock_bound_ms": round(offset.bound_at(offset.at_ns) * 1e-6, 6),
                }
        total = dict(Counter(refused) + Counter(self._server.refused()))
        return {"encryption": self._plan.network.encryption, "refused": total, "others": facts}


def assume(network: Network) -> list[str]:
    """What a score has to say about the network."""
    return [PLAIN_WARNING] if network.encryption == PLAIN else []
