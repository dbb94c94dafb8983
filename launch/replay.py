"""Replays a recording: its inputs through the real nodes in lockstep, and a comparison with what was sent then.

The source of the run is replaced by its recorded messages; perception, policy and guard are those of the recorded
profile, or parts put in their place. A lockstep recording gives back the recorded bytes. What a step of a realtime run
saw depended on the wall clock, so such a recording is replayed twice, with and without the new part.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from visuomotor.deploy.record.reader import Recording
from visuomotor.launch.evaluate.difference import TopicDifference, compare
from visuomotor.launch.process_table import ENDS, SOURCE, create_node, make_table
from visuomotor.launch.profile import Profile
from visuomotor.launch.recording import PROFILE_FILE
from visuomotor.launch.recording_index import EpisodeIndex, index_recording
from visuomotor.messages import wire
from visuomotor.messages.digest import TopicDigests
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Inputs, Tick
from visuomotor.messages.schema import Episode, Message
from visuomotor.messages.wiring import SHARED

REPLACEABLE = ("detector", "forecaster", "policy")
OnTick = Callable[[int, int, Mapping[str, Message]], None]  # episode, tick, inputs and outputs of the replay


class Comparison(msgspec.Struct, kw_only=True):
    """Result of a replay; ``against`` says what the replayed outputs were compared with.

    In realtime that is another replay, with the recorded parts: what topics call recorded is then its outputs.
    """

    file: str
    clock: str = "lockstep"  # of the recording
    against: str
    replaced: dict[str, str] = {}
    episodes: int = 0
    ticks: int = 0
    topics: dict[str, TopicDifference] = {}
    notes: list[str] = []

    @property
    def equal(self) -> bool:
        """Whether every output has the very bytes of what it was compared with."""
        return all(topic.changed == 0 for topic in self.topics.values())


class Playback:
    """The source of a replayed run: publishes what it is given."""

    name = SOURCE
    inputs = ()
    period_s: float | None = None

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self.outputs = outputs
        self.next: dict[str, Message] = {}

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Nothing to forget."""

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """The recorded messages of this tick."""
        return self.next

    def close(self) -> None:
        """Nothing to release."""


def parse_replacements(texts: tuple[str, ...]) -> dict[str, str]:
    """Part -> what replaces it, from ``detector=BUNDLE`` and the like. Raises ValueError that quotes a wrong one."""
    chosen: dict[str, str] = {}
    for text in texts:
        part, _, value = text.partition("=")
        if part not in REPLACEABLE or not value:
            expected = ", ".join(f"{name}=BUNDLE" for name in REPLACEABLE)
            raise ValueError(f"--replace: expected one of {expected}, got {text!r}")
        chosen[part] = value
    return chosen


def check_replayable(recording: Recording, replaced: Mapping[str, str]) -> None:
    """Raise ValueError when a replay of this recording would mean nothing."""
    if recording.lossy:
        raise ValueError(
            f"{recording.path}: was recorded with --lossy: frames kept as JPEG are not what the nodes saw; "
            "record without --lossy to replay"
        )
    if recording.clock != "lockstep" and not replaced:
        raise ValueError(
            f"{recording.path}: was recorded in {recording.clock}: what each step saw depended on the wall clock, so "
            "there are no bytes to reproduce; record in lockstep, or compare two parts with replay --replace"
        )


@contextmanager
def recorded_profile(recording: Recording) -> Iterator[Profile]:
    """The profile of the run with its calibrations, from the recording itself. Raises ValueError without one."""
    if PROFILE_FILE not in recording.attachments:
        raise ValueError(f"{recording.path}: expected the attachment '{PROFILE_FILE}' of a run, found none")
    with tempfile.TemporaryDirectory(prefix="visuomotor-replay-") as name:
        folder = Path(name)
        for file, data in recording.attachments.items():
            if re.fullmatch(r"[\w-]+\.(json|yaml)", file):
                (folder / file).write_bytes(data)
        try:
            data = json.loads(recording.attachments[PROFILE_FILE])
            data["cameras"] = {camera: f"{camera}.yaml" for camera in data["cameras"]}
            profile = Profile.model_validate({**data, "source": folder / "profile.yaml"})
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"{recording.path}: {PROFILE_FILE}: {error}") from error
        yield profile


class _Graph:
    """The nodes of a profile behind a playback."""

    def __init__(self, profile: Profile, outputs: tuple[str, ...], run_id: str) -> None:
        self.playback = Playback(outputs)
        specs = [spec for spec in make_table(profile) if spec.name not in ENDS]
        self.outputs = tuple(service for spec in specs for service in spec.outputs)
        self._graph = Graph([self.playback, *(create_node(spec) for spec in specs)], run_id=run_id, digest=False)
        self._graph.warm_up()

    def reset(self, episode: Episode) -> None:
        self._graph.reset(episode)

    def tick(self, inputs: Mapping[str, Message], words: list[Message]) -> dict[str, Message]:
        """Outputs of one tick by service; ``words`` are the operator's, heard before it."""
        for word in words:
            self._graph.post("operator", msgspec.structs.replace(word, header=msgspec.structs.replace(word.header)))
        self.playback.next = {
            service: msgspec.structs.replace(message, header=msgspec.structs.replace(message.header))
            for service, message in inputs.items()
        }
        sent = self._graph.tick()
        return {service: sent[service] for service in self.outputs if service in sent}

    def close(self) -> None:
        self._graph.close()


