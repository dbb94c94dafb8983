"""Latency of one camera frame from a publisher to a subscriber in another process, beside raw pyzmq in the same run.

    python benchmarks/bus.py [--frames 6000] [--json benchmarks/results/bus.json]

All ways are PUB to SUB over ipc, newest-only (CONFLATE on both ends), and take turns frame by frame, each frame sent
when the one before was read. The clock starts with an image in memory, before anything is encoded, and stops when the
reader holds an array of it. Raw pyzmq sends the image's bytes with a time stamp written into its first pixels and
nothing else: no header, no schema, no checks; once as ``send(image)``, once as ``send(image, copy=False)``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import zmq

from visuomotor.messages.bus import Publisher, Subscriber
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import CameraFrame, Header
from visuomotor.messages.wire import new_image
from visuomotor.messages.wiring import RunPlace

HEIGHT, WIDTH = 384, 640
WARM_UP = 100
WAYS = ("visuomotor", "raw_pyzmq", "raw_pyzmq_no_copy")
BAR = 1.5


def read(sockets: str, frames: int) -> None:
    """The reader's process: one frame of each way in turn; prints latencies in ns as JSON."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ours = Subscriber(context, RunPlace(sockets, "bench", "realtime"), {"camera_front": ["world"]})
    raw = context.socket(zmq.SUB)
    raw.setsockopt(zmq.CONFLATE, 1)
    raw.setsockopt(zmq.SUBSCRIBE, b"")
    raw.connect(f"ipc://{sockets}/raw")
    answer = context.socket(zmq.PUSH)
    answer.connect(f"ipc://{sockets}/answer")
    latency_ns: dict[str, list[int]] = {way: [] for way in WAYS}
    while ours.unheard:
        ours.poll(1.0)
    raw.recv()
    answer.send(b"ready")
    for index in range(frames):
        way = WAYS[index % len(WAYS)]
        if way == "visuomotor":
            while not (received := ours.poll(5.0)):
                pass
            message = received[-1].message
            assert isinstance(message, CameraFrame)
            now = time.monotonic_ns()
            sent = message.header.t_capture_ns
            image = message.image
        else:
            part = raw.recv(copy=False)
            while len(part) < HEIGHT * WIDTH * 3:  # a late probe
                part = raw.recv(copy=False)
            image = np.frombuffer(part.buffer, np.uint8).reshape(HEIGHT, WIDTH, 3)
            now = time.monotonic_ns()
            sent = int(image.reshape(-1)[:8].view(np.int64)[0])
        latency_ns[way].append(now - sent)
        assert image.shape == (HEIGHT, WIDTH, 3)
        answer.send(b"next")
    print(json.dumps(latency_ns))
    ours.close()
    context.destroy(linger=1000)


def measure(frames: int, interval_s: float) -> dict[str, dict[str, float]]:
    """Latency of each way, ms; the next frame is sent ``interval_s`` after the last one was read."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(4)]
    with RunDirectory() as directory:
        sockets = str(directory.sockets)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        ours = Publisher(context, RunPlace(sockets, "bench", "realtime"), "world", ["camera_front"])
        raw = context.socket(zmq.PUB)
        raw.setsockopt(zmq.CONFLATE, 1)
        raw.bind(f"ipc://{sockets}/raw")
        answer = context.socket(zmq.PULL)
        answer.bind(f"ipc://{sockets}/answer")
        command = [sys.executable, __file__, "--read", sockets, "--frames", str(frames)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            while not answer.poll(20):
                ours.probe()
                raw.send(bytes(16))
            answer.recv()
            time.sleep(0.1)  # the last probes pass
            for index in range(frames):
                time.sleep(interval_s)
                image = new_image(HEIGHT, WIDTH)  # written just now, as by a camera
                image[...] = images[index % len(images)]
                way = WAYS[index % len(WAYS)]
                for _ in range(10):
                    if way == "visuomotor":
                        header = Header(t_capture_ns=time.monotonic_ns(), tick=index, valid=True)
                        ours.publish("camera_front", CameraFrame(header=header, image=image))
                    else:
                        image.flags.writeable = True
                        image.reshape(-1)[:8].view(np.int64)[0] = time.monotonic_ns()
                        raw.send(image, copy=way == "raw_pyzmq")
                    if answer.poll(1000):  # else a reader that slept too long has refused it as stale: send again
                        break
                else:
                    reader.kill()
                    raise RuntimeError("the reader has stopped")
                answer.recv()
            output, _ = reader.communicate()
        ours.close()
        context.destroy(linger=0)
    result: dict[str, dict[str, float]] = {}
    for way, values in json.loads(output).items():
        ms = np.array(values[WARM_UP:]) * 1e-6
        p50, p99 = (float(v) for v in np.percentile(ms, [50, 99]))
        result[way] = {
            "p50_ms": round(p50, 4),
            "p99_ms": round(p99, 4),
            "max_ms": round(float(ms.max()), 4),
            "n": len(ms),
        }
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6000, help="of all ways together")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "bus.json")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.frames)
        return
    load_before = os.getloadavg()[0]
    runs = {}
    for name, interval_s in (("back_to_back", 0.0), ("every_10_ms", 0.01)):
        ways = measure(arguments.frames if interval_s == 0.0 else arguments.frames // 4, interval_s)
        ours = ways["visuomotor"]
        ratios = {
            way: {q: round(float(ours[f"{q}_ms"] / ways[way][f"{q}_ms"]), 3) for q in ("p50", "p99")}
            for way in WAYS[1:]
        }
        runs[name] = {"latency_ms": ways, "ratio_to": ratios}
        for way in WAYS:
            print(f"{name:13} {way:18} p50 {ways[way]['p50_ms']:.3f} ms  p99 {ways[way]['p99_ms']:.3f} ms")
        print(f"{name:13} ratio {ratios} (bar {BAR})")
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    machine = {
        "cpu": next((x.split(":")[1].strip() for x in cpu_lines if x.startswith("model name")), ""),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "load_before": round(load_before, 1),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"frame": [HEIGHT, WIDTH, 3], "bar": BAR, "runs": runs, "machine": machine}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
