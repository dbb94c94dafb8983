"""The other hosts of a run: ``visuomotor join`` waits for the first, starts nodes here and ends them with the run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from visuomotor import __version__
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.deploy.runtime.device import check_device
from visuomotor.launch.hosts import HostTask, adapt, assume, digest_calibrations, get_hosts, make_network
from visuomotor.launch.job import Job
from visuomotor.launch.process_table import NodeSpec, make_table
from visuomotor.launch.processes import Processes
from visuomotor.launch.profile import Profile, ProfileError, restore_profile
from visuomotor.launch.signals import TO_END, handling
from visuomotor.messages.host_link import Death, HostClient, Wish
from visuomotor.messages.network import LINK, Network
from visuomotor.messages.run_clock import Offset, write_offset
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.wiring import RunPlace

POLL_S = 0.05
CLOCK_NAME = "clock"
OFFSET_PERIOD_S = 0.5


def join(profile: Profile, own: str, *, once: bool = False, folder: Path | None = None) -> int:
    """Take part in the runs of a profile as host ``own`` until a signal comes, or in one; returns the exit code.

    Bad input raises ValueError before anything is started.
    """
    network = make_network(profile, make_table(profile), own)
    if own == network.first:
        others = ", ".join(host for host in network.addresses if host != own)
        raise ProfileError(f"--as {own}: this host launches the run; expected one of {others}")
    for warning in assume(network):
        _say(f"WARNING: {warning}")
    with _interruptible() as interrupted:
        guest = Guest(profile, network, folder)
        try:
            return guest.serve(interrupted, once)
        finally:
            guest.close()


class Guest:
    """This host between runs and in them."""

    def __init__(self, profile: Profile, network: Network, folder: Path | None) -> None:
        self._profile, self._network, self._folder = profile, network, folder
        self._silent_s = get_hosts(profile, network.own).silent_s
        self._client = HostClient(network)
        self._crew: Crew | None = None
        self._over = ""  # the run that is over for us
        self._refused = ("", "")  # the run that we refuse, and why
        self._told = ""

    def serve(self, interrupted: Callable[[], str], once: bool) -> int:
        """Until interrupted, or until one run is over; the exit code."""
        first = self._network.first
        self._tell(f"waits for {first} at {self._network.endpoint(first, LINK)}")
        while not (word := interrupted()):
            self._exchange(POLL_S)
            if self._crew is None:
                wish = self._client.wish
                if wish is not None and self._is_to_begin(wish) and not self._begin(wish) and once:
                    self._report_last(run_id=wish.run_id, refused=self._refused[1])
                    return 2
            elif ended := self._follow(self._crew):
                self._end(ended)
                if once:
                    return 0 if self._over else 1
        if self._crew is None:
            return 0
        self._end(word, leaving=word)
        return 1

    def _is_to_begin(self, wish: Wish) -> bool:
        new = wish.run_id not in (self._over, self._refused[0]) and not wish.over and bool(wish.task)
        alive = any(life > wish.kills.get(node, 0) for node, life in wish.lives.items())
        return new and alive and self._client.offset is not None and self._client.silent_s() < self._silent_s

    def _begin(self, wish: Wish) -> bool:
        """Take up a run; False when this host refuses it, and why is told to the first."""
        offset = self._client.offset
        assert offset is not None
        try:
            self._crew = Crew(self._profile, self._network.own, wish, offset, self._folder)
        except (ValueError, OSError) as error:
            self._refused = (wish.run_id, str(error))
            self._tell(f"run {wish.run_id}: refused: {error}")
            return False
        self._client.say_now()
        self._tell(f"run {wish.run_id}: starts {', '.join(wish.lives)}; logs in {self._crew.folder}")
        return True

    def _follow(self, crew: Crew) -> str:
        """Do what the first host wishes; why the run has ended here, or nothing."""
        wish, offset = self._client.wish, self._client.offset
        assert wish is not None
        if self._client.silent_s() > self._silent_s:
            return f"{self._network.first} was silent for {self._client.silent_s():.1f} s"
        if wish.run_id != crew.run_id:
            return f"{self._network.first} has begun another run"
        if wish.over:
            self._over = crew.run_id
            return "over"
        if crew.follow(wish, offset):
            self._client.say_now()
        return ""

    def _end(self, why: str, leaving: str = "") -> None:
        crew = self._crew
        assert crew is not None
        self._tell(f"run {crew.run_id}: {why}; ends {len(crew.processes)} nodes")
        stopping = threading.Thread(target=crew.close)
        stopping.start()
        while stopping.is_alive():
            self._exchange(POLL_S, leaving=leaving)
        self._crew = None
        self._report_last(leaving=leaving)
        self._tell(f"waits for the next run of {self._network.first}" if not leaving else f"left: {leaving}")

    def _exchange(self, timeout_s: float, leaving: str = "") -> None:
        run_id, refused = self._refused
        said: dict[str, Any] = {"run_id": run_id, "refused": refused, "leaving": leaving}
        if self._crew is not None:
            folder = str(self._crew.folder)
            said |= {"run_id": self._crew.run_id, "refused": "", "deaths": self._crew.deaths(), "folder": folder}
        self._client.exchange(timeout_s, **said)
        if self._client.trouble:
            self._tell(self._client.trouble)

    def _report_last(self, **said: str) -> None:
        """Say a last word, and see that it arrives, if anybody is there."""
        for _ in range(3):
            self._client.say_now()
            if self._client.exchange(POLL_S, **said):
                return

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            _say(text)

    def close(self) -> None:
        """End what is left."""
        if self._crew is not None:
            self._crew.close()
        self._client.close()


class Crew:
    """The nodes of one run that are on this host."""

    def __init__(self, profile: Profile, own: str, wish: Wish, offset: Offset, folder: Path | None) -> None:
        self.run_id = wish.run_id
        given, task = read_task(profile, own, wish.task)
        self._lives: dict[str, int] = {}
        self._killed: dict[str, int] = {}
        self._deaths: dict[str, Death] = {}
        self._stop_s = given.timeouts.stop_s
        folder = folder or Path("runs") / time.strftime(f"join-{own}-%Y%m%d-%H%M%S-{os.getpid()}")
        self._directory = RunDirectory(folder)
        self.folder = self._directory.path
        try:
            self._clock = self.folder / CLOCK_NAME
            self._offset_due_s = 0.0
            self._tell_offset(offset)
            table = make_table(given, run_dir=str(self.folder))
            network = make_network(given, table, own, clock_file=str(self._clock))
            place = RunPlace(str(self._directory.sockets), wish.run_id, given.clock, network)
            here = [spec for spec in table if not place.other_host(spec.name)]
            check_bundles_here(here, task)
            check_device(given.device)
            self.processes = Processes(
                [
                    Job(
                        spec=spec,
                        place=place,
                        run_dir=str(self.folder),
                        parent_pid=os.getpid(),
                        join_timeout_s=2 * given.timeouts.ready_s,
                        faults=task.faults.get(spec.name, ()),
                    )
                    for spec in here
                ]
            )
        except BaseException:
            self._directory.close()
            raise

    def follow(self, wish: Wish, offset: Offset | None) -> bool:
        """Start and kill what is wished; True when anything was done."""
        if offset is not None and time.monotonic() >= self._offset_due_s:
            self._tell_offset(offset)
        done = False
        for node, life in wish.lives.items():
            if life > max(self._lives.get(node, 0), wish.kills.get(node, 0)):
                self._lives[node], done = life, True
                self.processes.start_one(node, again=life > 1)
        for node, life in wish.kills.items():
            if life == self._lives.get(node) and life > self._killed.get(node, 0):
                self._killed[node], done = life, True
                self.processes.kill(node)
        return done

    def _tell_offset(self, offset: Offset) -> None:
        self._offset_due_s = time.monotonic() + OFFSET_PERIOD_S
        write_offset(self._clock, offset)

    def deaths(self) -> dict[str, Death]:
        """How nodes ended, with their last start."""
        for name, how in self.processes.find_dead().items():
            if name not in self._deaths or self._deaths[name].life != self._lives[name]:
                words, refusal = self.processes.last_words(name), self.processes.bad_input(name)
                self._deaths[name] = Death(self._lives[name], how, words, refusal)
        return dict(self._deaths)

    def close(self) -> None:
        """Stop the nodes and give up the directory."""
        self.processes.stop(self._stop_s)
        self._directory.close()


def read_task(profile: Profile, own: str, data: bytes) -> tuple[Profile, HostTask]:
    """The run's profile as this host sees it. ValueError when it does not fit to this host's own, which it names."""
    try:
        task = msgspec.msgpack.decode(data, type=HostTask)
    except msgspec.MsgspecError as error:
        raise ValueError(f"what the first host wants can't be read ({error}); expected the same version") from error
    if task.version != __version__:
        raise ValueError(f"visuomotor {task.version} on the first host, {__version__} here; expected the same")
    given = restore_profile(task.profile, profile)
    ours = _comparable(profile.model_dump(mode="json"))
    if ours != (theirs := _comparable(task.profile)):
        different = [key for key in ours if ours[key] != theirs.get(key)]
        raise ValueError(f"{profile.source}: hosts: {', '.join(different)}: not as on the first host")
    here = digest_calibrations(given)
    if different := [camera for camera, digest in task.calibrations.items() if here.get(camera) != digest]:
        raise ValueError(f"{profile.source}: calibration of {', '.join(different)}: not the one of the first host")
    return adapt(given, own), task


def _comparable(profile: dict[str, Any]) -> dict[str, Any]:
    """The hosts of a profile but for where each keeps its keys."""
    return {key: value for key, value in profile["hosts"].items() if key != "keys"}


def check_bundles_here(specs: Sequence[NodeSpec], task: HostTask) -> None:
    """ValueError (BundleError) for a bundle of these nodes that is missing here or not the one of the first host."""
    for spec in specs:
        for name in _texts(spec.config):
            if name in task.bundles and (here := load_bundle(name).digest) != task.bundles[name]:
                raise ValueError(f"bundle {name} of {spec.name}: {here[:12]} here, {task.bundles[name][:12]} first")


def _texts(value: object) -> Iterator[str]:
    """All strings in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], str]]:
    """SIGINT, SIGTERM and SIGHUP end the nodes in order; what was sent is what the function returns."""
    sent: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        sent.append(signal.Signals(number).name)

    with handling(TO_END, note):
        yield lambda: sent[0] if sent else ""


def _say(text: str) -> None:
    sys.stderr.write(f"visuomotor: {text}\n")
    sys.stderr.flush()
