"""The table of picking: each policy, perception and forecast on the same shifts of pick-v1, paired, 95 % intervals.

    python benchmarks/pick_suite.py --episodes 100 --jobs 2            # resumable; --only NAME for single rows
    python benchmarks/pick_suite.py --table                            # only rewrite the tables from finished rows

Each row's shifts go to ``runs/pick_suite/<row>.jsonl`` as they finish, its score to ``results/pick_suite/<row>.json``
and the tables to ``results/pick_suite.md``. The forecast's worth is the same policy on the same perception with the
forecaster replaced: ``none`` is 'where the part is now', ``cv`` goes on at the track's velocity.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from visuomotor.launch.evaluate.score import (
    Score,
    event_shares,
    load_score,
    paired_by_seed,
    paired_ratio,
    write_json,
)
from visuomotor.launch.evaluate.suite import make_run, run_suite
from visuomotor.launch.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pick_suite"
POLICY = str(ROOT / "models" / "pick-policy")

# name -> overrides of the shipped profile
ROWS: dict[str, dict[str, object]] = {
    "policy_real": {"policy": POLICY},
    "scripted_real": {"policy": "scripted"},
    "policy_real_cv": {"policy": POLICY, "forecaster": "cv"},
    "policy_real_now": {"policy": POLICY, "forecaster": "none"},
    "scripted_real_cv": {"policy": "scripted", "forecaster": "cv"},
    "scripted_real_now": {"policy": "scripted", "forecaster": "none"},
    "policy_truth": {"policy": POLICY, "perception_mode": "truth"},
    "scripted_truth": {"policy": "scripted", "perception_mode": "truth"},
    "policy_real_no_guard": {"policy": POLICY, "guard": False},
    "policy_blind": {"policy": POLICY, "perception_mode": "blind"},
    "random_truth": {"policy": "random", "perception_mode": "truth"},
}
PAIRS = [
    ("policy_real", "scripted_real"),
    ("policy_real", "policy_truth"),
    ("policy_real", "policy_real_no_guard"),
    ("policy_real", "policy_real_cv"),
    ("policy_real", "policy_real_now"),
    ("scripted_real", "scripted_truth"),
    ("scripted_real", "scripted_real_cv"),
    ("scripted_real", "scripted_real_now"),
]
BINNED = "parts_binned_share"
WRONG = "wrong_parts_share"


def run_row(name: str, episodes: int, jobs: int) -> Score:
    run = make_run(load_profile("pick").override(**ROWS[name]))
    started = time.perf_counter()

    def tell(row: dict[str, object]) -> None:
        counts = f"{row['parts_binned']} of {row['parts_ordered']} binned, {row['wrong_parts']} wrong"
        print(f"{name} seed {row['seed']}: {row['end']}, {counts} ({row['wall_s']} s)", flush=True)

    progress = ROOT / "runs" / "pick_suite" / f"{name}.jsonl"
    score = run_suite(run, range(episodes), jobs=jobs, progress=progress, on_episode=tell)
    for row in score.episodes:
        row.pop("topic_digests", None)
        row.pop("grasps", None)
    score.provenance["command"] = f"python benchmarks/pick_suite.py --only {name} --episodes {episodes} --jobs {jobs}"
    score.provenance["wall_s"] = round(time.perf_counter() - started, 1)
    score.save(RESULTS / f"{name}.json")
    return score


def table(scores: Mapping[str, Score]) -> str:
    lines = [
        "| row | perception | forecaster | guard | n | parts binned | wrong | picks a minute | guard ticks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        s = score.summary
        wrong = s[WRONG].as_percent() if WRONG in s else "nothing binned"
        lines.append(
            f"| {name} | {score.perception} | {score.forecaster} | {'on' if score.guard else 'off'} "
            f"| {len(score.episodes)} | {s[BINNED].as_percent()} | {wrong} | {s['picks_per_minute'].as_number(1)} "
            f"| {100 * score.guard_tick_share:.2f} % |"
        )
    lines += ["", "| paired, same shifts | n | parts binned, points | picks a minute |", "|---|---|---|---|"]
    for ours, theirs in PAIRS:
        if ours in scores and theirs in scores:
            binned = paired_ratio(scores[ours], scores[theirs], BINNED)
            pace = paired_by_seed(scores[ours], scores[theirs], "picks_per_minute")
            lines.append(f"| {ours} - {theirs} | {binned.n} | {binned.as_points()} | {pace.as_number()} |")
    return "\n".join([*lines, "", *group_table(scores)]) + "\n"


def group_table(scores: Mapping[str, Score]) -> Sequence[str]:
    """Share of parts binned by speed of the belt and by what makes a part hard, a column for each row of the suite."""
    start = f"{BINNED}, "
    groups = sorted({key.removeprefix(start) for s in scores.values() for key in s.summary if key.startswith(start)})
    if not groups:
        return []
    lines = ["| parts binned | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|"]
    for group in groups:
        cells = [s.summary[start + group].as_percent() if start + group in s.summary else "" for s in scores.values()]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="first N seeds of the evaluation split")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", choices=sorted(ROWS))
    parser.add_argument("--table", action="store_true", help="write the tables from the rows on disk, run nothing")
    options = parser.parse_args()
    if not options.table:
        for name in options.only or ROWS:
            run_row(name, options.episodes, options.jobs)
    scores = {name: load_score(RESULTS / f"{name}.json") for name in ROWS if (RESULTS / f"{name}.json").exists()}
    text = table(scores)
    (RESULTS.parent / "pick_suite.md").write_text(text)
    if scores:
        most = max(scores.values(), key=lambda score: len(score.episodes))
        write_json(RESULTS.parent / "pick_suite_events.json", event_shares(most.episodes))
    print(text)


if __name__ == "__main__":
    main()
