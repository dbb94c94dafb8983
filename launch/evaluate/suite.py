"""Evaluation over a scenario suite: the nodes of a run in one process per job, in lockstep, seed by seed.

Episodes are independent, so a finished seed is appended to a JSON-lines file beside the score and a second call with
the same file goes on where the first one stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from visuomotor.launch.evaluate.metrics import make_metrics
from visuomotor.launch.evaluate.score import Score, provenance
from visuomotor.launch.process_table import NodeSpec, create_node, make_table
from visuomotor.launch.profile import Profile
from visuomotor.launch.tasks import DEFAULT
from visuomotor.messages.digest import episode_digest
from visuomotor.messages.graph import Graph
from visuomotor.messages.schema import Episode

RENDERER = "TinyRenderer"  # of the simulator's cameras
MAX_TICKS = 3000  # five minutes; the world's own time limit is shorter


class SuiteRun(msgspec.Struct, kw_only=True):
    """One configuration to be evaluated."""

    nodes: list[NodeSpec]
    task: str = DEFAULT.name
    suite: str = DEFAULT.suite
    split: str = "evaluation"
    policy: str = ""
    perception: str = "real"
    forecaster: str = ""
    guard: bool = True
    bundles: dict[str, str] = {}


def make_run(profile: Profile) -> SuiteRun:
    """The evaluation of a profile, with the hashes of the bundles it uses."""
    chosen = {"policy": profile.policy, "forecaster": profile.perception.forecaster}
    if profile.perception.mode == "real":
        chosen |= {f"detector {camera}": path for camera, path in profile.perception.detectors.items()}
    bundles = {}
    for name, path in chosen.items():
        manifest = Path(path) / "bundle.json"
        if manifest.is_file():
            bundles[name] = f"{Path(path).name} sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}"
    return SuiteRun(
        nodes=make_table(profile),
        task=profile.task,
        suite=profile.suite,
        split=profile.split,
        policy=Path(profile.policy).name,
        perception=profile.perception.mode,
        forecaster=Path(profile.perception.forecaster).name,
        guard=profile.guard,
        bundles=bundles,
    )


def build_graph(nodes: Sequence[NodeSpec]) -> Graph:
    """Create every node from its module string and join them in one process."""
    return Graph([create_node(spec) for spec in nodes])


def run_episode(graph: Graph, run: SuiteRun, seed: int, index: int = 0) -> dict[str, Any]:
    """Run one seed to its end; returns its row of ``score.json``."""
    graph.reset(Episode(phase="reset", index=index, task=run.task, suite=run.suite, split=run.split, seed=seed))
    metrics = make_metrics(run.task)
    started = time.perf_counter()
    for _ in range(MAX_TICKS):
        metrics.add(graph.tick())
        if metrics.end:
            break
    digests = graph.topic_digests()
    row = metrics.result(seed)
    row["digest"] = episode_digest(digests)
    row["topic_digests"] = digests
    row["wall_s"] = round(time.perf_counter() - started, 2)
    return row


def run_suite(
    run: SuiteRun,
    seeds: Iterable[int],
    *,
    jobs: int = 1,
    progress: Path | None = None,
    on_episode: Callable[[dict[str, Any]], None] | None = None,
) -> Score:
    """Evaluate ``run`` on ``seeds``; ``progress`` is the resumable JSON-lines file of finished episodes."""
    wanted = list(seeds)
    rows = _finished(progress, run) if progress is not None else {}
    open_seeds = [seed for seed in wanted if seed not in rows]

    def keep(row: dict[str, Any]) -> None:
        rows[row["seed"]] = row
        if progress is not None:
            progress.parent.mkdir(parents=True, exist_ok=True)
            with progress.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if on_episode is not None:
            on_episode(row)

    if open_seeds:
        if jobs <= 1:
            graph = build_graph(run.nodes)
            try:
                for seed in open_seeds:
                    keep(run_episode(graph, run, seed))
            finally:
                graph.close()
        else:
            _run_parallel(run, open_seeds, jobs, keep)
    origin = provenance(run.bundles) | {"split": run.split}
    if run.perception == "real":
        origin["renderer"] = RENDERER
    score = Score(
        task=run.task,
        suite=run.suite,
        policy=run.policy,
        perception=run.perception,
        forecaster=run.forecaster,
        guard=run.guard,
        episodes=[rows[seed] for seed in wanted],
        provenance=origin,
    )
    return score.finish()


def _finished(progress: Path, run: SuiteRun) -> dict[int, dict[str, Any]]:
    """Rows of an earlier call; a file that belongs to another configuration is refused."""
    known = {"suite": run.suite, "split": run.split, "nodes": run.nodes, "bundles": run.bundles}
    identity = json.loads(msgspec.json.encode(known))
    if not progress.exists():
        progress.parent.mkdir(parents=True, exist_ok=True)
        progress.write_text(json.dumps({"run": identity}) + "\n")
        return {}
    try:
        lines = progress.read_text().splitlines()
        first = json.loads(lines[0]) if lines else {}
        rows = [json.loads(line) for line in lines[1:]]
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{progress}: not a progress file ({error}); remove it to start anew") from error
    if not isinstance(first, dict) or first.get("run") != identity:
        raise ValueError(f"{progress}: holds episodes of another configuration; remove it or choose another file")
    for number, row in enumerate(rows, 2):
        if not isinstance(row, dict) or type(row.get("seed")) is not int:
            raise ValueError(f"{progress}: line {number}: expected an episode with its seed; remove it to start anew")
    return {row["seed"]: row for row in rows}


_worker_graph: Graph | None = None
_worker_run: SuiteRun | None = None


def _start_worker(encoded: bytes) -> None:
    global _worker_graph, _worker_run
    _worker_run = msgspec.json.decode(encoded, type=SuiteRun)
    _worker_graph = build_graph(_worker_run.nodes)


def _work(seed: int) -> dict[str, Any]:
    if _worker_graph is None or _worker_run is None:
        raise RuntimeError("worker used before it was started")
    return run_episode(_worker_graph, _worker_run, seed)


def _run_parallel(run: SuiteRun, seeds: Sequence[int], jobs: int, keep: Callable[[dict[str, Any]], None]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the spawned workers, which are one core each
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(seeds)), initializer=_start_worker, initargs=(msgspec.json.encode(run),)) as pool:
        for row in pool.imap_unordered(_work, seeds):
            keep(row)
