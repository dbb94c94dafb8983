"""Gymnasium spaces as a bundle describes them: shapes, names, units, ranges, the frame stack, and the layout's hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import msgspec
import numpy as np
import yaml
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from visuomotor.deploy.runtime.spaces import ArraySpec, to_bound
from visuomotor.messages.yaml_file import explain_yaml_error

INPUT, ACTION = "observation", "action"
INPUT_DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool")
Axis = Literal["first", "last"]


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number of an observation or action, as a fields file names it."""

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fields file: the observation's numbers (for a Dict: by key) and the action's, in order."""

    observation: list[Field] | dict[str, list[Field]] | None = None
    action: list[Field] | None = None


class FrameStack(msgspec.Struct, frozen=True, kw_only=True):
    """``frames`` observations along ``axis`` ("first": channels of an image), oldest first, as VecFrameStack does."""

    frames: int
    axes: dict[str, Axis]  # by key; "" for an observation of one array

    def axis(self, key: str | None) -> int:
        """Axis of the array without batch dimension: 0 or -1."""
        return 0 if self.axes[key or ""] == "first" else -1


def read_fields(path: Path | None) -> Fields:
    """A YAML or JSON file; ValueError names it and the key that is wrong."""
    if path is None:
        return Fields()
    try:
        data = yaml.safe_load(path.read_text())
        return msgspec.convert({"observation": data} if isinstance(data, list) else data, Fields)
    except OSError as error:
        raise ValueError(f"--fields: {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--fields: {path}: expected text, YAML or JSON, got bytes that are none") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        found = explain_yaml_error(error) if isinstance(error, yaml.YAMLError) else error
        raise ValueError(f"--fields: {path}: expected a list of name, unit, low, high: {found}") from error


def split_frames(
    space: gym.Space[Any], frames: int, axis: Axis | None
) -> tuple[FrameStack | None, dict[str, spaces.Space[Any]]]:
    """The declared stack and the space of one frame by key ("" without keys). ValueError where they don't divide."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    if frames == 1:
        return None, parts
    axes = {key: axis or _stack_axis(key, part) for key, part in parts.items()}
    single = {key: _one_frame(key, part, frames, axes[key]) for key, part in parts.items()}
    return FrameStack(frames=frames, axes=axes), single


def describe_observation(
    parts: Mapping[str, spaces.Space[Any]], fields: Fields, path: Path | None
) -> tuple[ArraySpec, ...]:
    """One ArraySpec per array. ValueError for a space that is not supported or a fields file that does not fit."""
    given = fields.observation
    named = given if isinstance(given, dict) else {"": given} if given is not None else {}
    if given is not None and set(named) != set(parts):
        expected = sorted(parts) if "" not in parts else "a list"
        raise ValueError(f"--fields: {path}: observation: expected {expected}, got {sorted(named)}")
    return tuple(
        _describe(
            f"{INPUT}.{key}" if key else INPUT, key or None, key or "obs", part, named.get(key), f"{path}: observation"
        )
        for key, part in parts.items()
    )


def describe_action(space: gym.Space[Any], fields: Fields, path: Path | None, array: str = ACTION) -> ArraySpec:
    """The action's ArraySpec; ValueError for a space that is not supported."""
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind != "f":
        raise ValueError(f"action space {space}: expected a Box of floats, Discrete, MultiDiscrete or MultiBinary")
    return _describe(array, None, "action", space, fields.action, f"{path}: action")


def hash_observation(specs: Sequence[ArraySpec], stack: FrameStack | None) -> str:
    """Hex digest of names, order, units, ranges, shapes and dtypes of what goes in."""
    return hashlib.sha256(msgspec.json.encode((specs, stack))).hexdigest()


