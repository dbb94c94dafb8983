"""What README and the guides tell users to write runs as it stands there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from visuomotor.messages.schema import CAR

ROOT = Path(__file__).parents[1]
GUIDES = (
    "own_policy",
    "own_detector",
    "own_scenario",
    "own_robot",
    "tasks",
    "picking",
    "picking_cell",
    "picking_policy",
    "training",
    "export",
    "record",
    "can",
    "operations",
    "hosts",
    "runtime",
    "precision",
    "vehicle",
    "cell_images",
)
PAGES = ["README.md", *(f"docs/{name}.md" for name in GUIDES)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_page_runs(page, tmp_path, monkeypatch):
    if page != "docs/own_robot.md":
        pytest.importorskip("pybullet")
        from visuomotor.sim.scenario import SUITES

        monkeypatch.setattr("visuomotor.sim.scenario.SUITES", dict(SUITES))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    namespace = {"__name__": "page", "workdir": tmp_path}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    if page == "README.md":
        assert len(namespace["score"].episodes) == 2
    if page == "docs/own_policy.md":
        assert namespace["metrics"].end
    if page == "docs/own_detector.md":
        assert namespace["found"].class_id.tolist() == [CAR]
    if page == "docs/picking.md":
        assert namespace["difference"].mean > 0.0
    if page == "docs/own_robot.md":
        assert namespace["messages"]["vehicle_state"].speed_mps == pytest.approx(8.0, abs=0.2)


PROSE = [f"docs/{name}.md" for name in ("architecture", "faults", "guard")]


@pytest.mark.parametrize("page", [*PAGES, *PROSE, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page}: no {target}"


def test_figures_of_encryption_are_those_of_the_result_file():
    page = (ROOT / "docs" / "hosts.md").read_text()
    result = json.loads((ROOT / "benchmarks" / "results" / "encryption.json").read_text())
    for way, label in (("ipc", "ipc"), ("tcp_plain", "tcp, plain"), ("tcp_curve", "tcp, keys")):
        row = result["ways"][way]
        assert f"| {label} | {row['p50_ms']:.3f} ms | {row['p99_ms']:.3f} ms | {row['cpu_ms']:.3f} ms |" in page
    ratios = result["ratios"]["curve_to_tcp_plain"]
    assert f"Keys cost {ratios['cpu_ms']:.2f} times the CPU time" in page
    assert f"{ratios['p50_ms']:.2f} times its latency" in page


def test_figures_of_the_picking_environment_are_those_of_the_result_file():
    page = (ROOT / "docs" / "picking_cell.md").read_text()
    result = json.loads((ROOT / "benchmarks" / "results" / "pick_environment.json").read_text())
    steps, ratios, many = result["steps_per_cpu_s"], result["ratios"], result["cells"]
    for name, against in (("Pick-v1", "bare physics"), ("one part", "panda-gym")):
        for count, label in ((many, f"{many} cells in one process"), (1, "one cell")):
            ratio = f"{ratios[f'of {against} x {count}']:.2f}"
            cells = f"{ratio} | |" if against == "bare physics" else f"| {ratio} |"
            assert f"| {name}, {label} | {steps[f'{name} x {count}']:.0f} | {cells}" in page


def test_figures_of_the_cells_pictures_are_those_of_the_result_file():
    page = (ROOT / "docs" / "cell_images.md").read_text()
    result = json.loads((ROOT / "benchmarks" / "results" / "cell_images.json").read_text())
    assert f"a picture takes {result['cpu_ms']['ratio']:.1f} times the CPU time" in page
    for ours, down in zip(*(result["view"][name] for name in ("camera_top", "straight_down")), strict=True):
        cells = [f"{row['mean']:.2f}, {100 * row['enough']:.0f} %" for row in (ours, down)]
        assert f"| {ours['tool_m']:.2f} m | {cells[0]} | {cells[1]} |" in page


def test_figures_in_the_readme_are_those_of_the_result_files():
    done = subprocess.run([sys.executable, "benchmarks/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_table_of_faults_is_that_of_its_result_file():
    done = subprocess.run([sys.executable, "benchmarks/faults.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_figures_of_the_precision_page_are_those_of_its_result_file():
    pytest.importorskip("onnx")
    done = subprocess.run(
        [sys.executable, "benchmarks/precision.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