def replay(
    recording: Recording,
    profile: Profile,
    replaced: Mapping[str, str],
    on_tick: OnTick | None = None,
) -> Comparison:
    """Run the recorded inputs through the nodes of ``profile``, with parts ``replaced``, and compare all outputs.

    Raises ValueError (RecordingError, BundleError, ...) when the recording or a part cannot be used.
    """
    check_replayable(recording, replaced)
    index = index_recording(recording)
    outputs = tuple(sorted({s for episode in index.values() for s in episode.input_ticks}))
    if not outputs:
        raise ValueError(f"{recording.path}: expected messages of {' or '.join(sorted(ENDS))} to replay, found none")
    changed = profile.override(**replaced) if replaced else profile
    graph = _Graph(changed, outputs, "replay")
    reference = _Graph(profile, outputs, "reference") if recording.clock != "lockstep" else None
    try:
        comparer = _Comparer(recording, graph, reference, on_tick)
        current: EpisodeIndex | None = None
        for episode, tick, messages in recorded_inputs(recording, index):
            if current is not episode:
                current = episode
                comparer.begin(episode)
            comparer.step(tick, messages)
        comparer.finish()
    finally:
        graph.close()
        if reference is not None:
            reference.close()
    comparer.result.replaced = dict(replaced)
    return comparer.result


def recorded_inputs(
    recording: Recording, index: Mapping[int, EpisodeIndex]
) -> Iterator[tuple[EpisodeIndex, int, dict[str, Message]]]:
    """What the source sent, tick by tick; in realtime with capture times that count from the first one."""
    lockstep = recording.clock == "lockstep"
    slack = 0 if lockstep else 2  # realtime: a socket per service, without mutual order
    gathered: dict[tuple[int, int], dict[str, Message]] = defaultdict(dict)
    start_ns: dict[int, int] = {}
    for recorded in recording.read():
        if recorded.node not in ENDS or recorded.service in SHARED:
            continue
        message = recorded.message
        at, tick = message.header.episode, message.header.tick
        if at not in index or tick > index[at].last_input:
            continue
        for done in sorted(key for key in gathered if key < (at, tick - slack)):
            yield index[done[0]], done[1], gathered.pop(done)
        if not lockstep:
            start = start_ns.setdefault(at, message.header.t_capture_ns)
            message.header.t_capture_ns = max(0, message.header.t_capture_ns - start)
        gathered[(at, tick)][recorded.service] = message
    for done in sorted(gathered):
        yield index[done[0]], done[1], gathered[done]


class _Comparer:
    """Steps the graphs and compares what they send with the recording, or with the reference graph."""

    def __init__(self, recording: Recording, graph: _Graph, reference: _Graph | None, on_tick: OnTick | None) -> None:
        self._graph, self._reference, self._on_tick = graph, reference, on_tick
        against = "what was recorded" if reference is None else "a replay with the recorded parts"
        self.result = Comparison(file=str(recording.path), clock=recording.clock, against=against)
        self.result.topics = {service: TopicDifference(service=service) for service in graph.outputs}
        self._ours, self._theirs = TopicDigests(), TopicDigests()
        self._episode: EpisodeIndex | None = None

    def begin(self, episode: EpisodeIndex) -> None:
        self._episode = episode
        self._words: list[Message] = list(episode.operator)
        self.result.episodes += 1
        self.result.notes += episode.notes
        self._graph.reset(episode.reset)
        if self._reference is not None:
            self._reference.reset(episode.reset)

    def step(self, tick: int, inputs: Mapping[str, Message]) -> None:
        episode = self._episode
        assert episode is not None
        heard = episode.operator_heard.get(tick, -1)
        words = [word for word in self._words if word.header.seq <= heard]
        self._words = self._words[len(words) :]
        ours = self._graph.tick(inputs, words)
        theirs: Mapping[str, Message] | None = None
        if self._reference is not None:
            theirs = self._reference.tick(inputs, words)
        self.result.ticks += 1
        for service in self._graph.outputs:
            if self._reference is None and not episode.compares(service, tick):
                continue
            body = episode.bodies.pop((service, tick), None) if theirs is None else _encode(service, theirs)
            self._compare(episode.index, tick, service, body, ours.get(service))
        if self._on_tick is not None:
            self._on_tick(episode.index, tick, {**inputs, **ours})

    def _compare(self, episode: int, tick: int, service: str, theirs: bytes | None, ours: Message | None) -> None:
        topic = self.result.topics[service]
        topic.ticks += 1
        mine = None if ours is None else wire.encode(service, ours)
        if theirs is not None:
            self._theirs.add(service, theirs)
        if mine is not None:
            self._ours.add(service, mine)
        if mine != theirs:
            recorded = None if theirs is None else wire.decode(service, theirs)
            topic.add(episode, tick, compare(recorded, ours))

    def finish(self) -> None:
        """Fill in the digests, over all episodes."""
        ours, theirs = self._ours.hexdigests(), self._theirs.hexdigests()
        for service, topic in self.result.topics.items():
            topic.replayed_digest, topic.recorded_digest = ours.get(service, ""), theirs.get(service, "")


def _encode(service: str, messages: Mapping[str, Message]) -> bytes | None:
    return wire.encode(service, messages[service]) if service in messages else None
