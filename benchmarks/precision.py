"""What INT8 and FP16 cost the detectors in AP and bring in time: a table, and ``results/precision.json``.

visuomotor render drive --out data/calibrate --frames 300 --seed 9 --only train
visuomotor render drive --out data/labels --frames 1290 --seed 8 --only test
python benchmarks/precision.py --calibrate data/calibrate --labels data/labels
python benchmarks/precision.py --calibrate data/calibrate --labels data/labels --only yolox-nano --yolox FOLDER

The table of docs/precision.md follows; ``--check`` says whether it is that of the results, ``--table`` writes it.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

from visuomotor.deploy.export.foreign_detector import ForeignSettings, import_detector
from visuomotor.deploy.export.foreign_layouts import Layout
from visuomotor.deploy.export.int8 import has_wide_products
from visuomotor.deploy.export.precision import Precision, PrecisionSettings, quantize_bundle

BUNDLES = ("drive-detector-front", "drive-detector-side", "yolox-nano")
RESULTS = Path(__file__).parent / "results" / "precision.json"
PAGE = Path(__file__).parents[1] / "docs" / "precision.md"
TABLE = re.compile(r"(<!-- precision table -->\n).*?(?=\n`python)", re.S)
BAR_RATIO, BAR_LOSS_POINTS = 1.3, 1.0  # of INT8 on the CPU
ALL = 100.0  # points: nothing is refused here


def describe_machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "vnni": has_wide_products(),
        "onnxruntime": onnxruntime.__version__,
    }


def measure(source: str | Path, precision: Precision, calibrate: Path, labels: Path) -> dict[str, Any]:
    settings = PrecisionSettings(
        precision=precision, calibrate=calibrate, labels=labels, max_loss_points=ALL, frames=100, device="cpu"
    )
    with tempfile.TemporaryDirectory() as folder:
        facts = quantize_bundle(source, Path(folder) / "bundle", settings).facts
    loss = max(value["mean"] for value in facts["accuracy"]["loss"].values())
    keys = ("accuracy", "time", "size_bytes", "calibration", "conversion")
    met = loss <= BAR_LOSS_POINTS and facts["time"]["ratio"] >= BAR_RATIO
    return {**{key: facts[key] for key in keys}, "larger_loss_points": round(loss, 3), "bar_met": met}


def find_source(name: str, yolox: Path | None, folder: Path) -> str | Path:
    if name != "yolox-nano":
        return name
    if yolox is None:
        raise SystemExit("yolox-nano: expected --yolox, the folder with yolox_nano.onnx and coco.names")
    settings = ForeignSettings(layout=Layout.yolox, labels=yolox / "coco.names", width=384, height=224)
    return import_detector(yolox / "yolox_nano.onnx", folder / name, settings).path


def say(name: str, precision: str, found: dict[str, Any]) -> None:
    accuracy, time = found["accuracy"], found["time"]
    loss = accuracy["loss"]["ap50_95"]
    print(
        f"{name:22s} {precision:5s} AP50:95 {accuracy['after']['ap50_95']['mean']:6.2f}, "
        f"lost {loss['mean']:5.2f} [{loss['low']:5.2f}, {loss['high']:5.2f}], {time['ratio']:.2f} x, "
        f"p50 {time['before']['p50_ms']:.2f} -> {time['after']['p50_ms']:.2f} ms, "
        f"{found['size_bytes']['after'] / 1e6:.2f} MB"
    )


def make_page(result: dict[str, Any]) -> str:
    """``docs/precision.md`` with the table of these results."""
    rows = ["| | AP50:95, points | lost, paired | larger loss | p50, ms | p95, ms | x as fast | MB |", "|" + "---|" * 8]
    for name, precisions in result["detectors"].items():
        first = next(iter(precisions.values()))
        accuracy, time = first["accuracy"], first["time"]
        before = f"{accuracy['before']['ap50_95']['mean']:.2f} | | | {time['before']['p50_ms']:.1f}"
        size = first["size_bytes"]["before"] / 1e6
        rows.append(
            f"| {name}, {accuracy['images']} images | {before} | {time['before']['p95_ms']:.1f} | | {size:.2f} |"
        )
        for precision, found in precisions.items():
            accuracy, time, loss = found["accuracy"], found["time"], found["accuracy"]["loss"]["ap50_95"]
            lost = f"{loss['mean']:.2f} [{loss['low']:.2f}, {loss['high']:.2f}] | {found['larger_loss_points']:.2f}"
            times = f"{time['after']['p50_ms']:.1f} | {time['after']['p95_ms']:.1f} | {time['ratio']:.2f}"
            score, size = accuracy["after"]["ap50_95"]["mean"], found["size_bytes"]["after"] / 1e6
            rows.append(f"| {precision} | {score:.2f} | {lost} | {times} | {size:.2f} |")
    table = "\n" + "\n".join(rows) + "\n"
    return TABLE.sub(lambda found: found[1] + table, PAGE.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", type=Path, default=Path("data/calibrate"))
    parser.add_argument("--labels", type=Path, default=Path("data/labels"))
    parser.add_argument("--check", action="store_true", help="only say whether the page has the results' table")
    parser.add_argument("--table", action="store_true", help="only write the results' table into the page")
    parser.add_argument("--only", choices=BUNDLES, help="others stay as they are in the file")
    parser.add_argument("--precision", choices=list(Precision), help="likewise")
    parser.add_argument("--yolox", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    if options.check or options.table:
        page = make_page(result)
        if options.table:
            PAGE.write_text(page)
        elif page != PAGE.read_text():
            sys.exit(f"{PAGE}: the table is not that of {options.json}; run benchmarks/precision.py --table")
        return
    result["machine"] = describe_machine()
    result["bar"] = {"ratio": BAR_RATIO, "loss_points": BAR_LOSS_POINTS}
    for name in [options.only] if options.only else BUNDLES[:2]:
        with tempfile.TemporaryDirectory() as folder:
            source = find_source(name, options.yolox, Path(folder))
            for precision in [Precision(options.precision)] if options.precision else list(Precision):
                found = measure(source, precision, options.calibrate, options.labels)
                result.setdefault("detectors", {}).setdefault(name, {})[precision.value] = found
                say(name, precision.value, found)
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
