"""What both loops share: which messages a step sees, and the headers of those it sends. No sockets, no waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from visuomotor.messages.node import ClockName, Input, Inputs, Node, Sample, Tick
from visuomotor.messages.schema import Header, Message, Truth
from visuomotor.messages.services import CONTROL_RATE_HZ, SERVICES
from visuomotor.messages.wire import WireError

TICK_NS = round(1e9 / CONTROL_RATE_HZ)
RATE_WINDOW = 10  # messages over which a service's rate is judged
AHEAD_S = 0.1  # a message from further in the future tells that a clock was set, not how old it is
RATE_TOLERANCE = 2.0  # a service is at rate when it comes at no less than half of it


class _Feed:
    """Messages of one input since the last step, and what is needed to judge them."""

    def __init__(self, source: Input) -> None:
        self.input = source
        self.service = SERVICES[source.service]
        self.by_tick: dict[int, Message | None] = {}  # lockstep
        self.fresh: list[Message] = []
        self.newest: Message | None = None
        self.arrivals: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW + 1)  # time, count or sequence
        self.count = 0

    def arrived(self, message: Message, now_ns: int) -> None:
        # A newest-only reader skips messages, so the publisher's own count tells its rate.
        self.count += 1
        self.arrivals.append((now_ns, message.header.seq if self.service.queue == "newest" else self.count))
        self.newest = message

    def rate_ok(self, now_ns: int) -> bool:
        if self.newest is None:
            return False
        if self.service.rate_hz == 0.0:
            return True
        (first_ns, first), (_, last) = self.arrivals[0], self.arrivals[-1]
        interval_s = (now_ns - first_ns) * 1e-9 / max(last - first + 1, 1)
        return interval_s <= RATE_TOLERANCE / self.service.rate_hz

    def sample(self, now_ns: int, messages: tuple[Message, ...], expire: bool) -> Sample:
        if self.newest is None:
            return Sample()
        age_s = (now_ns - self.newest.header.t_capture_ns) * 1e-9
        ages = self.service.rate_hz > 0.0
        alive = not ages or -AHEAD_S <= age_s <= self.service.max_age_s + 1e-9
        hidden = expire and not alive
        return Sample(
            message=None if hidden else self.newest,
            messages=messages,
            updated=bool(messages),
            alive=alive,
            rate_ok=self.rate_ok(now_ns),
            age_s=age_s,
        )


class Stepper:
    """One node between its inputs and its outputs."""

    def __init__(self, node: Node, clock: ClockName, run_id: str) -> None:
        self.node = node
        self.clock: ClockName = clock
        self.run_id = run_id
        self.episode = -1
        self.finished = False
        for name in (*(i.service for i in node.inputs), *node.outputs):
            if name not in SERVICES:
                raise WireError(f"{node.name}: {name!r} is not a service; expected one of {', '.join(SERVICES)}")
        self._feeds = {source.service: _Feed(source) for source in node.inputs}
        self._seq: dict[str, int] = {}
        self.blocking = tuple(i for i in node.inputs if not i.optional)
        self.trigger = next((i for i in node.inputs if i.trigger), None)
        self.dead: frozenset[str] = frozenset()  # services that can't come any more

    def begin_episode(self, episode: int) -> None:
        """Forget all messages but those that already belong to the new episode."""
        self.episode = episode
        self.finished = False
        self.dead = frozenset()
        self._seq.clear()
        self._feeds = {service: _Feed(feed.input) for service, feed in self._feeds.items()}

    def deliver(self, service: str, message: Message, now_ns: int) -> None:
        """Take in a message of this episode."""
        feed = self._feeds[service]
        if self.clock == "lockstep" and not feed.input.optional:
            feed.by_tick[message.header.tick] = message
            return
        feed.arrived(message, now_ns)
        if feed.service.queue == "newest":
            feed.fresh.clear()
        feed.fresh.append(message)

    def deliver_absent(self, service: str, tick: int) -> None:
        """Lockstep: the publisher has nothing to say at this tick."""
        self._feeds[service].by_tick[tick] = None

    def missing(self, tick: int) -> list[str]:
        """Lockstep: the inputs that a step of this tick still waits for."""
        return [
            source.service
            for source in self.blocking
            if tick >= source.lag
            and source.service not in self.dead
            and tick - source.lag not in self._feeds[source.service].by_tick
        ]

    def newest(self, service: str) -> Message | None:
        """Realtime: the newest message of an input."""
        return self._feeds[service].newest

    def fresh(self, service: str) -> bool:
        """Realtime: whether an input has a message that no step has seen."""
        return bool(self._feeds[service].fresh)

    def newest_tick(self) -> int:
        """Realtime: the newest tick known from inputs that are neither lagged nor optional; -1 when there is none."""
        ticks = [-1]
        for source in self.blocking:
            message = self._feeds[source.service].newest
            if source.lag == 0 and message is not None:
                ticks.append(message.header.tick)
        return max(ticks)

    def take(self, tick: Tick) -> Inputs:
        """The inputs as the step of ``tick`` sees them; each message is ``updated`` once."""
        inputs = Inputs()
        for service, feed in self._feeds.items():
            if self.clock == "lockstep" and not feed.input.optional:
                wanted = tick.tick - feed.input.lag
                message = feed.by_tick.pop(wanted, None)
                for old in [t for t in feed.by_tick if t < wanted]:
                    del feed.by_tick[old]
                if message is None:
                    inputs[service] = Sample()
                    continue
                feed.arrived(message, tick.t_ns)
                inputs[service] = feed.sample(tick.t_ns, (message,), expire=False)
            else:
                inputs[service] = feed.sample(tick.t_ns, tuple(feed.fresh), expire=True)
                feed.fresh.clear()
        return inputs

    def stamp(self, tick: Tick, inputs: Inputs, outputs: Mapping[str, Message]) -> dict[str, Message]:
        """Fill the headers of what a step returned; WireError when it is not what the node declares."""
        capture_ns = tick.t_ns
        lineage = [source for source in self.blocking if source.lag == 0]
        if self.trigger is not None:
            lineage.insert(0, self.trigger)
        for source in lineage:
            origin = inputs[source.service].message
            if origin is not None:
                capture_ns = origin.header.t_capture_ns
                break
        parents = {
            service: sample.message.header.seq
            for service, sample in inputs.items()
            if sample.message is not None and (sample.updated or not self._feeds[service].input.optional)
        }
        for service, message in outputs.items():
            if service not in self.node.outputs:
                raise WireError(
                    f"{self.node.name}: published {service}, which is not among its outputs {self.node.outputs}"
                )
            self.stamp_one(service, message, tick, capture_ns, parents)
        return dict(outputs)

    def stamp_one(self, service: str, message: Message, tick: Tick, capture_ns: int, parents: dict[str, int]) -> None:
        """Fill the header of one message and take note of an end of the episode."""
        given = message.header
        seq = self._seq.get(service, 0)
        self._seq[service] = seq + 1
        message.header = Header(
            run_id=self.run_id,
            episode=tick.episode,
            tick=tick.tick,
            seq=seq,
            t_capture_ns=given.t_capture_ns or capture_ns,
            parents=given.parents or parents,
            valid=given.valid,
        )
        if isinstance(message, Truth) and message.end:
            self.finished = True

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        """Step the node and stamp what it returns."""
        stages = getattr(self.node, "stages", None)
        if stages is not None:
            stages.clear()
        outputs = self.stamp(tick, inputs, self.node.step(tick, inputs))
        if getattr(self.node, "finished", False):
            self.finished = True
        return outputs
