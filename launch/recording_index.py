"""What a recording holds, episode by episode: a first look at it before it is replayed or measured."""

from __future__ import annotations

import msgspec

from visuomotor.deploy.record.reader import Recorded, Recording
from visuomotor.launch.process_table import ENDS
from visuomotor.messages.schema import Episode, Message, NodeHealth, Operator
from visuomotor.messages.wiring import SHARED, SUPERVISOR


class EpisodeIndex(msgspec.Struct, kw_only=True):
    """One episode. ``bodies`` holds what the nodes behind the source sent, by service and tick."""

    index: int
    reset: Episode
    end: str = ""
    ended: bool = False  # its end was recorded
    input_ticks: dict[str, set[int]] = {}  # service of the graph's ends -> ticks on which it was sent
    bodies: dict[tuple[str, int], bytes] = {}
    operator: list[Operator] = []
    operator_heard: dict[int, int] = {}  # tick -> seq of the last word that the guard heard in it
    last_ticks: dict[str, dict[str, int]] = {}  # node -> service -> last tick of it
    dead: list[str] = []
    last_input: int = -1  # the last tick whose inputs are all there
    last_compared: dict[str, int] | None = None  # service -> last tick to compare; None: all of them
    notes: list[str] = []

    def compares(self, service: str, tick: int) -> bool:
        """Whether the outputs of a tick are those of a whole graph, and recorded."""
        return self.last_compared is None or tick <= self.last_compared.get(service, -1)


def index_recording(recording: Recording) -> dict[int, EpisodeIndex]:
    """Read a recording once and say what is in it, by index of episode. Raises RecordingError."""
    found: dict[int, EpisodeIndex] = {}
    for recorded in recording.read():
        if recorded.service == "trace":
            continue
        message = recorded.message
        at = message.header.episode
        if isinstance(message, Episode) and message.phase == "reset":
            found[at] = EpisodeIndex(index=at, reset=message)
        if at in found:
            _add(found[at], recorded, message)
    for episode in found.values():
        _limit(episode, recording.complete)
    return dict(sorted(found.items()))


def _add(episode: EpisodeIndex, recorded: Recorded, message: Message) -> None:
    service, node, tick = recorded.service, recorded.node, message.header.tick
    if isinstance(message, Episode):
        if message.phase == "end":
            episode.end, episode.ended = message.end, True
    elif isinstance(message, Operator):
        episode.operator.append(message)
    elif isinstance(message, NodeHealth):
        if node == SUPERVISOR and message.state == "fault":
            episode.dead.append(message.node)
    elif service not in SHARED:
        known = episode.last_ticks.setdefault(node, {})
        known[service] = max(known.get(service, -1), tick)
        if node in ENDS:
            episode.input_ticks.setdefault(service, set()).add(tick)
            return
        episode.bodies[(service, tick)] = recorded.body
        if service == "command" and "operator" in message.header.parents:
            episode.operator_heard[tick] = message.header.parents["operator"]


def _limit(episode: EpisodeIndex, complete: bool) -> None:
    """Decide up to which tick an episode that was cut, or in which a node died, can be compared."""
    inputs = {s: tick for node in ENDS for s, tick in episode.last_ticks.get(node, {}).items()}
    episode.last_input = max(inputs.values(), default=-1)
    whole = complete and episode.ended
    if whole and episode.end != "fault":
        return
    if not whole:  # something may be missing of its last tick
        episode.last_input = min(inputs.values(), default=-1)
        episode.notes.append(f"episode {episode.index}: cut, compared up to tick {episode.last_input}")
    outputs = {s: tick for node, known in episode.last_ticks.items() if node not in ENDS for s, tick in known.items()}
    episode.last_compared = {service: min(tick, episode.last_input) for service, tick in outputs.items()}
    dead = [node for node in episode.dead if node in episode.last_ticks]
    if dead:
        last = min(tick for node in dead for tick in episode.last_ticks[node].values())
        episode.last_compared = {service: min(tick, last) for service, tick in episode.last_compared.items()}
        episode.notes.append(f"episode {episode.index}: {', '.join(dead)} died, compared up to tick {last}")
