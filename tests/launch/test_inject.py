import pytest

from visuomotor.launch.inject import Injection, parse_injections
from visuomotor.launch.seeds import choose_seeds, parse_seeds

NODES = {
    "world": ("camera_front", "camera_left", "vehicle_state", "truth"),
    "policy": ("policy_command",),
    "guard": ("command",),
}


def read(text: str) -> Injection:
    (faults,) = parse_injections([text], NODES).values()
    return faults[-1]


def test_texts_for_one_node_add_up_in_their_order() -> None:
    parsed = parse_injections(["guard=delay:80ms,drop:5%", "guard=freeze:1s@10s,kill@12.5s", "world=drop:100%"], NODES)
    assert [(f.kind, f.amount, f.start_s) for f in parsed["guard"]] == [
        ("delay", 0.08, 0.0),
        ("drop", 0.05, 0.0),
        ("freeze", 1.0, 10.0),
        ("kill", 0.0, 12.5),
    ]
    assert [f.text for f in parsed["world"]] == ["drop:100%"]


@pytest.mark.parametrize(
    ("text", "kind", "amount", "target"),
    [
        ("guard=latency:200ms", "latency", 0.2, ""),
        ("policy=loss:30%", "loss", 0.3, ""),
        ("world=clock:-1.5s@5s", "clock", -1.5, ""),
        ("guard=clock:+3s@5s", "clock", 3.0, ""),
        ("world=full@5s", "full", 0.0, ""),
        ("world=stuck", "stuck", 0.0, ""),
        ("world=black:camera_left", "black", 0.0, "camera_left"),
        ("world=mute:vehicle_state", "mute", 0.0, "vehicle_state"),
        ("policy=nan", "nan", 0.0, ""),
        ("policy=inf", "inf", 0.0, ""),
        ("policy=network:inf", "network", 0.0, "inf"),
        ("world=can:flood", "can", 0.0, "flood"),
        ("supervisor=kill@5s", "kill", 0.0, ""),
    ],
)
def test_every_kind_is_understood(text: str, kind: str, amount: float, target: str) -> None:
    fault = read(text)
    assert (fault.kind, fault.amount, fault.target) == (kind, pytest.approx(amount), target)


def test_a_fault_acts_from_its_start_to_before_its_end() -> None:
    always, late, between = read("policy=nan"), read("policy=nan@2s"), read("policy=nan@500ms..2s")
    assert [fault.acts(0.0) for fault in (always, late, between)] == [True, False, False]
    assert [fault.acts(0.5) for fault in (always, late, between)] == [True, False, True]
    assert [fault.acts(2.0) for fault in (always, late, between)] == [True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        *("guard", "guard=", "guard=delay:80", "guard=drop:101%", "guard=drop:5", "guard=kill@-1s", "guard=kill@1s;"),
        *("guard=kill", "guard=kill:3@1s", "guard=kill@1s..2s", "guard=freeze:1s", "guard=clock:3s@1s", "guard=full"),
        *("guard=nan:command", "policy=network", "policy=network:zero", "world=can:noise", "guard=latency@3s"),
        *("guard=latency", "guard=", "guard=melt@3s", "guard=loss:-1%"),
    ],
)
def test_what_is_not_understood_is_quoted_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"--inject: .*expected node=KIND") as caught:
        parse_injections([text], NODES)
    assert text.partition("=")[2].strip(",") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("radar=kill@1s", "no node 'radar'; expected one of world, policy, guard, supervisor"),
        ("world=nan@2s..1s", "expected an end after the start"),
        ("guard=black", "node guard sends no camera"),
        ("world=stuck:vehicle_state", "node world sends no vehicle_state; expected camera_front, camera_left"),
        ("guard=mute:tracks", "node guard sends no tracks; expected command"),
        ("supervisor=freeze:1s@1s", "of the supervisor only kill is possible"),
    ],
)
def test_what_no_node_can_have_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_injections([text], NODES)


@pytest.mark.parametrize(("text", "seeds"), [("0:1", range(1)), ("5:9", range(5, 9)), ("007:8", range(7, 8))])
def test_seeds_are_half_open(text: str, seeds: range) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ":", "1:", ":2", "2:1", "1:1", "a:b", "1:2:3", "-1:2", "1.0:2", " 1:2", "1²:3"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds: expected A:B"):
        parse_seeds(text)


def test_seeds_are_counted_from_the_first() -> None:
    assert choose_seeds(7, 5, None) == range(7, 12)
    assert choose_seeds(None, None, None) == range(1)
    assert choose_seeds(None, None, None, default=100) == range(100)
    assert choose_seeds(None, None, "3:5") == range(3, 5)
    with pytest.raises(ValueError, match="cannot be combined"):
        choose_seeds(None, 2, "3:5")
