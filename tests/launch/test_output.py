"""Logs that don't grow: of real processes, with what native code and a crash say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from visuomotor.launch.job import Job
from visuomotor.launch.output import LossyStream, last_line, lossy_output, old_log
from visuomotor.launch.process_table import NodeSpec
from visuomotor.launch.processes import Processes
from visuomotor.messages.wiring import RunPlace

LIMIT_BYTES = 20_000
TALKER = """
import faulthandler, os, sys
from pathlib import Path
from visuomotor.launch.output import LogRotation

faulthandler.enable()
rotation = LogRotation(Path(sys.argv[1]), limit_bytes={limit})
for number in range({lines}):
    os.write(1 + number % 2, b"line %06d\\n" % number)  # past Python, as native code does
    rotation.rotate_if_full()
{end}
"""


def talk(tmp_path: Path, lines: int, end: str = "") -> tuple[subprocess.Popen[bytes], Path]:
    log = tmp_path / "node.log"
    code = TALKER.format(limit=LIMIT_BYTES, lines=lines, end=end)
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=file, stderr=subprocess.STDOUT)
    process.wait(60)
    return process, log


def test_a_log_is_rotated_without_losing_a_line(tmp_path: Path) -> None:
    process, log = talk(tmp_path, 5_000)
    assert process.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["node.log", "node.log.1"]
    assert log.stat().st_size < LIMIT_BYTES
    assert LIMIT_BYTES <= old_log(log).stat().st_size < LIMIT_BYTES + 100
    lines = (old_log(log).read_text() + log.read_text()).splitlines()
    assert lines == [f"line {number:06d}" for number in range(5_000 - len(lines), 5_000)]
    assert last_line(log) == "line 004999"


def test_the_words_of_a_native_crash_are_in_the_new_log(tmp_path: Path) -> None:
    process, log = talk(tmp_path, 2_000, end="import ctypes; ctypes.string_at(0)")
    assert process.returncode == -signal.SIGSEGV
    assert old_log(log).exists()
    assert "Fatal Python error: Segmentation fault" in log.read_text()


def test_on_a_disk_without_room_the_log_is_begun_from_nothing(tmp_path: Path) -> None:
    end = f"""
os.mkdir(sys.argv[1].replace(".log", ".new"))  # no new file can be made: as on a full disk
while os.fstat(1).st_size < {LIMIT_BYTES}:
    print("flood", flush=True)
assert rotation.rotate_if_full()
print("last words")
"""
    process, log = talk(tmp_path, 1, end)
    assert process.returncode == 0
    assert log.read_text() == "last words\n"


def test_last_words_of_a_log_begun_anew_just_now(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    assert last_line(log) == ""
    old_log(log).write_text("before\nlast of the old one\n")
    assert last_line(log) == "last of the old one"
    log.write_bytes(b"\n")
    assert last_line(log) == "last of the old one"
    log.write_bytes(b"x" * 100_000 + b"\nends here, \xff\n\n")
    assert last_line(log) == "ends here, �"


def test_a_restarted_node_keeps_what_the_last_one_said(tmp_path: Path) -> None:
    spec = NodeSpec(name="eye", module="nowhere:create", config={}, inputs=(), outputs=())
    place = RunPlace(str(tmp_path), "run", "lockstep")
    job = Job(spec=spec, place=place, run_dir=str(tmp_path), parent_pid=os.getpid(), join_timeout_s=1.0)
    processes = Processes([job])
    for _ in range(2):
        processes.start_one("eye")
        processes._running["eye"].wait(60)
    assert "no module 'nowhere'" in job.previous_log_path.read_text()
    assert "no module 'nowhere'" in processes.last_words("eye")
    assert msgspec.json.decode(job.job_path.read_bytes(), type=Job) == job


def test_words_that_cannot_be_written_are_given_up() -> None:
    code = "import sys\nfrom visuomotor.launch.output import LossyStream\n{wrap}\nprint('x' * 99999, flush=True)"
    for wrap, code_expected in (("", 1), ("sys.stdout = LossyStream(sys.stdout)", 0)):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-c", code.format(wrap=wrap)], stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == code_expected, done.stderr
    assert LossyStream(sys.stderr).fileno == sys.stderr.fileno  # all else is the stream's


def test_output_is_as_before_afterwards() -> None:
    before = sys.stdout, sys.stderr
    with lossy_output():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
