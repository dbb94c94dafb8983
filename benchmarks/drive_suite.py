"""The table of driving: every policy and perception on the same seeds of drive-v1, paired, with 95 % intervals.

    python benchmarks/drive_suite.py --episodes 100 --jobs 2            # resumable; --only NAME for single rows
    python benchmarks/drive_suite.py --table                            # only rewrite the table from finished rows

Each row's episodes go to ``runs/suite/<row>.jsonl`` as they finish, its score to ``results/suite/<row>.json`` and the
table to ``results/drive_suite.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from visuomotor.launch.evaluate.score import Score, event_shares, load_score, paired_by_seed, write_json
from visuomotor.launch.evaluate.suite import make_run, run_suite
from visuomotor.launch.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "suite"
POLICY = str(ROOT / "models" / "drive-policy")

# name -> overrides of the shipped drive profile
ROWS: dict[str, dict[str, object]] = {
    "idm_truth": {"policy": "idm", "perception_mode": "truth"},
    "policy_truth": {"policy": POLICY, "perception_mode": "truth"},
    "idm_real": {"policy": "idm"},
    "policy_real": {"policy": POLICY},
    "policy_real_no_guard": {"policy": POLICY, "guard": False},
    "policy_real_cv": {"policy": POLICY, "forecaster": "cv"},
    "policy_real_no_forecast": {"policy": POLICY, "forecaster": "none"},
    "idm_real_no_guard": {"policy": "idm", "guard": False},
    "policy_blind": {"policy": POLICY, "perception_mode": "blind"},
    "idm_blind": {"policy": "idm", "perception_mode": "blind"},
    "random_truth": {"policy": "random", "perception_mode": "truth"},
}
PAIRS = [
    ("policy_real", "idm_real"),
    ("policy_truth", "idm_truth"),
    ("policy_real", "policy_truth"),
    ("policy_real", "policy_real_no_guard"),
    ("policy_real", "policy_real_cv"),
    ("policy_real", "policy_real_no_forecast"),
]


def run_row(name: str, episodes: int, jobs: int) -> Score:
    run = make_run(load_profile("drive").override(**ROWS[name]))
    started = time.perf_counter()

    def tell(row: dict[str, object]) -> None:
        print(f"{name} seed {row['seed']}: {row['end']} after {row['duration_s']} s ({row['wall_s']} s)", flush=True)

    score = run_suite(
        run, range(episodes), jobs=jobs, progress=ROOT / "runs" / "suite" / f"{name}.jsonl", on_episode=tell
    )
    for row in score.episodes:
        row.pop("topic_digests", None)
    score.provenance["command"] = f"python benchmarks/drive_suite.py --only {name} --episodes {episodes} --jobs {jobs}"
    score.provenance["wall_s"] = round(time.perf_counter() - started, 1)
    score.save(RESULTS / f"{name}.json")
    return score


def table(scores: dict[str, Score]) -> str:
    lines = [
        "| row | perception | forecaster | guard | n | success | collision | mean speed, m/s | guard ticks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, score in scores.items():
        s = score.summary
        lines.append(
            f"| {name} | {score.perception} | {score.forecaster} | {'on' if score.guard else 'off'} | {s['success'].n} "
            f"| {s['success'].as_percent()} | {s['collision'].as_percent()} | {s['mean_speed_mps'].as_number(1)} "
            f"| {100 * score.guard_tick_share:.2f} % |"
        )
    lines += ["", "| paired, same seeds | n | success, points | mean speed, m/s |", "|---|---|---|---|"]
    for ours, theirs in PAIRS:
        if ours not in scores or theirs not in scores:
            continue
        success, speed = (paired_by_seed(scores[ours], scores[theirs], key) for key in ("success", "mean_speed_mps"))
        lines.append(f"| {ours} - {theirs} | {success.n} | {success.as_points()} | {speed.as_number()} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="first N seeds of the evaluation split")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", choices=sorted(ROWS))
    parser.add_argument("--table", action="store_true", help="write the table from the rows on disk, run nothing")
    options = parser.parse_args()
    if not options.table:
        for name in options.only or ROWS:
            run_row(name, options.episodes, options.jobs)
    scores = {name: load_score(RESULTS / f"{name}.json") for name in ROWS if (RESULTS / f"{name}.json").exists()}
    text = table(scores)
    (RESULTS.parent / "drive_suite.md").write_text(text)
    if scores:
        most = max(scores.values(), key=lambda score: len(score.episodes))
        write_json(RESULTS.parent / "drive_suite_events.json", event_shares(most.episodes))
    print(text)


if __name__ == "__main__":
    main()
