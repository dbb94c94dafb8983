"""What the tables of suites share: rows that are resumed, saved and read back, and the script's options."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from visuomotor.launch.evaluate.score import Score, event_shares, load_score, write_json
from visuomotor.launch.evaluate.suite import make_run, run_suite
from visuomotor.launch.profile import load_profile

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Rows(NamedTuple):
    """The rows of one script. ``folder``: of progress in runs/, of scores in results/; ``left_out``: of the scores."""

    script: str  # its name, and that of its tables
    folder: str
    profile: str
    overrides: Mapping[str, Mapping[str, object]]  # by row, of the shipped profile
    tell: Callable[[dict[str, Any]], str]  # an episode in a few words
    table: Callable[[dict[str, Score]], str]
    left_out: tuple[str, ...] = ("topic_digests",)

    def run(self, name: str, episodes: int, jobs: int) -> Score:
        """Play what is missing of a row, save its score."""
        run = make_run(load_profile(self.profile).override(**self.overrides[name]))
        started = time.perf_counter()

        def tell(row: dict[str, Any]) -> None:
            print(f"{name} seed {row['seed']}: {row['end']}, {self.tell(row)} ({row['wall_s']} s)", flush=True)

        progress = ROOT / "runs" / self.folder / f"{name}.jsonl"
        score = run_suite(run, range(episodes), jobs=jobs, progress=progress, on_episode=tell)
        for row in score.episodes:
            for key in self.left_out:
                row.pop(key, None)
        command = f"python benchmarks/{self.script}.py --only {name} --episodes {episodes} --jobs {jobs}"
        score.provenance |= {"command": command, "wall_s": round(time.perf_counter() - started, 1)}
        score.save(RESULTS / self.folder / f"{name}.json")
        return score

    def main(self, description: str | None) -> None:
        """Run the rows that the command line asks for; write the tables and the shares of the suite's events."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--episodes", type=int, default=100, help="first N seeds of the evaluation split")
        parser.add_argument("--jobs", type=int, default=2)
        parser.add_argument("--only", action="append", choices=sorted(self.overrides))
        parser.add_argument("--table", action="store_true", help="write the table from the rows on disk, run nothing")
        options = parser.parse_args()
        if not options.table:
            for name in options.only or self.overrides:
                self.run(name, options.episodes, options.jobs)
        files = {name: RESULTS / self.folder / f"{name}.json" for name in self.overrides}
        scores = {name: load_score(file) for name, file in files.items() if file.exists()}
        text = self.table(scores)
        (RESULTS / f"{self.script}.md").write_text(text)
        if scores:
            most = max(scores.values(), key=lambda score: len(score.episodes))
            write_json(RESULTS / f"{self.script}_events.json", event_shares(most.episodes))
        print(text)
