"""What each fault makes of a node's steps and messages; processes and whole graphs are in ``test_faults``."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import can
import numpy as np
import pytest

from visuomotor.deploy.vehicle.can_link import CanLink
from visuomotor.launch.faulty_can import FLOOD_FRAMES, FOREIGN_FRAMES, BadFrames
from visuomotor.launch.faulty_node import FaultyNode, SteppingClock
from visuomotor.launch.inject import parse_injections
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.schema import CameraFrame, Command, Episode, Header, PolicyCommand, Tracks, Truth, VehicleState

TICK_NS = 100_000_000


class Speaker:
    """A node that says its tick, on a camera, as a state and as the truth."""

    name, inputs, period_s, provider = "world", (Input("command", trigger=True),), None, "CPU"
    outputs = ("camera_front", "camera_left", "vehicle_state", "truth")

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Any]:
        none, pair = np.zeros(0, np.int32), np.zeros((0, 2), np.float32)
        image = np.full((4, 6, 3), (tick.tick + 1) % 256, np.uint8)
        return {
            "camera_front": CameraFrame(image=image),
            "camera_left": CameraFrame(image=image),
            "vehicle_state": VehicleState(speed_mps=float(tick.tick)),
            "truth": Truth(
                agent_id=none,
                class_id=none,
                map_position_m=pair,
                map_velocity_mps=pair,
                map_yaw_rad=np.zeros(0, np.float32),
                size_m=np.zeros((0, 3), np.float32),
            ),
        }

    def close(self) -> None: ...


def run(text: str, ticks: int = 30, seed: int = 0, node: Any = None) -> list[dict[str, Any]]:
    """Messages of each step of a node under the faults written in ``text``."""
    node = node or Speaker()
    faulty = FaultyNode(node, parse_injections([f"{node.name}={text}"], {node.name: node.outputs})[node.name])
    faulty.reset(Episode(phase="reset", seed=seed))
    steps = []
    for k in range(ticks):
        command = Command(header=Header(seq=k, t_capture_ns=k * TICK_NS - 1))
        inputs = Inputs({"command": Sample(message=command, messages=(command,), updated=True)})
        steps.append(dict(faulty.step(Tick(0, k, k * TICK_NS, "lockstep"), inputs)))
    return steps


def brightness(steps: list[dict[str, Any]], service: str) -> list[int]:
    return [int(sent[service].image[0, 0, 0]) for sent in steps]


def test_drops_are_of_steps_and_losses_of_messages_each_by_the_seed() -> None:
    dropped, lost = run("drop:30%", 400, 1), run("loss:30%", 400, 1)
    heard = [len(sent) - 1 for sent in dropped]  # the truth always comes
    assert set(heard) == {0, 3}
    assert 0.22 < heard.count(0) / 400 < 0.38
    for service in ("camera_front", "vehicle_state"):
        assert 0.22 < sum(service not in sent for sent in lost) / 400 < 0.38
    assert {len(sent) - 1 for sent in lost} == {0, 1, 2, 3}
    assert all("truth" in sent for sent in dropped + lost)
    again, other = run("loss:30%", 400, 1), run("loss:30%", 400, 2)
    assert [set(s) for s in lost] == [set(s) for s in again] != [set(s) for s in other]
    assert all(len(sent) == 4 for sent in run("loss:0%"))
    assert all(set(sent) == {"truth"} for sent in run("drop:100%"))


def test_latency_hands_on_every_message_later_with_the_time_of_its_capture() -> None:
    steps = run("latency:200ms@1s", 20)
    said = [sent["vehicle_state"].speed_mps if "vehicle_state" in sent else None for sent in steps]
    assert said == [*map(float, range(10)), None, None, *map(float, range(10, 18))]
    late = steps[15]["vehicle_state"].header
    assert (late.t_capture_ns, late.parents) == (13 * TICK_NS - 1, {"command": 13})
    assert all("truth" in sent for sent in steps)
    assert ["vehicle_state" in sent for sent in run("latency:150ms", 4)] == [False, False, True, True]


def test_a_stuck_camera_shows_the_last_picture_and_a_black_one_none() -> None:
    stuck = run("stuck:camera_front@500ms..800ms", 12)
    assert brightness(stuck, "camera_front") == [1, 2, 3, 4, 5, 5, 5, 5, 9, 10, 11, 12]
    assert brightness(stuck, "camera_left") == list(range(1, 13))
    both = run("black@500ms", 8)
    assert brightness(both, "camera_front") == brightness(both, "camera_left") == [1, 2, 3, 4, 5, 0, 0, 0]
    muted = run("mute:camera_front@200ms", 4)
    assert ["camera_front" in sent for sent in muted] == [True, True, False, False]
    assert all("camera_left" in sent for sent in muted)


class Numbers(Speaker):
    name, outputs = "policy", ("policy_command", "tracks")

    def __init__(self) -> None:
        self.policy = self

    def act(self, inputs: object) -> np.ndarray:
        return np.array([[0.25, -0.5]], np.float32)

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Any]:
        action = tuple(float(v) for v in self.policy.act(None)[0])
        one = np.ones((1, 2), np.float32)
        tracks = Tracks(
            track_id=np.ones(1, np.int32),
            class_id=np.ones(1, np.int32),
            score=np.ones(1, np.float32),
            odom_position_m=one,
            odom_velocity_mps=one,
            odom_heading_rad=np.ones(1, np.float32),
            size_m=one,
            covariance=np.ones((1, 4, 4), np.float32),
            age_s=np.ones(1, np.float32),
            unseen_s=np.ones(1, np.float32),
        )
        return {"policy_command": PolicyCommand(acceleration_mps2=1.0, action_norm=action), "tracks": tracks}


def test_what_a_node_sends_can_be_no_number() -> None:
    before, after = run("nan@100ms", 2, node=Numbers())
    assert before["policy_command"].acceleration_mps2 == 1.0
    assert math.isnan(after["policy_command"].acceleration_mps2)
    assert all(math.isnan(v) for v in after["policy_command"].action_norm)
    assert np.isnan(after["tracks"].odom_position_m).all()
    assert after["tracks"].track_id.tolist() == [1]
    assert run("inf", 1, node=Numbers())[0]["policy_command"].steering_angle_rad == math.inf


def test_a_network_can_return_no_number_before_anything_limits_it() -> None:
    steps = run("network:nan@100ms..200ms", 3, node=Numbers())
    assert [math.isnan(sent["policy_command"].action_norm[0]) for sent in steps] == [False, True, False]
    assert steps[1]["policy_command"].acceleration_mps2 == 1.0


@pytest.mark.parametrize("text", ["network:nan", "can:flood"])
def test_a_node_that_cannot_have_a_fault_refuses_it(text: str) -> None:
    with pytest.raises(ValueError, match=f"--inject: {text}: node world"):
        run(text)


def test_a_clock_steps_once_and_the_faults_keep_their_times() -> None:
    clock = SteppingClock(lambda: 10)
    faults = parse_injections(["world=clock:+3s@200ms,mute:camera_left@400ms"], {"world": Speaker.outputs})["world"]
    node = FaultyNode(Speaker(), faults, clock)
    node.reset(Episode(phase="reset"))
    silence = Inputs({"command": Sample()})
    seen, sent = [], []
    for k in range(6):
        sent.append(node.step(Tick(0, k, k * TICK_NS + clock.offset_ns, "realtime"), silence))
        seen.append(clock())
    assert seen == [10, 10, *[3_000_000_010] * 4]
    assert ["camera_left" in s for s in sent] == [True] * 4 + [False] * 2


def test_it_looks_like_the_node_inside() -> None:
    node = FaultyNode(Speaker(), ())
    assert (node.name, node.outputs, node.provider) == ("world", Speaker.outputs, "CPU")
    assert getattr(node, "stages", None) is None


def test_a_full_disk_refuses_what_is_written_from_then_on(tmp_path: Path) -> None:
    script = """
