"""The table of driving: every policy and perception on the same seeds of drive-v1, paired, with 95 % intervals.

    python benchmarks/drive_suite.py --episodes 100 --jobs 2            # resumable; --only NAME for single rows
    python benchmarks/drive_suite.py --table                            # only rewrite the table from finished rows

Each row's episodes go to ``runs/suite/<row>.jsonl`` as they finish, its score to ``results/suite/<row>.json`` and the
table to ``results/drive_suite.md``.
"""

from __future__ import annotations

from suite_rows import ROOT, Rows

from visuomotor.launch.evaluate.score import Score, paired_by_seed

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


SUITE = Rows(
    script="drive_suite",
    folder="suite",
    profile="drive",
    overrides=ROWS,
    tell=lambda row: f"after {row['duration_s']} s",
    table=table,
)

if __name__ == "__main__":
    SUITE.main(__doc__)
