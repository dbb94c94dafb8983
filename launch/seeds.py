"""Seeds as people write them on the command line."""

from __future__ import annotations

DIGITS_MAX = 18  # below 2**63


def parse_seeds(text: str) -> range:
    """Half-open range "A:B" of seeds, both at least 0 and A < B. Raises ValueError that quotes the text otherwise."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal():
        raise ValueError(f"--seeds: expected A:B with integers A >= 0 and B > A, got {text!r}")
    if max(len(first), len(last)) > DIGITS_MAX:
        raise ValueError(f"--seeds: expected numbers of at most {DIGITS_MAX} digits, got {text[:40]!r}...")
    seeds = range(int(first), int(last))
    if not seeds:
        raise ValueError(f"--seeds: expected A:B with A < B (half-open), got {text!r}, which is empty")
    return seeds


def choose_seeds(seed: int | None, episodes: int | None, seeds: str | None, default: int = 1) -> range:
    """Seeds of a run: ``--seeds A:B``, or ``--episodes`` many (``default`` when not given) from ``--seed`` (0) on."""
    if seeds is not None:
        if seed is not None or episodes is not None:
            raise ValueError("--seeds: cannot be combined with --seed or --episodes")
        return parse_seeds(seeds)
    first = 0 if seed is None else seed
    count = default if episodes is None else episodes
    if first < 0:
        raise ValueError(f"--seed: expected an integer >= 0, got {first}")
    if count < 1:
        raise ValueError(f"--episodes: expected an integer >= 1, got {count}")
    return range(first, first + count)