import sys
from visuomotor.launch.faulty_node import fill_disk
written, read = open(sys.argv[1], "wb", buffering=0), open(sys.argv[2])
written.write(b"before")
fill_disk()
assert read.read() == "kept"
try:
    written.write(b"after")
except OSError as error:
    sys.exit(error.errno)
"""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a"), str(kept)], capture_output=True)
    assert done.returncode == 28, done.stderr  # ENOSPC
    assert (tmp_path / "a").read_bytes() == b"before"


def frames(kind: str, bad_from: int = 2) -> list[list[can.Message]]:
    """Frames on the bus for each of four frames sent; from ``bad_from`` on the sender is bad."""
    out: list[can.Message] = []
    sender = BadFrames(out.append, kind)
    each = []
    for k in range(4):
        sender.bad = k >= bad_from
        sender(can.Message(arbitration_id=0x100, data=bytes([k] * 8), is_extended_id=False))
        each.append(out.copy())
        out.clear()
    return each


def test_bad_frames_are_what_they_are_called() -> None:
    checksum, counter = frames("checksum"), frames("counter")
    assert [f[0].data[0] for f in checksum] == [0, 1, 3, 2]
    assert [f[0].data[0] for f in counter] == [0, 1, 1, 1]
    foreign = frames("foreign")
    assert [len(f) for f in foreign] == [1, 1, FOREIGN_FRAMES + 2, FOREIGN_FRAMES + 2]
    assert all(f.arbitration_id != 0x100 for f in foreign[2][:FOREIGN_FRAMES])
    assert len(foreign[2][-2].data) == 7
    flood = frames("flood")[3]
    assert len(flood) == FLOOD_FRAMES + 1
    assert {f.arbitration_id for f in flood[:-1]} == {0}
    assert bytes(flood[-1].data) == bytes([3] * 8)


@pytest.mark.parametrize(
    ("kind", "refused"), [("checksum", "checksum"), ("counter", "repeated"), ("foreign", "length")]
)
def test_the_other_end_of_the_bus_refuses_them(kind: str, refused: str) -> None:
    bus = {"interface": "virtual", "channel": f"bad-{kind}"}
    sender, receiver = CanLink((), **bus), CanLink(("MOTION",), **bus)
    try:
        sender.transmit = bad = BadFrames(sender.transmit, kind)
        for k in range(6):
            bad.bad = k >= 3
            assert sender.send("MOTION", {"Speed": float(k), "Acceleration": 0.0, "YawRate": 0.0})
        wanted = 3 if kind != "foreign" else 6
        got: list[float] = []
        for _ in range(100):  # the receiver's thread takes its time
            got += [reading.values["Speed"] for reading in receiver.drain("MOTION")]
            if len(got) >= wanted and receiver.faults.get(refused, 0) >= 3:
                break
            receiver._stop.wait(0.05)
        assert got == [float(k) for k in range(wanted)]
        assert receiver.faults[refused] == 3
    finally:
        sender.close()
        receiver.close()
