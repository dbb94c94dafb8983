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
from visuomotor.launch.report.video import write_drive_video
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
    """Write ``score.json``, ``report.html`` and ``drive.mp4`` into ``folder``; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    score.save(folder / "score.json")
    page = folder / "report.html"
    page.write_text(render_page(score, captures, cameras, command=command), encoding="utf-8")
    if video and any(capture.ticks for capture in captures):
        write_drive_video(folder / "drive.mp4", captures, cameras, title=f"{score.task}: {score.policy}")
    return page


def render_page(
    score: Score, captures: Sequence[EpisodeCapture], cameras: Mapping[str, CameraModel], *, command: str = ""
) -> str:
    """The page's text. Episodes past the size budget stay in the table but lose images, then their replay."""
    rows = {row["seed"]: row for row in score.episodes}
    latency = Latency()
    for capture in captures:
        latency.add(capture.traces)
    ticks = sum(len(capture.ticks) for capture in captures)
    stride = max(2, -(-ticks * _BYTES_PER_IMAGE_SET // _IMAGE_BUDGET)) if cameras else 0
    episodes: list[dict[str, Any]] = []
    used = 0
    for capture in captures:
        data = episode_data(capture, cameras, rows.get(capture.seed, {"seed": capture.seed, "end": ""}), stride)
        size = len(json.dumps(data["ticks"], separators=(",", ":")))
        if used + size > _DATA_BUDGET and episodes:
            break
        used += size
        episodes.append(data)
    content: dict[str, Any] = {
        "score": json.loads(msgspec.json.encode(score)),
        "episodes": episodes,
        "waterfall": [msgspec.structs.asdict(stage) for stage in latency.waterfall()],
        "palette": palette.CLASS_RGB,
        "ground": palette.GROUND_RGB,
        "road": palette.ROAD_RGB,
        "forecast": palette.FORECAST_RGB,
        "truth": palette.TRUTH_RGB,
        "command": command,
    }
    template = resources.files("visuomotor.launch.report").joinpath("template.html").read_text("utf-8")
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, default=_plain).replace("</", "<\\/")
    return template.replace("/*DATA*/", text)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"report data: {type(value).__name__} cannot be written as JSON")