def _describe(
    array: str, key: str | None, prefix: str, space: spaces.Space[Any], fields: list[Field] | None, where: str
) -> ArraySpec:
    image = isinstance(space, spaces.Box) and is_image_space(space)
    choices: tuple[int, ...] = ()
    match space:
        case spaces.Box():
            dtype = str(np.dtype(space.dtype))
            low, high = space.low, space.high
            if image:
                low, high = np.array([0.0]), np.array([255.0])
            kind = "box"
        case spaces.Discrete() if space.start == 0:
            kind, dtype, choices = "discrete", "int64", (int(space.n),)
            low, high = np.zeros(1), np.array([space.n - 1])
        case spaces.MultiDiscrete() if space.nvec.ndim == 1 and not np.any(space.start):
            kind, dtype, choices = "multi_discrete", "int64", tuple(int(n) for n in space.nvec)
            low, high = np.zeros(len(space.nvec)), space.nvec - 1
        case spaces.MultiBinary() if len(space.shape) == 1:
            kind, dtype = "multi_binary", "int8"
            low, high = np.zeros(space.shape), np.ones(space.shape)
        case _:
            raise ValueError(
                f"{array}: {space}: not supported; expected Box, Discrete (start 0), MultiDiscrete or MultiBinary of "
                "one dimension, or a Dict of these"
            )
    if dtype not in INPUT_DTYPES:
        raise ValueError(f"{array}: dtype: expected one of {', '.join(INPUT_DTYPES)}, got {dtype}")
    shape = tuple(int(n) for n in space.shape or ())
    names = [prefix] if image or not shape else [_indexed(prefix, index) for index in np.ndindex(*shape)]
    bounds = [(to_bound(a), to_bound(b)) for a, b in zip(np.ravel(low), np.ravel(high), strict=True)]
    rows = _merge(names, bounds, fields, f"{where}{'.' * bool(key)}{key or ''}")
    return ArraySpec(
        array=array,
        key=key,
        kind=kind,  # type: ignore[arg-type]
        dtype=dtype,
        shape=shape,
        image=image,
        choices=choices,
        names=tuple(row.name for row in rows),
        units=tuple(row.unit for row in rows),
        low=tuple(row.low for row in rows),
        high=tuple(row.high for row in rows),
    )


def _merge(
    names: list[str], bounds: list[tuple[float | None, float | None]], fields: list[Field] | None, where: str
) -> list[Field]:
    """Names and units of the file with the space's ranges; a range the space lacks may come from the file."""
    if fields is None:
        return [Field(name=n, low=low, high=high) for n, (low, high) in zip(names, bounds, strict=True)]
    if len(fields) != len(names):
        raise ValueError(f"--fields: {where}: expected {len(names)} fields, got {len(fields)}")
    if len({f.name for f in fields}) != len(fields):
        raise ValueError(f"--fields: {where}: expected different names, got {[f.name for f in fields]}")
    rows = []
    for field, (low, high) in zip(fields, bounds, strict=True):
        for what, mine, theirs in (("low", low, field.low), ("high", high, field.high)):
            if mine is not None and theirs is not None and not np.isclose(mine, theirs, rtol=1e-6):
                raise ValueError(f"--fields: {where}: {field.name}: {what}: expected the space's {mine}, got {theirs}")
        rows.append(
            msgspec.structs.replace(
                field, low=field.low if low is None else low, high=field.high if high is None else high
            )
        )
    return rows


def _indexed(prefix: str, index: tuple[int, ...]) -> str:
    return f"{prefix}[{','.join(str(i) for i in index)}]"


def _stack_axis(key: str, space: spaces.Space[Any]) -> Axis:
    """Where SB3 put the frames: images have their channels first by the time that the policy sees them."""
    if isinstance(space, spaces.Box) and is_image_space(space):
        return "first"
    if len(space.shape or ()) == 3:
        raise ValueError(
            f"--stack-axis: {key or INPUT} {space.shape}: expected first or last for an array of three dimensions"
        )
    return "last"


def _one_frame(key: str, space: spaces.Space[Any], frames: int, axis: Axis) -> spaces.Space[Any]:
    where = 0 if axis == "first" else -1
    if not isinstance(space, spaces.Box) or not space.shape or space.shape[where] % frames:
        raise ValueError(f"--frame-stack {frames}: {key or INPUT}: {space}: expected a Box that {frames} frames divide")
    count = space.shape[where] // frames
    index = (slice(-count, None),) if where == 0 else (..., slice(-count, None))
    return spaces.Box(space.low[index], space.high[index], dtype=space.dtype)
