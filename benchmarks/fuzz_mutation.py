"""Hostile inputs out of valid ones: flipped bits, lying lengths, splices, values of another type, deep nesting.

Every choice comes from the generator that is passed in, so that an input is known by its seed and number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 127, 128, 255, 256, -129, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.0, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 0.1),
)
TEXTS = (
    *("", "\0", "a\0b", "..", "../x", "/etc/passwd", "a/b", ".", "~", "nan", "1e999", "-0", "null", "true", "float32"),
    *("object", ">f4", "é", "‮", "😀", "٣", "\ufeff", "\\", "'", '"', "%s", "{}", "x" * 300, "9" * 5000, "é" * 150),
)
BYTES = np.array([0x00, 0x01, 0x7F, 0x80, 0xFF, 0xC0, 0xC1, 0xC6, 0xD9, 0xDD, 0xDF, 0x90, 0x93, 0x22, 0x5B, 0x7B, 0x0A])
DEPTHS = (8, 40, 200, 1100, 20_000)
PATHS_MAX = 200


def pick(rng: np.random.Generator, options: Any) -> Any:
    """One of a sequence."""
    return options[int(rng.integers(len(options)))]


def flip(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """One to eight bits inverted from ``start`` on."""
    if len(data) <= start:
        return data
    changed = bytearray(data)
    for at in rng.integers(start, len(data), int(rng.integers(1, 9))).tolist():
        changed[at] ^= 1 << (at * 7 + len(data)) % 8
    return bytes(changed)


def poke(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """One to four bytes set to values that mean something in the formats that are read."""
    if len(data) <= start:
        return data
    changed = bytearray(data)
    count = int(rng.integers(1, 5))
    for at, value in zip(
        rng.integers(start, len(data), count).tolist(), rng.choice(BYTES, count).tolist(), strict=True
    ):
        changed[at] = value
    return bytes(changed)


def cut(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """The beginning alone."""
    return data[: int(rng.integers(min(start, len(data)), len(data) + 1))]


def move(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """A span left out, sent twice, or replaced by noise."""
    if len(data) <= start:
        return data
    first = int(rng.integers(start, len(data)))
    last = min(len(data), first + int(rng.integers(1, 40)))
    between = pick(rng, (b"", data[first:last] * 2, rng.bytes(int(rng.integers(1, 40)))))
    return data[:first] + bytes(between) + data[last:]


def lie(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """Two, four or eight bytes in a row replaced by a number: what a length field of somebody who lies looks like."""
    size = pick(rng, (2, 4, 8))
    if len(data) < start + size:
        return data
    at = int(rng.integers(start, len(data) - size + 1))
    value = pick(rng, (0, 1, len(data), len(data) + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1))
    order = pick(rng, ("little", "big"))
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, order) + data[at + size :]


ON_BYTES: tuple[Callable[..., bytes], ...] = (flip, flip, poke, cut, move, lie)


def mutate_bytes(rng: np.random.Generator, data: bytes, start: int = 0) -> bytes:
    """One to three of the above, of what comes after ``start``."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, ON_BYTES)(rng, data, start)
    return data


def splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of another."""
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]


def anything(rng: np.random.Generator, of_bytes: bool = False) -> Any:
    """A value that is not expected where it is put."""
    kind = int(rng.integers(8))
    if kind < 3:
        return pick(rng, NUMBERS)
    if kind < 5:
        return pick(rng, TEXTS)
    if kind == 5:
        return pick(rng, (None, True, False))
    if kind == 6 and of_bytes:
        return rng.bytes(int(rng.integers(0, 60)))
    return pick(rng, ([], {}, [1, "a", None], {"a": 1}, [[]], [[1.5] * 9], {"": {}}, ["a"] * 300, nest(30)))


def nest(depth: int) -> Any:
    """A list in a list, so many times."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def paths_of(tree: Any) -> list[tuple[Any, ...]]:
    """Ways from the root to nodes of a tree of lists and dicts, the root left out; the first ``PATHS_MAX``."""
    found: list[tuple[Any, ...]] = []
    queue: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while queue and len(found) < PATHS_MAX:
        path, node = queue.pop(0)
        if path:
            found.append(path)
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        queue += [((*path, key), child) for key, child in items]
    return found


