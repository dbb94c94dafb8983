"""A run on two hosts: two trees of processes on two loopback addresses, a toy world, everything else as on the road."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import yaml

from visuomotor.launch.cli import run_app
from visuomotor.launch.hosts import HostPlan, make_plan
from visuomotor.launch.join import check_bundles_here, read_task
from visuomotor.launch.process_table import make_table
from visuomotor.launch.profile import PROFILES, Profile, ProfileError, Timeouts, load_profile
from visuomotor.launch.supervisor import Outcome, RunError, Supervisor
from visuomotor.messages.bus import Received
from visuomotor.messages.keys import make_keys
from visuomotor.messages.network import PLAIN
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Episode, NodeHealth, Truth

NODES = Path(__file__).parent / "nodes"
Outlast = Callable[[Sequence[psutil.Process]], list[psutil.Process]]
CAR, GPU_BOX = (f"127.{os.getpid() >> 8 & 127}.{os.getpid() & 255}.{number}" for number in (11, 12))
PATIENCE_S = 20.0  # silence of a host that counts as its end: a busy machine is no dead one


def write_profile(folder: Path, **hosts: Any) -> Path:
    data = yaml.safe_load((PROFILES / "drive.yaml").read_text())
    data["cameras"] = {name: str(PROFILES / file) for name, file in data["cameras"].items()}
    data |= {"policy": "idm", "device": "cpu"}
    data["perception"] = {"mode": "truth", "forecaster": "cv"}
    members = {
        "car": {"address": CAR, "nodes": ["world", "policy", "guard"]},
        "gpu-box": {"address": GPU_BOX, "nodes": ["perception"]},
    }
    data["hosts"] = {"members": members, "keys": "keys", "silent_s": PATIENCE_S} | hosts
    data["hosts"] = {key: value for key, value in data["hosts"].items() if value is not None}
    file = folder / "two-hosts.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["car", "gpu-box"])
    return write_profile(tmp_path)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        select.select([], [], [], 0.02)  # leaves the cores to the nodes


class Join:
    """``visuomotor join`` as the process of another host."""

    def __init__(self, profile: Path, folder: Path, *options: str) -> None:
        self.folder = folder
        self.errors = folder.with_suffix(".txt")
        command = [sys.executable, "-m", "visuomotor.launch.cli", "join", str(profile), "--as", "gpu-box"]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen([*command, "--run-dir", str(folder), *options], stderr=errors)

    def nodes(self) -> list[psutil.Process]:
        """Its node processes, found by their command line: also when they have lost their parent."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(part.startswith(str(self.folder)) for part in process.info["cmdline"] or [])
            and "visuomotor.launch.run_node" in process.info["cmdline"]
        ]

    def said(self) -> str:
        return self.errors.read_text()


@pytest.fixture
def join(profile_file: Path, tmp_path: Path) -> Iterator[Callable[..., Join]]:
    started: list[Join] = []

    def start(*options: str) -> Join:
        started.append(Join(profile_file, tmp_path / f"gpu-box{len(started)}", *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
    for one in started:
        wait_for(lambda o=one: not o.nodes(), "the other host's nodes to end")  # type: ignore[misc]


def run_toy(
    profile: Profile,
    folder: Path,
    *,
    hosts: bool = True,
    on_tick: Callable[[int], None] | None = None,
    restart: bool = False,
    **world: object,
) -> tuple[Outcome, list[Received], dict[str, Any]]:
    """One episode of seed 7; what the supervisor says of the hosts is the third of what is returned.

    With ``restart`` a second episode follows, with the dead nodes of the first anew: its outcome is not a fault.
    """
    table = make_table(profile)
    plan: HostPlan | None = make_plan(profile, table, "car", {}, {}) if hosts else None
    table[0] = msgspec.structs.replace(table[0], module="toy_world:create", config=world)
    seen: list[Received] = []
    timeouts = Timeouts(step_s=30.0, ready_s=90.0)

    def on_message(received: Received) -> None:
        seen.append(received)
        if on_tick is not None and isinstance(received.message, Truth):
            on_tick(received.tick)

    with (
        RunDirectory(folder) as run_dir,
        Supervisor(table, run_dir, clock=profile.clock, timeouts=timeouts, hosts=plan) as supervisor,
    ):
        supervisor.start()
        outcome = supervisor.run_episode(Episode(phase="reset", index=0, seed=7), on_message)
        facts = supervisor.describe_hosts()
        if restart:
            assert supervisor.restart_dead()
            again = supervisor.run_episode(Episode(phase="reset", index=1, seed=7), on_message)
            assert again.end == "goal"
    return outcome, seen, facts


@pytest.fixture(autouse=True)
def toy_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NODES))


