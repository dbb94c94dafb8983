import pytest

from visuomotor.launch.inject import Faults, FaultyNode, parse_injections
from visuomotor.launch.seeds import choose_seeds, parse_seeds
from visuomotor.messages.node import Inputs, Tick
from visuomotor.messages.schema import Command, Episode

NODES = ["world", "guard"]


def test_every_fault_is_understood_and_texts_for_one_node_add_up() -> None:
    parsed = parse_injections(["guard=delay:80ms,drop:5%", "guard=freeze:1s@10s,kill@12.5s", "world=drop:100%"], NODES)
    assert parsed == {
        "guard": Faults(delay_s=0.08, drop_share=0.05, freeze_s=1.0, freeze_at_s=10.0, kill_at_s=12.5),
        "world": Faults(drop_share=1.0),
    }


@pytest.mark.parametrize(
    "text", ["guard", "guard=", "guard=delay:80", "guard=drop:101%", "guard=drop:5", "guard=kill@-1s", "guard=kill@1s;"]
)
def test_what_is_not_understood_is_quoted_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"--inject: .*expected node=delay:80ms") as caught:
        parse_injections([text], NODES)
    assert text.partition("=")[2].strip(",") in str(caught.value)


class Speaker:
    name, inputs, outputs, period_s, provider = "guard", (), ("command",), None, "CPU"

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Command]:
        return {"command": Command(acceleration_mps2=float(tick.tick))}

    def close(self) -> None: ...


def said(share: float, seed: int) -> list[int]:
    node = FaultyNode(Speaker(), Faults(drop_share=share))
    node.reset(Episode(phase="reset", seed=seed))
    return [k for k in range(400) if node.step(Tick(0, k, k * 100_000_000, "lockstep"), Inputs())]


def test_drops_are_of_the_asked_share_and_the_same_for_the_same_seed() -> None:
    assert 0.03 < 1 - len(said(0.08, 1)) / 400 < 0.14
    assert said(0.3, 1) == said(0.3, 1) != said(0.3, 2)
    assert len(said(0.0, 1)) == 400
    assert said(1.0, 1) == []


def test_it_looks_like_the_node_inside() -> None:
    node = FaultyNode(Speaker(), Faults())
    assert (node.name, node.outputs, node.provider) == ("guard", ("command",), "CPU")
    assert getattr(node, "stages", None) is None


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