def replace(tree: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of the tree, along ``path`` only, in which ``change`` was made to the last container and its key."""
    copy = root = tree.copy()
    for key in path[:-1]:
        copy[key] = copy[key].copy()
        copy = copy[key]
    change(copy, path[-1])
    return root


def mutate_tree(rng: np.random.Generator, tree: Any, paths: list[tuple[Any, ...]], of_bytes: bool = False) -> Any:
    """One value replaced, left out, repeated or given another key."""
    path = pick(rng, paths)
    kind = int(rng.integers(6))

    def change(container: Any, key: Any) -> None:
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.insert(key, container[key])
        elif kind == 1:
            container[pick(rng, TEXTS)] = container.pop(key)
        elif kind == 2 and isinstance(container, dict):
            container[pick(rng, TEXTS)] = anything(rng, of_bytes)
        else:
            container[key] = anything(rng, of_bytes)

    return replace(tree, path, change)


def to_json(tree: Any) -> bytes:
    """JSON of a tree, with NaN and infinity as Python's own writer has them."""
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def tokens_of(data: bytes) -> list[int]:
    """Offsets of everything in a msgpack document that begins with a type and maybe a length."""
    offsets, at, open_items = [], 0, 1
    fixed = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    sized = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
    items = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
    while open_items and at < len(data):
        offsets.append(at)
        kind = data[at]
        at, open_items = at + 1, open_items - 1
        if 0x80 <= kind < 0xA0:
            open_items += (kind & 15) * (2 if kind < 0x90 else 1)
        elif 0xA0 <= kind < 0xC0:
            at += kind & 31
        elif kind in fixed:
            at += fixed[kind]
        elif kind in sized:
            at += sized[kind] + int.from_bytes(data[at : at + sized[kind]], "big")
        elif kind in items:
            size, per_item = items[kind]
            open_items += per_item * int.from_bytes(data[at : at + size], "big")
            at += size
    return offsets


_MARKERS = """
c0 c2 c3 c1 00 7f ff 80 81 8f 90 91 93 95 9f a0 a1 bf c400 c4ff c5ffff c6ffffffff ca7fc00000 cb7ff0000000000000
cc80 cfffffffffffffffff d38000000000000000 d9ff daffff dbffffffff dcffff ddffffffff deffff dfffffffff d40100
d6ff00000000 c70c05 c9ffffffff01
"""
MARKERS = tuple(bytes.fromhex(text) for text in _MARKERS.split())


def mutate_token(rng: np.random.Generator, data: bytes, tokens: list[int]) -> bytes:
    """The type or length of one item of a msgpack document replaced by another's."""
    at = pick(rng, tokens)
    marker: bytes = pick(rng, MARKERS)
    return data[:at] + marker + data[at + (len(marker) if rng.integers(2) else 1) :]


def hostile_msgpack(rng: np.random.Generator) -> bytes:
    """Deep nesting and lengths that nothing follows."""
    if rng.integers(2):
        return pick(rng, (b"\x91", b"\x81\xa0", b"\x81", b"\xdd\0\0\0\1")) * pick(rng, DEPTHS)
    return pick(rng, MARKERS) + rng.bytes(int(rng.integers(0, 60)))


def mutate_lines(rng: np.random.Generator, text: str) -> str:
    """Lines of a text repeated, left out, swapped or cut, and words and numbers in them replaced."""
    lines = text.split("\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        kind = int(rng.integers(7))
        if kind == 0:
            lines.insert(int(rng.integers(len(lines))), lines[at])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines[at] = lines[at][: int(rng.integers(len(lines[at]) + 1))]
        else:
            words = lines[at].split(" ")
            words[int(rng.integers(len(words)))] = str(pick(rng, NUMBERS if kind > 4 else TEXTS))
            lines[at] = " ".join(words)
    return "\n".join(lines)