def last_speed_mps(seen: list[Received]) -> float:
    return [r.message.speed_mps for r in seen if isinstance(r.message, Truth)][-1]


@pytest.mark.slow
def test_two_hosts_give_the_bytes_of_one_and_go_on_after_a_death(
    profile_file: Path, tmp_path: Path, join: Callable[..., Join]
) -> None:
    other = join()
    profile = load_profile(profile_file)
    killed: list[int] = []

    def kill(tick: int) -> None:
        if tick >= 5 and not killed:
            (node,) = other.nodes()
            assert node.ppid() == other.process.pid
            killed.append(node.pid)
            node.send_signal(signal.SIGKILL)

    outcome, seen, _ = run_toy(profile, tmp_path / "a", on_tick=kill, restart=True, speed_mps=4.0, length_m=40.0)
    assert outcome.fault is not None
    assert outcome.fault.node == "perception"
    assert outcome.fault.text.startswith("was killed by SIGKILL on host gpu-box")
    assert "its last message was" in outcome.fault.text
    assert outcome.stopped
    assert min(r.message.speed_mps for r in seen if isinstance(r.message, Truth)) < 0.1
    assert other.nodes() == []

    outcome, seen, facts = run_toy(profile, tmp_path / "b", length_m=30.0)
    alone, _, _ = run_toy(profile, tmp_path / "c", hosts=False, length_m=30.0)
    assert outcome.end == alone.end == "goal"
    assert outcome.topic_digests == alone.topic_digests != {}
    health = [r.message for r in seen if r.node == "perception" and isinstance(r.message, NodeHealth)]
    assert [h.dropped for h in health] == [{}] * len(health)
    offset_ms, bound_ms = (facts["others"]["gpu-box"][f"clock_{what}_ms"] for what in ("offset", "bound"))
    assert abs(offset_ms) <= bound_ms < 50.0, "both 'hosts' have the same clock"
    assert facts["refused"] == {}
    assert other.nodes() == []
    assert other.process.poll() is None, "it waits for the next run"
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait(30) == 0


@pytest.mark.slow
def test_a_host_that_falls_silent_is_named_and_the_car_brakes(
    profile_file: Path, tmp_path: Path, join: Callable[..., Join]
) -> None:
    profile = load_profile(write_profile(tmp_path, silent_s=3.0))
    other = join("--once")
    stopped: list[int] = []

    def stop(tick: int) -> None:
        if tick >= 5 and not stopped:
            stopped.append(tick)
            other.process.send_signal(signal.SIGSTOP)

    outcome, seen, _ = run_toy(profile, tmp_path / "a", on_tick=stop, speed_mps=4.0, step_s=0.05)
    assert outcome.fault is not None
    assert outcome.fault.node == "perception"
    assert "can't be reached: host gpu-box was silent for" in outcome.fault.text
    assert outcome.stopped
    assert last_speed_mps(seen) < 0.1
    other.process.send_signal(signal.SIGCONT)
    assert other.process.wait(60) == 1
    assert "car was silent for" in other.said()
    assert other.nodes() == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["join", "launch"])
