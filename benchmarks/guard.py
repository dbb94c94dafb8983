"""The safety layer under its tests: line and branch coverage, and which of its mutants no test finds.

    python benchmarks/guard.py coverage      # seconds; exit code 1 below 100 %
    python benchmarks/guard.py mutants       # half an hour of one core; may be broken off and taken up again
    python benchmarks/guard.py sample        # a fixed few of them without property tests; none may survive
    python benchmarks/guard.py contacts      # a minute: a car ahead that brakes, and a policy that does not

All but ``sample`` write their part of ``results/guard.json``, which docs/guard.md quotes. ``tally`` in place of
``mutants`` counts what a run that is not finished has found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import coverage
import mutation
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/guard.json"
TESTS = tuple(
    f"tests/control/{name}.py"
    for name in (
        "test_guard_limits",
        "test_supervision",
        "test_slots",
        "test_guard",
        "test_collision",
        "test_action",
        "test_second_account",
        "test_kinematics",
        "test_nodes",
        "test_observation",
        "test_rss",
        "test_guard_any_input",
        "test_minimal_risk_stop",  # waits for a minute where a mutant keeps a node from its socket
    )
)
PARTS = {  # of modules that serve others, too: what the guard stands on
    "action": ("limit_command", "_distance", "LimitedCommand", "CommandWatchdog", "steer_to"),
    "kinematics": (
        "bicycle_slip_rad",
        "steering_for_curvature",
        "curvature_for_steering",
        "max_curvature",
        "max_steering",
        "lane_keeping_curvature",
        "LaneKeeping",
        "stopping_distance",
    ),
    "inputs": ("inputs_from_messages",),
    "slots": ("TrackSlots", "find_nearest"),
}
TARGETS = tuple(
    mutation.Target(f"visuomotor.control.{name}", ROOT / f"control/{name}.py", PARTS.get(name, ()))
    for name in ("guard", "supervision", "collision", "rss", "config", "guarding", "guard_node", *PARTS)
)
SAMPLE_EVERY = 200


def measure_coverage() -> dict[str, Any]:
    """Lines and branches of the safety layer that its tests run."""
    report = mutation.in_fork(_coverage_by_file)
    rows = []
    for target in TARGETS:
        found = report[str(target.path)]
        parts = [_part(found, name) for name in target.only] if target.only else [found]
        rows.append(
            {
                "module": target.module,
                "of": list(target.only),
                "lines": sum(part["summary"]["num_statements"] for part in parts),
                "branches": sum(part["summary"]["num_branches"] for part in parts),
                "missed_lines": sorted({line for part in parts for line in part["missing_lines"]}),
                "missed_branches": sorted(branch for part in parts for branch in part["missing_branches"]),
            }
        )
    lines, branches = sum(row["lines"] for row in rows), sum(row["branches"] for row in rows)
    missed_lines, missed_branches = (sum(len(row[f"missed_{what}"]) for row in rows) for what in ("lines", "branches"))
    return {
        "line_percent": round(100.0 * (1.0 - missed_lines / lines), 2),
        "branch_percent": round(100.0 * (1.0 - missed_branches / branches), 2),
        "lines": lines,
        "branches": branches,
        "modules": rows,
    }


def _coverage_by_file() -> dict[str, Any]:
    files = [str(target.path) for target in TARGETS]
    measure = coverage.Coverage(data_file=None, include=files, branch=True, config_file=False)
    measure.start()
    code = pytest.main([*mutation.OPTIONS, *TESTS])
    measure.stop()
    if code != 0:
        raise RuntimeError("the tests of the safety layer fail")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        measure.json_report(outfile=str(path))
        return {str(Path(name).resolve()): data for name, data in json.loads(path.read_text())["files"].items()}


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    """A function's or a class's share of a file: with its methods, without what runs at import."""
    regions = [data for key, data in found["functions"].items() if key == name or key.startswith(f"{name}.")]
    return {
        "summary": {
            key: sum(region["summary"][key] for region in regions) for key in ("num_statements", "num_branches")
        },
        "missing_lines": [line for region in regions for line in region["missing_lines"]],
        "missing_branches": [branch for region in regions for branch in region["missing_branches"]],
    }


def run_mutants(store: Path, *, sample: bool = False, quick: bool = False) -> list[dict[str, Any]]:
    """Run all mutants, or a fixed sample, against the tests; the rows of those that survive."""
    mutation.fix_examples()
    run = mutation.MutationRun(
        TARGETS,
        store,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        quick=quick,
        choose=(lambda mutant: mutant.index % SAMPLE_EVERY == SAMPLE_EVERY // 2) if sample else (lambda mutant: True),
    )
    if pytest.main([*mutation.OPTIONS, *TESTS], plugins=[run]) != 0:
        raise RuntimeError("the mutation run was broken off")
    return [row for row in run.results.values() if not row["killed_by"]]


def tally(store: Path) -> dict[str, Any]:
    """What is known of the mutants of the code as it is now."""
    known = {row["key"]: row for row in map(json.loads, store.read_text().splitlines())}
    modules, survivors = [], []
    for target in TARGETS:
        mutants = [mutant for mutant, _ in mutation.make_mutants(target)]
        run = [mutant for mutant in mutants if mutant.key in known]
        alive = [mutant for mutant in run if not known[mutant.key]["killed_by"]]
        modules.append({"module": target.module, "mutants": len(mutants), "run": len(run), "survived": len(alive)})
        survivors += [f"{target.path.name}:{mutant.line} {mutant.scope}: {mutant.change}" for mutant in alive]
    return {
        **{name: sum(row[name] for row in modules) for name in ("mutants", "run", "survived")},
        "modules": modules,
        "survivors": survivors,
    }


def measure_contacts(count: int = 60) -> dict[str, Any]:
    """Behind a car that brakes by 0 to 8 m/s2 to standstill, from the RSS distance: contacts above walking pace.

    For a policy at full acceleration and one that rolls, with the guard and without, on the same cases; the closing
    speed at contact is that of those cases in which there is one without the guard.
    """
    sys.path.insert(0, str(ROOT / "tests/control"))
    from conftest import build_inputs
    from test_rss import CREEP_MPS, Pair, drive

    from visuomotor.control.guard import GuardSettings
    from visuomotor.control.rss import longitudinal_distance

    rng = np.random.default_rng(1)
    cases = rng.uniform((0.0, 0.0, 0.0, 0.0), (25.0, 25.0, 8.0, 20.0), (count, 4)).tolist()
    out: dict[str, Any] = {"cases": count}
    for policy, wanted in (("full_acceleration", 2.0), ("rolls", 0.0)):
        speeds = {}
        for guard in (True, False):
            settings = GuardSettings(enabled=guard)
            speeds[guard] = np.array(
                [
                    drive(
                        Pair(build_inputs, rear, front, float(longitudinal_distance(rear, front)) + beyond, settings),
                        [(wanted, 0.0)],
                        [-braking],
                    )
                    for rear, front, braking, beyond in cases
                ]
            )
        hit = speeds[False] > CREEP_MPS
        out[policy] = {
            "contacts_without_guard": int(hit.sum()),
            "contacts": int((speeds[True] > CREEP_MPS).sum()),
            "median_speed_without_guard_mps": round(float(np.median(speeds[False][hit])), 2),
            "median_speed_mps": round(float(np.median(speeds[True][hit])), 2),
            "max_speed_mps": round(float(speeds[True].max()), 2),
        }
    return out


def _write(part: str, value: dict[str, Any]) -> None:
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(result | {part: value}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "mutants", "tally", "sample", "contacts"))
    parser.add_argument("--store", type=Path, default=ROOT / "out/guard_mutants.jsonl", help="what is known already")
    parser.add_argument("--quick", action="store_true", help="mutants: without the property tests")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.what == "coverage":
        found = measure_coverage()
        if not options.check:
            _write("coverage", found)
        print(f"lines {found['line_percent']} % of {found['lines']}, branches {found['branch_percent']} %")
        for row in found["modules"]:
            if row["missed_lines"] or row["missed_branches"]:
                print(f"{row['module']}: missed lines {row['missed_lines']}, branches {row['missed_branches']}")
        return int(found["line_percent"] < 100.0 or found["branch_percent"] < 100.0)
    if options.what == "contacts":
        contacts = measure_contacts()
        _write("contacts", contacts)
        print(json.dumps(contacts, indent=1))
        return 0
    if options.what == "sample":
        with tempfile.TemporaryDirectory() as folder:
            return int(bool(run_mutants(Path(folder) / "sample.jsonl", sample=True, quick=True)))
    if options.what == "mutants":
        options.store.parent.mkdir(exist_ok=True)
        run_mutants(options.store, quick=options.quick)
    found = tally(options.store)
    if not options.check:
        _write("mutation", found)
    print(f"{found['run']} of {found['mutants']} mutants run, {found['survived']} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
