"""``report.html``: one self-contained page under 15 MB that opens offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from visuomotor.launch.evaluate.latency import Latency
from visuomotor.launch.evaluate.score import Score
from visuomotor.launch.report import palette
from visuomotor.launch.report.capture import EpisodeCapture
from visuomotor.launch.report.data import episode_data
from visuomotor.launch.report.parts import make_part
from visuomotor.launch.report.video import write_video
from visuomotor.launch.tasks import parts_of
from visuomotor.messages.camera import CameraModel

MAX_BYTES = 15_000_000
_BYTES_PER_IMAGE_SET = 44_000  # overlaid front and side images, JPEG in base64, measured on rendered frames
_IMAGE_BUDGET = 9_000_000
_DATA_BUDGET = 4_500_000


def write_report(
    folder: Path,
    score: Score,
    captures: Sequence[EpisodeCapture],
    cameras: Mapping[str, CameraModel],
    *,
    command: str = "",
    video: bool = True,
) -> Path:
    """Write ``score.json``, ``report.html`` and ``<task>.mp4`` into ``folder``; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    score.save(folder / "score.json")
    page = folder / "report.html"
    page.write_text(render_page(score, captures, cameras, command=command), encoding="utf-8")
    if video and any(capture.ticks for capture in captures):
        file = folder / f"{parts_of(score.task).name}.mp4"
        write_video(file, captures, cameras, make_part(score.task), title=f"{score.task}: {score.policy}")
    return page


def render_page(
    score: Score, captures: Sequence[EpisodeCapture], cameras: Mapping[str, CameraModel], *, command: str = ""
) -> str:
    """The page's text. Episodes past the size budget stay in the table but lose images, then their replay."""
    part = make_part(score.task)
    rows = {row["seed"]: row for row in score.episodes}
    latency = Latency()
    for capture in captures:
        latency.add(capture.traces)
    ticks = sum(len(capture.ticks) for capture in captures)
    stride = max(2, -(-ticks * _BYTES_PER_IMAGE_SET // _IMAGE_BUDGET)) if cameras else 0
    episodes: list[dict[str, Any]] = []
    used = 0
    for capture in captures:
        row = rows.get(capture.seed, {"seed": capture.seed, "end": ""})
        data = episode_data(capture, cameras, part, row, stride)
        size = len(json.dumps(data["ticks"], separators=(",", ":")))
        if used + size > _DATA_BUDGET and episodes:
            break
        used += size
        episodes.append(data)
    content: dict[str, Any] = {
        "score": json.loads(msgspec.json.encode(score)),
        "episodes": episodes,
        "waterfall": [msgspec.structs.asdict(stage) for stage in latency.waterfall()],
        "palette": {name: palette.class_rgb(name) for name in part.class_names},
        "classes": part.class_names,
        "ground": palette.GROUND_RGB,
        "road": palette.ROAD_RGB,
        "forecast": palette.FORECAST_RGB,
        "truth": palette.TRUTH_RGB,
        "command": command,
    }
    files = resources.files("visuomotor.launch.report")
    template, script = (files.joinpath(name).read_text("utf-8") for name in ("template.html", part.script))
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, default=_plain).replace("</", "<\\/")
    return template.replace("/*PART*/", script).replace("/*DATA*/", text)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"report data: {type(value).__name__} cannot be written as JSON")