def test_when_one_side_is_killed_no_process_stays_on_either(
    profile_file: Path, tmp_path: Path, join: Callable[..., Join], outlast: Outlast, victim: str
) -> None:
    write_profile(tmp_path, silent_s=3.0)
    other, run_dir = join(), tmp_path / "run"
    launch = subprocess.Popen(
        [sys.executable, str(NODES / "toy_run.py"), str(run_dir), "lockstep"]
        + ["--profile", str(profile_file), "--as", "car"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    wait_for(lambda: (run_dir / "moving").exists() or launch.poll() is not None, "the car to move", 120.0)
    nodes = psutil.Process(launch.pid).children()
    assert len(nodes) == 3
    assert len(other.nodes()) == 1
    if victim == "join":
        other.process.kill()
        _, errors = launch.communicate(timeout=90)
        assert launch.returncode == 1
        assert "fault: perception can't be reached: host gpu-box was silent" in errors, errors
        assert "the car was braked to a stop" in errors
        (episode,) = json.loads((run_dir / "score.json").read_text())["episodes"]
        assert (episode["end"], episode["fault_node"]) == ("fault", "perception")
    else:
        launch.kill()
        launch.communicate()
        wait_for(lambda: "car was silent for" in other.said(), "the other host to notice")
        assert other.process.poll() is None
    wait_for(lambda: not other.nodes(), "the nodes of the other host to end")
    assert outlast(nodes) == []


def test_what_is_wrong_with_the_hosts_is_named(tmp_path: Path, profile_file: Path) -> None:
    def complaint(**hosts: Any) -> str:
        with pytest.raises(ProfileError) as caught:
            load_profile(write_profile(tmp_path, **hosts))
        return str(caught.value)

    car = {"address": CAR, "nodes": ["world", "policy", "guard"]}
    gpu = {"address": GPU_BOX, "nodes": ["perception"]}
    assert "hosts.members: Dictionary should have at least 2" in complaint(members={"car": car})
    assert "expected an IPv4 address such as 10.0.0.2, got 'box'" in complaint(
        members={"car": car, "gpu-box": gpu | {"address": "box"}}
    )
    assert "expected the address of one host, got '0.0.0.0'" in complaint(
        members={"car": car, "gpu-box": gpu | {"address": "0.0.0.0"}}
    )
    assert f"{CAR}: of two hosts" in complaint(members={"car": car, "gpu-box": gpu | {"address": CAR}})
    assert "guard: on two hosts" in complaint(members={"car": car, "gpu-box": gpu | {"nodes": ["guard"]}})
    assert "'GPU_box': expected a name like gpu-box" in complaint(members={"car": car, "GPU_box": gpu})
    assert f"there is only 'encryption: {PLAIN}'" in complaint(keys=None)
    assert "expected one of the two" in complaint(encryption=PLAIN)
    assert f"'{PLAIN}'" in complaint(encryption="none")
    assert "base_port: 80 puts 4 nodes on ports up to 239" in complaint(base_port=80)
    assert "hosts.silent_s" in complaint(silent_s=0.0)


def test_who_may_launch_and_join(
    tmp_path: Path, profile_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def complaint(*arguments: str) -> str:
        assert run_app(list(arguments)) == 2
        return capsys.readouterr().err

    file = str(profile_file)
    launch = ("launch", "drive", "--profile", file)
    assert "this run is on car, gpu-box; expected --as HOST" in complaint(*launch)
    assert "--as: no host 'box'" in complaint(*launch, "--as", "box")
    assert "a run is launched on the host of world, 'car'" in complaint(*launch, "--as", "gpu-box")
    assert "this run is on one host; expected no --as car" in complaint("launch", "drive", "--as", "car")
    assert "this host launches the run; expected one of gpu-box" in complaint("join", file, "--as", "car")
    secret = tmp_path / "keys" / "gpu-box.key_secret"
    secret.chmod(0o640)
    assert "has mode 640, so others can read it; expected 600" in complaint("join", file, "--as", "gpu-box")
    secret.unlink()
    assert "gpu-box.key_secret: cannot be read (No such file or directory)" in complaint(
        "join", file, "--as", "gpu-box"
    )
    members = {
        "car": {"address": CAR, "nodes": ["world", "policy"]},
        "gpu-box": {"address": GPU_BOX, "nodes": ["perception", "guard"]},
    }
    write_profile(tmp_path, members=members)
    assert "hosts.gpu-box: guard must be with world on 'car'" in complaint(*launch, "--as", "car")
    members["gpu-box"]["nodes"] = ["perception"]
    write_profile(tmp_path, members=members)
    assert "expected each of world, perception, policy, guard on one host" in complaint(*launch, "--as", "car")


def test_what_differs_between_the_hosts_is_refused_by_name(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(profile_file)
    plan = make_plan(profile, make_table(profile), "car", {}, {})

    def refusal(local: Profile, **changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            read_task(local, "gpu-box", msgspec.msgpack.encode(msgspec.structs.replace(plan.task, **changes)))
        return str(caught.value)

    given, _ = read_task(profile, "gpu-box", msgspec.msgpack.encode(plan.task))
    assert given.perception.mode == "truth"
    assert "visuomotor 9.9 on the first host" in refusal(profile, version="9.9")
    assert "calibration of camera_left: not the one" in refusal(profile, calibrations={"camera_left": "0"})
    assert "task: expected one of" in refusal(profile, profile=plan.task.profile | {"task": "fly"})
    moved = load_profile(write_profile(tmp_path, base_port=20000, keys="elsewhere"))
    assert refusal(moved).endswith("hosts: base_port: not as on the first host"), "keys may be anywhere"
    with pytest.raises(ValueError, match="can't be read"):
        read_task(profile, "gpu-box", b"\xff")
    spec = make_table(load_profile("drive"))[1]
    with pytest.raises(ValueError, match=r"bundle drive-forecaster of perception: [0-9a-f]{12} here, 000 first"):
        check_bundles_here([spec], msgspec.structs.replace(plan.task, bundles={"drive-forecaster": "000"}))


def test_keys_and_ports_at_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert run_app(["keys", "new", "car", "gpu-box"]) == 0
    told = capsys.readouterr().out
    assert "to gpu-box: keys/gpu-box.key_secret (it alone, mode 600) and keys/car.key keys/gpu-box.key" in told
    secret = (tmp_path / "keys" / "car.key_secret").read_text().split('"')[-2]
    assert secret not in told
    assert run_app(["keys", "new", "car"]) == 2
    assert "keys/car.key: exists already" in capsys.readouterr().err
    file = str(write_profile(tmp_path))
    assert run_app(["keys", "ports", file]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "tcp://" in line]
    ports = {row[1]: (row[3], row[5]) for row in rows}
    assert ports["hosts"] == (f"tcp://{CAR}:17400", "gpu-box")
    assert ports["perception.tracks"][1] == "car"
    assert ports["perception.tracks"][0].startswith(f"tcp://{GPU_BOX}:")
    assert len({address for address, _ in ports.values()}) == len(ports)
    assert run_app(["keys", "ports", "drive"]) == 2


def test_a_host_that_does_not_come_is_named(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(profile_file)
    table = make_table(profile)
    plan = make_plan(profile, table, "car", {}, {})
    here = [spec for spec in table if spec.name == "perception"]  # nothing to wait for but the other host
    with (
        RunDirectory(tmp_path / "run") as run_dir,
        Supervisor(here, run_dir, clock="lockstep", timeouts=Timeouts(ready_s=0.5), hosts=plan) as supervisor,
        pytest.raises(RunError, match="host gpu-box has not come: `visuomotor join PROFILE --as gpu-box` there"),
    ):
        supervisor.start()
