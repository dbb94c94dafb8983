"""Several nodes in one process, in lockstep, without sockets: the same order, headers and bytes as over the bus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from visuomotor.messages import wire
from visuomotor.messages.digest import TopicDigests, episode_digest
from visuomotor.messages.node import Input, Inputs, Node, Sample, Tick
from visuomotor.messages.schema import Episode, Message
from visuomotor.messages.stepper import TICK_NS, Stepper


class GraphError(ValueError):
    """Nodes that do not fit together, or an input that never came."""


def publishers(nodes: Iterable[Node]) -> dict[str, str]:
    """Service -> name of the node that publishes it; GraphError when two claim the same."""
    by_service: dict[str, str] = {}
    for node in nodes:
        for service in node.outputs:
            if service in by_service:
                raise GraphError(f"{service}: published by both {by_service[service]} and {node.name}")
            by_service[service] = node.name
    return by_service


def step_order(nodes: Sequence[Node]) -> list[Node]:
    """Nodes such that each comes after those whose messages of the same tick it reads; GraphError on a loop."""
    publisher = publishers(nodes)
    waits = {
        node.name: {publisher[i.service] for i in node.inputs if i.lag == 0 and i.service in publisher}
        for node in nodes
    }
    if len(waits) != len(nodes):
        raise GraphError(f"node names are not unique: {', '.join(node.name for node in nodes)}")
    ordered: list[Node] = []
    left = list(nodes)
    while left:
        ready = next((n for n in left if not waits[n.name] & {other.name for other in left}), None)
        if ready is None:
            names = ", ".join(n.name for n in left)
            raise GraphError(f"{names}: each waits for another's message of the same tick; one input needs a lag")
        left.remove(ready)
        ordered.append(ready)
    return ordered


class Graph:
    """Nodes run in lockstep by passing messages in memory.

    Every message goes through the wire format, so that no reader sees what a reader in another process would not, and
    the digests equal those of the same nodes over sockets. ``digest=False`` saves the hashing of frames.
    """

    def __init__(self, nodes: Sequence[Node], *, run_id: str = "graph", digest: bool = True) -> None:
        self.nodes = step_order(nodes)
        self.run_id = run_id
        self.tick_index = 0  # the next tick
        self._steppers = [Stepper(node, "lockstep", run_id) for node in self.nodes]
        self._digests = TopicDigests() if digest else None
        self._episode: Episode | None = None

    def warm_up(self) -> None:
        """Warm up every node."""
        for node in self.nodes:
            node.warm_up()

    def reset(self, episode: Episode) -> None:
        """Begin an episode: every node forgets the last one, ticks count from 0."""
        self._episode = episode
        self.tick_index = 0
        if self._digests is not None:
            self._digests.clear()
        for stepper in self._steppers:
            stepper.begin_episode(episode.index)
            stepper.node.reset(episode)

    def post(self, service: str, message: Message) -> None:
        """Hand in a message from outside, such as ``operator``, for the next tick; its header is stamped."""
        if self._episode is None:
            raise GraphError("post before reset: a graph needs an episode")
        message.header.run_id, message.header.episode = self.run_id, self._episode.index
        message.header.tick = self.tick_index
        self._pass_on(service, message)

    def _pass_on(self, service: str, message: Message) -> Message:
        body = wire.encode(service, message)
        if self._digests is not None:
            self._digests.add(service, body)
        copy = wire.decode(service, body)
        copy.header.run_id, copy.header.episode = message.header.run_id, message.header.episode
        for reader in self._steppers:
            if any(source.service == service for source in reader.node.inputs):
                reader.deliver(service, copy, self.tick_index * TICK_NS)
        return copy

    def tick(self) -> dict[str, Message]:
        """Run one tick of every node and return all messages of it by service.

        A node that has ended the episode, and all that wait for it, run no more: then the dict is empty.
        """
        if self._episode is None:
            raise GraphError("tick before reset: a graph needs an episode")
        tick = Tick(self._episode.index, self.tick_index, self.tick_index * TICK_NS, "lockstep")
        sent: dict[str, Message] = {}
        if any(stepper.finished for stepper in self._steppers):
            return sent
        for stepper in self._steppers:
            missing = stepper.missing(tick.tick)
            if missing:
                raise GraphError(f"{stepper.node.name}: nobody sent {', '.join(missing)} for tick {tick.tick}")
            outputs = stepper.step(tick, stepper.take(tick))
            for service, message in outputs.items():
                sent[service] = self._pass_on(service, message)
            for service in stepper.node.outputs:
                if service not in outputs:
                    self._pass_absent(service, tick.tick)
        self.tick_index += 1
        return sent

    def _pass_absent(self, service: str, tick: int) -> None:
        for reader in self._steppers:
            if any(i.service == service and not i.optional for i in reader.node.inputs):
                reader.deliver_absent(service, tick)

    def topic_digests(self) -> dict[str, str]:
        """Topic -> sha256 of what was sent on it in this episode; empty with ``digest=False``."""
        return {} if self._digests is None else self._digests.hexdigests()

    def digest(self) -> str:
        """Digest of the episode so far."""
        return episode_digest(self.topic_digests())

    def close(self) -> None:
        """Close every node, also when one of them fails to."""
        close_all(self.nodes)


class Chain:
    """Several nodes presented as one: they step one after the other and hand messages on in memory.

    Inputs are those that no node inside publishes, outputs the union. Inner nodes that want a lagged message of their
    own chain get that of as many steps ago. ``stages`` holds the time of each inner node, and the stages inside it.
    """

    def __init__(self, name: str, nodes: Sequence[Node], *, period_s: float | None = None) -> None:
        self.name = name
        self.nodes = step_order(nodes)
        inside = set(publishers(self.nodes))
        outer: dict[str, Input] = {}
        for node in self.nodes:
            for source in node.inputs:
                if source.service in inside:
                    continue
                known = outer.get(source.service, source)
                if known.lag != source.lag:
                    raise GraphError(f"{name}: {source.service} is read with lag {known.lag} and {source.lag}")
                # the first trigger found is the chain's: a step starts on one input only
                triggered = any(i.trigger for i in outer.values() if i.service != source.service)
                outer[source.service] = Input(
                    source.service,
                    trigger=(known.trigger or source.trigger) and not triggered,
                    lag=source.lag,
                    optional=known.optional and source.optional,
                )
        self.inputs: tuple[Input, ...] = tuple(outer.values())
        self.outputs: tuple[str, ...] = tuple(s for node in self.nodes for s in node.outputs)
        self.period_s = period_s
        self.stages: list[tuple[str, int, int]] = []
        self._steppers = {node.name: Stepper(node, "lockstep", "") for node in self.nodes}
        depth = 1 + max((i.lag for node in self.nodes for i in node.inputs), default=0)
        self._history: deque[dict[str, Message]] = deque(maxlen=depth)

    @property
    def provider(self) -> str:
        """Execution providers of the nodes inside, each once."""
        return ", ".join(dict.fromkeys(p for node in self.nodes if (p := getattr(node, "provider", ""))))

    @property
    def note(self) -> str:
        """What the nodes inside have to say of themselves."""
        return "; ".join(note for node in self.nodes if (note := getattr(node, "note", "")))

    @property
    def finished(self) -> bool:
        """Whether a node inside has nothing more to do in this episode."""
        return any(getattr(node, "finished", False) for node in self.nodes)

    def warm_up(self) -> None:
        """Warm up every node inside."""
        for node in self.nodes:
            node.warm_up()

    def reset(self, episode: Episode) -> None:
        """Reset every node inside."""
        self._history.clear()
        for stepper in self._steppers.values():
            stepper.begin_episode(episode.index)
            stepper.node.reset(episode)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Step every node inside, in order, and return what all of them sent."""
        sent: dict[str, Message] = {}
        self._history.appendleft(sent)
        for node in self.nodes:
            seen = Inputs({i.service: self._sample(i, tick, inputs) for i in node.inputs})
            started_ns = time.monotonic_ns()
            for service, message in self._steppers[node.name].step(tick, seen).items():
                sent[service] = wire.roundtrip(service, message)
            self.stages.append((node.name, started_ns, time.monotonic_ns()))
            self.stages.extend((f"{node.name}.{s}", a, b) for s, a, b in getattr(node, "stages", ()))
        return sent

    def _sample(self, source: Input, tick: Tick, inputs: Inputs) -> Sample:
        if source.service in inputs:
            return inputs[source.service]
        message = self._history[source.lag].get(source.service) if source.lag < len(self._history) else None
        if message is None:
            return Sample()
        age_s = (tick.t_ns - message.header.t_capture_ns) * 1e-9
        return Sample(message=message, messages=(message,), updated=True, alive=True, rate_ok=True, age_s=age_s)

    def close(self) -> None:
        """Close every node inside, also when one of them fails to."""
        close_all(self.nodes)


def close_all(nodes: Sequence[Node]) -> None:
    """Close nodes in reverse order, also when one of them fails to; its error is raised at the end."""
    errors: list[Exception] = []
    for node in reversed(nodes):
        try:
            node.close()
        except Exception as error:  # one node's failure must not keep the others' devices open
            errors.append(error)
    if errors:
        raise errors[0]
