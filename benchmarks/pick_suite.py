"""The table of picking: each policy, perception and forecast on the same shifts of pick-v1, paired, 95 % intervals.

    python benchmarks/pick_suite.py --episodes 100 --jobs 2            # resumable; --only NAME for single rows
    python benchmarks/pick_suite.py --table                            # only rewrite the tables from finished rows

Each row's shifts go to ``runs/pick_suite/<row>.jsonl`` as they finish, its score to ``results/pick_suite/<row>.json``
and the tables to ``results/pick_suite.md``. The forecast's worth is the same policy on the same perception with the
forecaster replaced: ``none`` is 'where the part is now', ``cv1`` goes on at its velocity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from suite_rows import ROOT, Rows

from visuomotor.launch.evaluate.score import Score, paired_by_seed, paired_ratio
from visuomotor.launch.evaluate.statistics import Estimate, paired_shares

POLICY = str(ROOT / "models" / "pick-policy")

# name -> overrides of the shipped profile
ROWS: dict[str, dict[str, object]] = {
    "policy_real": {"policy": POLICY},
    "scripted_real": {"policy": "scripted"},
    "policy_real_cv": {"policy": POLICY, "forecaster": "cv1"},
    "policy_real_now": {"policy": POLICY, "forecaster": "none"},
    "scripted_real_cv": {"policy": "scripted", "forecaster": "cv1"},
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
    return "\n".join([*lines, "", *group_table(scores), "", *paired_table(scores)]) + "\n"


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


def paired_table(scores: Mapping[str, Score]) -> Sequence[str]:
    """The same groups for each pair of rows: differences in points over the shifts that both have."""
    pairs = [(ours, theirs) for ours, theirs in PAIRS if ours in scores and theirs in scores]
    groups = sorted(
        {group for score in scores.values() for row in score.episodes for group in row.get("binned_by", ())}
    )
    if not pairs or not groups:
        return []
    lines = [
        "| parts binned, points | " + " | ".join(f"{a} - {b}" for a, b in pairs) + " |",
        "|---" * (len(pairs) + 1) + "|",
    ]
    for group in groups:
        cells = [paired_group(scores[ours], scores[theirs], group) for ours, theirs in pairs]
        lines.append(
            f"| {group} | " + " | ".join("" if math.isnan(cell.mean) else cell.as_points() for cell in cells) + " |"
        )
    return lines


def paired_group(ours: Score, theirs: Score, group: str) -> Estimate:
    """Difference of the share of a group's parts that were binned, over the seeds that both have."""
    counts = [{row["seed"]: row["binned_by"].get(group, (0, 0)) for row in score.episodes} for score in (ours, theirs)]
    seeds = sorted(counts[0].keys() & counts[1].keys())
    a, b = (np.array([count[seed] for seed in seeds], float) for count in counts)
    return paired_shares(a[:, 0], a[:, 1], b[:, 0], b[:, 1])


SUITE = Rows(
    script="pick_suite",
    folder="pick_suite",
    profile="pick",
    overrides=ROWS,
    tell=lambda row: f"{row['parts_binned']} of {row['parts_ordered']} binned, {row['wrong_parts']} wrong",
    table=table,
    left_out=("topic_digests", "grasps"),
)

if __name__ == "__main__":
    SUITE.main(__doc__)
