"""How the processes of a run find each other, so that nothing published after ``ready`` is lost.

Each node binds its publishers and says hello to the supervisor: what it reads and publishes, and the schema it has of
each service. When all have, the supervisor checks that they fit and sends everybody the wiring, or refuses with the
reason. Then each connects its subscribers, all publishers send probes, and who has heard every publisher it reads says
so. When all have, the supervisor lets them go. Who is restarted later needs to hear the supervisor alone to be let go:
the others are in their loops, which see to it that all hear each other before they acknowledge the next reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import zmq

from visuomotor.messages.bus import Publisher, Subscriber
from visuomotor.messages.curve import Doorkeeper, caller_of, prepare_call
from visuomotor.messages.network import CURVE, RENDEZVOUS
from visuomotor.messages.node import Node
from visuomotor.messages.wiring import SUPERVISOR, NodeWiring, RunPlace, Wiring, WiringError, wire_node
from visuomotor.messages.word import Published, Word

PROBE_INTERVAL_S = 0.02
MAX_BYTES = 1 << 20


class HandshakeError(RuntimeError):
    """The processes of a run did not get together; names those that are missing."""


class _Hello(msgspec.Struct, tag=True):
    node: NodeWiring


class _Connected(msgspec.Struct, tag=True):
    name: str


class _Wired(msgspec.Struct, tag=True):
    wiring: Wiring
    again: bool = False  # the run goes on already


class _Go(msgspec.Struct, tag=True):
    pass


class _Refused(msgspec.Struct, tag=True):
    text: str


_FROM_NODE = msgspec.msgpack.Decoder(_Hello | _Connected | Word)
_FROM_SUPERVISOR = msgspec.msgpack.Decoder(_Wired | _Go | _Refused)


class Rendezvous:
    """The supervisor's end."""

    def __init__(
        self,
        context: zmq.Context[Any],
        place: RunPlace,
        own: NodeWiring,
        names: tuple[str, ...],
        doorkeeper: Doorkeeper | None = None,  # where the run has several hosts
    ) -> None:
        self.place = place
        self.own = own
        self.names = names
        self.wiring: Wiring | None = None
        self.refused = ""
        self._hello: dict[str, NodeWiring] = {}
        self._connected: set[str] = set()
        self._route: dict[str, bytes] = {}
        self._words: list[tuple[bytes, Word]] = []
        self._gone = False
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.setsockopt(zmq.LINGER, 300)
        try:
            self._socket.bind(place.rendezvous)
            if doorkeeper is not None:
                doorkeeper.bind(self._socket, RENDEZVOUS)
        except BaseException:
            self._socket.close(linger=0)
            raise

    def missing(self) -> dict[str, str]:
        """Node -> what it has still to do."""
        return {n: "connecting" if n in self._hello else "starting" for n in self.names if n not in self._connected}

    def poll(self, timeout_s: float) -> None:
        """Take in what nodes say and answer. Raises WiringError when they do not fit together."""
        wait_ms = int(timeout_s * 1e3)
        while self._socket.poll(wait_ms):
            wait_ms = 0
            route, *_, last = self._socket.recv_multipart(copy=False)
            try:
                said = _FROM_NODE.decode(last.buffer)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue  # not one of ours
            if isinstance(said, Word):
                self._hear(route.bytes, said)
                continue
            name = said.node.name if isinstance(said, _Hello) else said.name
            if refusal := self._refusal(name, last):
                self._answer(route.bytes, _Refused(refusal))
                continue
            self._route[name] = route.bytes
            if isinstance(said, _Hello):
                self._greet(said.node)
            elif self.wiring is not None:  # nobody is connected before that
                self._connected.add(name)
                if self._gone:
                    self._answer(self._route[name], _Go())

    def _hear(self, route: bytes, word: Word) -> None:
        if self.place.network is None:
            self._words.append((route, word))
        else:  # without keys nobody knows who speaks
            self._answer(route, Published(refused="a run on several hosts takes no word from outside"))

    def answer_words(self, publish: Callable[[Word], Published]) -> None:
        """Hand on what people have said since the last call, and answer each with what became of it."""
        words, self._words = self._words, []
        for route, word in words:
            self._answer(route, publish(word))

    def _refusal(self, name: str, part: zmq.Frame) -> str:
        """Why a node is not let in; empty when it is one of the run and on the host whose key it came under."""
        if name not in self.names:
            return f"{name}: not a node of this run; expected {', '.join(self.names)}"
        network = self.place.network
        if network is None or network.encryption != CURVE:
            return ""
        host = caller_of(part) or network.own  # without a key it came over ipc
        expected = network.host_of(name)
        return "" if host == expected else f"{name}: is a node of host {expected}, not of {host}"

    def _greet(self, node: NodeWiring) -> None:
        again = self.wiring is not None
        self._hello[node.name] = node
        if len(self._hello) < len(self.names):
            return
        names = (node.name,) if again else self.names
        wiring = Wiring({self.own.name: self.own, **{n: self._hello[n] for n in self.names}})
        try:
            wiring.check()
        except WiringError as error:
            for name in names:
                self._answer(self._route[name], _Refused(str(error)))
            if not again:
                raise
            return  # a restarted node does not fit: the others go on
        self.wiring = wiring
        self._connected.difference_update(names)
        for name in names:
            self._answer(self._route[name], _Wired(wiring, self._gone))

    def expect(self, name: str) -> None:
        """A node starts again."""
        self._connected.discard(name)

    def go(self) -> None:
        """Let everybody start."""
        self._gone = True
        for name in self.names:
            self._answer(self._route[name], _Go())

    def _answer(self, route: bytes, message: msgspec.Struct) -> None:
        self._socket.send_multipart([route, msgspec.msgpack.encode(message)])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def join(
    context: zmq.Context[Any],
    place: RunPlace,
    node: Node,
    publisher: Publisher,
    stopped: Callable[[], bool],
    timeout_s: float,
) -> tuple[Wiring, Subscriber] | None:
    """A node's end: warm up, and be connected to the whole run; None when stopped meanwhile.

    Raises WiringError when the run refuses the node, HandshakeError when it does not get together in ``timeout_s``.
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.setsockopt(zmq.LINGER, 300)
    subscriber: Subscriber | None = None
    joined = False
    try:
        endpoint = place.rendezvous
        if place.network is not None and (host := place.other_host(SUPERVISOR)):
            endpoint = place.network.endpoint(host, RENDEZVOUS)
            prepare_call(socket, place.network, host)
        socket.connect(endpoint)
        own = wire_node(node)
        socket.send(msgspec.msgpack.encode(_Hello(own)))
        node.warm_up()
        wiring: Wiring | None = None
        connected = again = False
        deadline = time.monotonic() + timeout_s
        while not stopped():
            if time.monotonic() > deadline:
                raise HandshakeError(f"{node.name}: {_waiting_for(wiring, subscriber)} after {timeout_s:.0f} s")
            if socket.poll(int(PROBE_INTERVAL_S * 1e3)):
                said = _FROM_SUPERVISOR.decode(socket.recv())
                if isinstance(said, _Refused):
                    raise WiringError(f"{node.name}: {said.text}")
                if isinstance(said, _Wired):
                    wiring, again = said.wiring, said.again
                    declared = {source.service for source in node.inputs}
                    subscriber = Subscriber(context, place, sources_of(own, wiring, declared))
                elif wiring is not None and subscriber is not None:
                    joined = True
                    return wiring, subscriber
            if wiring is None or subscriber is None:
                continue
            publisher.probe()
            if connected:
                continue  # from here on real messages may come: they are the loop's
            subscriber.poll(0.0)
            if not subscriber.unheard or (again and SUPERVISOR not in subscriber.waits_for()):
                connected = True
                socket.send(msgspec.msgpack.encode(_Connected(node.name)))
        return None
    finally:
        if subscriber is not None and not joined:
            subscriber.close()
        socket.close()


def sources_of(reader: NodeWiring, wiring: Wiring, declared: Collection[str]) -> dict[str, list[str]]:
    """Service -> nodes to subscribe to; what a node does not declare is control, from the supervisor alone."""
    sources: dict[str, list[str]] = {}
    for source in reader.inputs:
        names = [name for name in wiring.publishers(source.service) if name != reader.name]
        if source.service not in declared:
            names = [SUPERVISOR]
        if names:
            sources[source.service] = names
    return sources


def _waiting_for(wiring: Wiring | None, subscriber: Subscriber | None) -> str:
    if wiring is None or subscriber is None:
        return "the other nodes of the run have not all come"
    return "heard nothing of " + ", ".join(sorted(f"{service} from {name}" for service, name in subscriber.unheard))
