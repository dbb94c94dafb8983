"""Playing whole episodes of listed cases with any policy, many worlds at a time, and summing them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from visuomotor.sim.env import DriveVectorEnv, EpisodeSummary


class Expert(Protocol):
    """What acts in B worlds: learned or written."""

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the state of the worlds in the mask [B]."""

    def act(self, inputs: Any) -> np.ndarray:
        """Action [B, A] in [-1, 1]."""
        ...


def play(
    driver: Expert,
    seeds: Sequence[int],
    *,
    count: int = 32,
    worlds: Callable[..., Any] = DriveVectorEnv,
    **settings: Any,
) -> list[Any]:
    """Summaries, one per case seed in the order of ``seeds``; ``settings`` go to the vector environment."""
    env = worlds(min(count, len(seeds)), case_seeds=seeds, **settings)
    done: dict[int, Any] = {}
    try:
        env.reset(seed=0)
        driver.reset()
        while not env.idle.all():
            assert env.inputs is not None
            env.step(driver.act(env.inputs))
            ended = np.zeros(env.num_envs, bool)
            for index, summary in env.summaries:
                done[summary.seed] = summary
                ended[index] = True
            if ended.any():
                driver.reset(ended)
    finally:
        env.close()
    return [done[seed] for seed in seeds]


def success_rate(episodes: Iterable[EpisodeSummary]) -> float:
    """Share of episodes that reached the goal."""
    return float(np.mean([episode.success for episode in episodes]))


def describe(episodes: Sequence[EpisodeSummary]) -> str:
    """One line: success, how the others ended, speed."""
    total = len(episodes)
    ends = {end: sum(e.end == end for e in episodes) for end in ("collision", "offroad", "timeout")}
    fault = sum(e.at_fault and e.end == "collision" for e in episodes)
    speed = float(np.mean([e.mean_speed_mps for e in episodes]))
    bad = ", ".join(f"{name} {value / total:.1%}" for name, value in ends.items())
    return (
        f"success {success_rate(episodes):.1%} of {total} ({bad}; at fault {fault / total:.1%}), "
        f"{speed:.2f} m/s, reward {np.mean([e.reward for e in episodes]):.1f}"
    )
