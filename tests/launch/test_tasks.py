"""The registry of tasks: what it names exists, and nothing else of ``launch`` names a task."""

import ast
import re
from pathlib import Path

import pytest

from visuomotor.launch.evaluate.metrics import make_metrics, measures_of
from visuomotor.launch.process_table import make_table
from visuomotor.launch.profile import PROFILES, ProfileError, load_profile
from visuomotor.launch.report.parts import make_part
from visuomotor.launch.tasks import DEFAULT, KINDS, PARTS, load, parts_of, parts_of_suite
from visuomotor.messages.services import SERVICES
from visuomotor.messages.tasks import TASKS

LAUNCH = Path(__file__).parents[2] / "launch"
# A string that is, begins with or holds the name as one does a suite, a bundle or a file; not the verb in a sentence.
TASK_NAME = re.compile(rf"(?<![\w ])({'|'.join(TASKS)})(?![\w ])")
CLASS_OF_TASK = re.compile(rf"({'|'.join(name.capitalize() for name in TASKS)})[A-Z]\w+")
ALLOWED = {
    "tasks.py": "the registry",
    "cli_render.py": "commands that bear the tasks' names: what may be chosen for a picture is each simulator's own",
}


def names_of_tasks(file: Path) -> list[str]:
    """Places at which a module's code (no comment, no docstring) names a task in a string or a class."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    found = []
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else ""
        named = getattr(node, "id", "") or getattr(node, "name", "") or ""
        if (isinstance(text, str) and TASK_NAME.search(text)) or CLASS_OF_TASK.fullmatch(str(named)):
            found.append(f"{file.name}:{node.lineno}: {text or named}")
    return found


def test_the_search_finds_what_it_should(tmp_path: Path):
    file = tmp_path / "module.py"
    lines = [
        'a = "drive"',
        'b = f"runs/pick-{a}"',
        'c = "drive.yaml"',
        "class PickMetrics: ...",
        'd = "car.py: drive it"',
    ]
    file.write_text("\n".join(lines))
    assert sorted(found.split(":")[1] for found in names_of_tasks(file)) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("file", sorted(LAUNCH.rglob("*.py")), ids=lambda file: str(file.relative_to(LAUNCH)))
def test_no_other_module_names_a_task(file: Path):
    if file.name in ALLOWED:
        assert names_of_tasks(file), f"{file.name} names none: take it from the list"
    else:
        assert names_of_tasks(file) == []


@pytest.mark.parametrize("name", PARTS)
def test_what_the_registry_names_is_there(name: str):
    row, task = PARTS[name], TASKS[name]
    assert row.task is task
    assert {task.state, task.context} <= set(SERVICES)
    profile = load_profile(row.profile)
    assert (profile.task, profile.suite) == (name, row.suite)
    assert profile.parts is row
    pytest.importorskip("pybullet")
    for module in (row.world, row.policy, row.guard, row.can_world, row.check_order):
        assert not module or callable(load(module))
    assert row.suite in load(row.suites)
    assert parts_of_suite(row.suite) is row


@pytest.mark.parametrize("name", PARTS)
def test_metrics_and_pictures_are_of_the_task(name: str):
    metrics, measures = make_metrics(name), measures_of(name)
    row = metrics.result(7)
    assert (row["seed"], row["end"], row["success"]) == (7, "fault", False)
    wanted = {*measures.shares, *measures.means, *(column.key for column in measures.columns), *measures.groups}
    wanted |= {key for ratio in measures.ratios for key in (*ratio.above, *ratio.below)}
    assert wanted <= set(row)
    part = make_part(name)
    assert part.class_names == TASKS[name].class_names
    assert (LAUNCH / "report" / part.script).read_text().count("const PART") == 1


@pytest.mark.parametrize("name", PARTS)
def test_nodes_of_a_task_read_its_own_services(name: str):
    task = TASKS[name]
    table = {spec.name: spec for spec in make_table(load_profile(PARTS[name].profile))}
    assert {task.state, task.context, "truth"} <= set(table["world"].outputs)
    assert table["perception"].config["task"] == name
    for node in ("policy", "guard"):
        assert {task.state, task.context} <= set(table[node].inputs)
    others = {s for other in TASKS.values() if other is not task for s in (other.state, other.context)}
    assert not others & {s for spec in table.values() for s in (*spec.inputs, *spec.outputs)}


def test_every_shipped_profile_is_of_a_known_kind():
    for file in PROFILES.glob("*.yaml"):
        assert parts_of(load_profile(file).task).name in PARTS
    assert parts_of("vehicle") is DEFAULT
    with pytest.raises(ValueError, match="task: expected one of drive, pick, vehicle, got 'boat'"):
        parts_of("boat")
    with pytest.raises(ValueError, match=r"suite: expected one of .*drive-v1.*, got 'boat-v1'"):
        parts_of_suite("boat-v1")
    assert set(KINDS) == {*PARTS, "vehicle"}


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        ("pick", {"order": "2 cars"}, r"pick\.yaml: order: unknown part 'cars'; expected one of red cube"),
        ("pick", {"order_changes": [{"at_s": 1.0, "text": "0 duck"}]}, r"order_changes\.0\.text: '0 duck': expected"),
        ("pick", {"route": "road.csv"}, "route: only for task 'vehicle', not 'pick'"),
        ("drive", {"order": "duck"}, "order: task 'drive' takes no orders"),
        ("drive", {"task": "boat"}, "task: expected one of drive, pick, vehicle, got 'boat'"),
        ("pick", {"clock": "realtime", "can": {"interface": "virtual", "channel": "0"}}, "no arm behind a CAN bus"),
    ],
)
def test_a_profile_that_does_not_fit_its_task_is_refused(profile: str, changes: dict, message: str):
    with pytest.raises(ProfileError, match=message):
        load_profile(profile).override(**changes)


def test_orders_of_a_profile_reach_the_world():
    changes = [{"at_s": 20.0, "text": "duck"}]
    profile = load_profile("pick").override(order="red cube, 2 brick", order_changes=changes)
    config = make_table(profile)[0].config
    assert (config["order"], config["order_changes"]) == ("red cube, 2 brick", changes)
    assert "order" not in make_table(load_profile("drive"))[0].config
