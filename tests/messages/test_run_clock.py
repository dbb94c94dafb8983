"""The clock of a run: offsets from exchanges, with a bound that holds however the way is shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visuomotor.messages.run_clock import DRIFT, Offset, RunClock, better_offset, measure_offset, write_offset

MS = 1_000_000


def exchange(true_ns: int, out_ns: int, work_ns: int, back_ns: int, sent_ns: int = 5 * MS) -> Offset:
    """An exchange between clocks that are ``true_ns`` apart."""
    received = sent_ns + out_ns + true_ns
    return measure_offset(sent_ns, received, received + work_ns, sent_ns + out_ns + work_ns + back_ns)


@pytest.mark.parametrize("true_ns", [0, 3 * MS, -7_200_000_000_000, 1 << 50])
def test_the_true_offset_is_within_the_bound_however_the_way_is_shared(true_ns: int) -> None:
    random = np.random.default_rng(0)
    for out, work, back in random.integers(0, 20 * MS, (300, 3)).tolist():
        offset = exchange(true_ns, out, work, back)
        assert abs(offset.offset_ns - true_ns) <= offset.bound_ns
        assert offset.bound_ns <= (out + back) // 2 + 1, "the work of the first host is no part of it"
    even = exchange(true_ns, 2 * MS, 9 * MS, 2 * MS)
    assert abs(even.offset_ns - true_ns) <= 1
    assert exchange(true_ns, 4 * MS, 0, 0).offset_ns == true_ns + 2 * MS, "the bound is reached"


def test_the_best_exchange_is_kept_until_drift_makes_it_the_worse_one() -> None:
    good, bad = Offset(10, 1000, 0), Offset(20, 50_000, MS)
    assert better_offset(None, bad) is bad
    assert better_offset(good, bad) is good
    assert better_offset(bad, good) is good
    late = Offset(20, 50_000, round(49_000 / DRIFT) + 10)
    assert better_offset(good, late) is late
    assert good.bound_at(10 * MS) == 1000 + round(10 * MS * DRIFT)


def test_a_clock_follows_its_file_and_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_ns = [1_000_000_000]
    monkeypatch.setattr("visuomotor.messages.run_clock.time.monotonic_ns", lambda: own_ns[0])
    assert RunClock().now_ns() == own_ns[0]
    file = tmp_path / "clock"
    with pytest.raises(FileNotFoundError):
        RunClock(str(file)).now_ns()
    write_offset(file, Offset(500, 1, 0))
    clock = RunClock(str(file))
    assert clock.now_ns() == own_ns[0] + 500
    assert clock.convert(7) == 507
    write_offset(file, Offset(-10 * MS, 1, 0))
    own_ns[0] += MS
    assert clock.now_ns() == own_ns[0] + 500, "the file is looked at twice a second"
    before = clock.now_ns()
    own_ns[0] += 500 * MS
    assert clock.now_ns() == own_ns[0] - 10 * MS
    write_offset(file, Offset(-900 * MS, 1, 0))
    own_ns[0] += 500 * MS
    last = clock.now_ns()
    assert last >= before, "a better offset never turns time back"
    own_ns[0] += 1
    assert clock.now_ns() >= last
    file.unlink()
    own_ns[0] += 2000 * MS
    assert clock.now_ns() == own_ns[0] - 900 * MS
