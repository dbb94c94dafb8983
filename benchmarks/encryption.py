"""What encryption between hosts costs: one camera frame over ipc, plain tcp and tcp with CURVE keys, in the same run.

    python benchmarks/encryption.py [--frames 1500] [--json benchmarks/results/encryption.json]

The bus's own Publisher and Subscriber in two processes on one machine, newest-only; the two 'hosts' are loopback
addresses, so what is measured is the cost of tcp and of the keys and no network's. The ways take turns frame by frame,
each frame sent ``--interval`` after the one before was read. The clock starts with an image in memory and ends when the
reader holds an array of it. CPU time is that of both processes, all threads, from blocks of frames of one way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from visuomotor.launch.evaluate.score import machine
from visuomotor.messages.bus import Publisher, Subscriber
from visuomotor.messages.keys import make_keys
from visuomotor.messages.network import CURVE, PLAIN, Network, assign_ports, make_doors
from visuomotor.messages.schema import CameraFrame, Header
from visuomotor.messages.wire import new_image
from visuomotor.messages.wiring import RunPlace

HEIGHT, WIDTH = 384, 640
WARM_UP = 20
WAYS = ("ipc", "tcp_plain", "tcp_curve")
CAR, OTHER = "127.17.4.1", "127.17.4.2"
NODES = {"world": "car", "perception": "other"}


def make_place(folder: Path, way: str, own: str) -> RunPlace:
    """The run as one host sees it; over ipc there is one host only."""
    sockets = folder / f"{way}-{own if way != 'ipc' else 'car'}"
    sockets.mkdir(exist_ok=True)
    network = Network(
        own=own,
        first="car",
        addresses={"car": CAR, "other": OTHER},
        nodes=NODES,
        doors=make_doors(
            assign_ports(18000 + 200 * WAYS.index(way), list(NODES)),
            NODES,
            "car",
            {"world": (), "perception": ("camera_front",)},
            {"world": ("camera_front",), "perception": ()},
        ),
        encryption=CURVE if way == "tcp_curve" else PLAIN,
        keys=str(folder / "keys") if way == "tcp_curve" else "",
    )
    return RunPlace(str(sockets), "bench", "realtime", None if way == "ipc" else network)


def read(folder: Path) -> None:
    """The reader's process: takes what comes of any way; says latency and its CPU time so far for each frame."""
    readers, contexts = {}, {}
    poller = zmq.Poller()
    answer_context: zmq.Context[Any] = zmq.Context()
    answer = answer_context.socket(zmq.PUSH)
    answer.connect(f"ipc://{folder}/answer")
    for way in WAYS:
        contexts[way] = zmq.Context()
        readers[way] = Subscriber(contexts[way], make_place(folder, way, "other"), {"camera_front": ["world"]})
    while any(reader.unheard for reader in readers.values()):
        for reader in readers.values():
            reader.poll(0.01)
    answer.send_json("ready")
    order = answer_context.socket(zmq.PULL)
    order.bind(f"ipc://{folder}/order")
    poller.register(order, zmq.POLLIN)
    while (way := order.recv_string()) != "end":
        while not (received := readers[way].poll(5.0)):
            pass
        message = received[-1].message
        assert isinstance(message, CameraFrame)
        now = time.monotonic_ns()
        assert message.image.shape == (HEIGHT, WIDTH, 3)
        answer.send_json([now - message.header.t_capture_ns, time.process_time_ns()])
    for way in WAYS:
        readers[way].close()
        contexts[way].term()
    answer_context.destroy(linger=1000)


def measure(frames: int, interval_s: float) -> dict[str, dict[str, float]]:
    """Latency and CPU time of each way, ms per frame."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_keys(folder / "keys", ["car", "other"])
        contexts: dict[str, zmq.Context[Any]] = {way: zmq.Context() for way in WAYS}
        writers = {
            way: Publisher(contexts[way], make_place(folder, way, "car"), "world", ["camera_front"]) for way in WAYS
        }
        own: zmq.Context[Any] = zmq.Context()
        answer = own.socket(zmq.PULL)
        answer.bind(f"ipc://{folder}/answer")
        order = own.socket(zmq.PUSH)
        order.connect(f"ipc://{folder}/order")
        with subprocess.Popen([sys.executable, __file__, "--read", name]) as reader:
            while not answer.poll(20):
                for writer in writers.values():
                    writer.probe()
            answer.recv_json()
            time.sleep(0.2)  # the last probes pass

            def send(way: str, index: int) -> tuple[float, float]:
                time.sleep(interval_s)
                image = new_image(HEIGHT, WIDTH)
                image[...] = images[index % len(images)]
                order.send_string(way)
                header = Header(t_capture_ns=time.monotonic_ns(), tick=index, valid=True)
                for _ in range(10):
                    writers[way].publish("camera_front", CameraFrame(header=header, image=image))
                    if answer.poll(1000):  # else a reader that slept too long has refused it as stale: send again
                        break
                    header.t_capture_ns = time.monotonic_ns()
                else:
                    reader.kill()
                    raise RuntimeError("the reader has stopped")
                latency_ns, spent_ns = answer.recv_json()
                return latency_ns * 1e-6, spent_ns * 1e-6

            latency_ms: dict[str, list[float]] = {way: [] for way in WAYS}
            for index in range(frames + WARM_UP * len(WAYS)):
                way = WAYS[index % len(WAYS)]
                latency_ms[way].append(send(way, index)[0])
            cpu_ms: dict[str, float] = dict.fromkeys(WAYS, 0.0)
            blocks, length = 4, max(10, frames // 24)
            for block in range(blocks * len(WAYS)):
                way = WAYS[block % len(WAYS)]
                _, before_reader = send(way, block)
                before = time.process_time() * 1e3
                for index in range(length):
                    _, spent_reader = send(way, index)
                spent = time.process_time() * 1e3 - before + spent_reader - before_reader
                cpu_ms[way] += spent / (blocks * length)
            order.send_string("end")
        for way in WAYS:
            writers[way].close()
            contexts[way].term()
        own.destroy(linger=0)
    result = {}
    for way in WAYS:
        ms = np.array(latency_ms[way][WARM_UP:])
        p50, p99 = (float(v) for v in np.percentile(ms, [50, 99]))
        result[way] = {
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
            "cpu_ms": round(cpu_ms[way], 3),
            "n": len(ms),
        }
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1500, help="of all ways together")
    parser.add_argument("--interval", type=float, default=0.01, help="s between a frame read and the next one sent")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "encryption.json")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(Path(arguments.read))
        return
    load_before = os.getloadavg()[0]
    ways = measure(arguments.frames, arguments.interval)
    keys = ("p50_ms", "p99_ms", "cpu_ms")
    ratios = {
        f"curve_to_{way}": {key: round(ways["tcp_curve"][key] / ways[way][key], 2) for key in keys}
        for way in ("tcp_plain", "ipc")
    }
    for way in WAYS:
        row = ways[way]
        print(f"{way:10} p50 {row['p50_ms']:.3f} ms  p99 {row['p99_ms']:.3f} ms  CPU {row['cpu_ms']:.3f} ms a frame")
    print(f"ratios {ratios}")
    result = {
        "frame": [HEIGHT, WIDTH, 3],
        "ways": ways,
        "ratios": ratios,
        "machine": machine(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "load_before": round(load_before, 1),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
