"""The figures on docs/guard.md are those of the result file."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guard.md"


def test_figures_on_the_page_are_those_of_the_result_file():
    page, result = " ".join(PAGE.read_text().split()), json.loads((ROOT / "benchmarks/results/guard.json").read_text())
    covered, mutants, contacts = result["coverage"], result["mutation"], result["contacts"]
    assert (
        f"{covered['line_percent']} % of its {covered['lines']} lines and "
        f"{covered['branch_percent']} % of its {covered['branches']} branches" in page
    )
    assert f"left out): {mutants['mutants']}, of which {mutants['run']} have been run" in page
    assert f"and {mutants['survived']} survive." in page
    assert len(mutants["survivors"]) == mutants["survived"]
    assert f"| {contacts['cases']} cases " in page
    for policy in ("full_acceleration", "rolls"):
        row = contacts[policy]
        assert f"| {row['contacts']} ({row['contacts_without_guard']}) | {row['max_speed_mps']:.1f} m/s |" in page, (
            policy
        )
