"""How the hosts of a run find each other, keep each other informed, and notice that one has fallen silent.

Each host reports to the first many times a second how it stands: its run, how nodes ended. The answer says what shall
be: which run, which nodes, which of them killed, and when it is over. Both are whole states and not events, so a lost
one costs nothing. The exchange carries time stamps, from which a host knows its clock's offset.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import msgspec
import zmq
import zmq.utils.monitor

from visuomotor.messages.curve import CALLS, Caller, Doorkeeper, caller_of, prepare_call
from visuomotor.messages.network import CURVE, LINK, Network
from visuomotor.messages.run_clock import Offset, better_offset, measure_offset

BEAT_S = 0.1
POLL_MS = 20
EXCHANGES = 5  # before the offset of a clock is believed
MAX_BYTES = 1 << 20
LINGER_MS = 300


class Death(msgspec.Struct, frozen=True):
    """How a node of another host ended; ``life`` counts its starts."""

    life: int
    how: str
    last_words: str = ""
    bad_input: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a host tells of itself. ``refused``: why it will not take part; ``leaving``: why it stops doing so."""

    host: str
    sent_ns: int
    run_id: str = ""  # the run that its nodes are of; empty when it has none
    deaths: dict[str, Death] = {}
    folder: str = ""  # where its nodes' logs are
    refused: str = ""
    leaving: str = ""
    offset: Offset | None = None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the first host wants of another: nodes with the number of the start that shall be, and kills by that number.

    ``task`` is what the nodes are made from, for ``launch`` to read; it comes until the host has taken up the run.
    """

    run_id: str
    lives: dict[str, int]
    kills: dict[str, int]
    over: bool
    sent_ns: int  # as reported, for the sender to recognise
    received_ns: int
    answered_ns: int
    task: bytes = b""


_REPORT = msgspec.msgpack.Decoder(Report)
_WISH = msgspec.msgpack.Decoder(Wish)


class HostState(msgspec.Struct):
    """What the first host knows of another."""

    nodes: tuple[str, ...]
    lives: dict[str, int]
    kills: dict[str, int]
    report: Report | None = None
    heard_ns: int = 0
    taken_up: bool = False  # it has had nodes of this run, and was not given up
    folder: str = ""  # where its nodes' logs are

    @property
    def silent_s(self) -> float:
        """How long nothing has been heard of it."""
        return (time.monotonic_ns() - self.heard_ns) * 1e-9


class HostServer:
    """The first host's end, in a thread, so that time stamps are prompt and no long work here looks like silence."""

    def __init__(self, network: Network, run_id: str, task: bytes) -> None:
        self._run_id, self._task, self._network = run_id, task, network
        self._over = False
        self._lock = threading.Lock()
        self._hosts: dict[str, HostState] = {}
        for host in network.addresses:
            if host != network.first:
                nodes = tuple(n for n, where in network.nodes.items() if where == host)
                self._hosts[host] = HostState(nodes, dict.fromkeys(nodes, 0), {})
        self._context: zmq.Context[Any] = zmq.Context()
        self._keeper = Doorkeeper(self._context, network)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        try:
            self._keeper.bind(self._socket, LINK)
        except BaseException:
            self._socket.close()
            self._keeper.close()
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="hosts", daemon=True)
        self._thread.start()

    def start(self, node: str) -> None:
        """Let a node be started, for the first time or anew."""
        with self._lock:
            self._hosts[self._network.nodes[node]].lives[node] += 1

    def kill(self, node: str) -> None:
        """Let a node be killed."""
        with self._lock:
            state = self._hosts[self._network.nodes[node]]
            state.kills[node] = state.lives[node]

    def give_up(self, host: str) -> None:
        """Count all nodes of a host as dead: what it comes back with is of no use."""
        with self._lock:
            state = self._hosts[host]
            state.kills |= state.lives
            state.taken_up = False

    def finish(self) -> None:
        """Let every host stop its nodes."""
        with self._lock:
            self._over = True

    def states(self) -> dict[str, HostState]:
        """A copy of what is known of every other host."""
        with self._lock:
            return {
                host: msgspec.structs.replace(state, lives=dict(state.lives), kills=dict(state.kills))
                for host, state in self._hosts.items()
            }

    def refused(self) -> dict[str, int]:
        """Cause -> who was not let in."""
        return self._keeper.watch()

    def close(self) -> None:
        """End the thread and close the door."""
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._keeper.close()
        self._context.term()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(POLL_MS):
                continue
            received_ns = time.monotonic_ns()
            route, *_, last = self._socket.recv_multipart(copy=False)
            try:
                report = _REPORT.decode(last.buffer)
            except msgspec.MsgspecError:
                continue  # not one of ours
            if report.host not in self._hosts or (self._network.encryption == CURVE and caller_of(last) != report.host):
                continue  # one host does not speak for another
            wish = self._take_in(report, received_ns)
            self._socket.send_multipart([route.bytes, msgspec.msgpack.encode(wish)])

    def _take_in(self, report: Report, received_ns: int) -> Wish:
        with self._lock:
            state = self._hosts[report.host]
            state.report, state.heard_ns = report, received_ns
            ours = report.run_id == self._run_id
            state.taken_up = state.taken_up or ours
            state.folder = report.folder or state.folder
            return Wish(
                run_id=self._run_id,
                lives=dict(state.lives),
                kills=dict(state.kills),
                over=self._over,
                sent_ns=report.sent_ns,
                received_ns=received_ns,
                answered_ns=time.monotonic_ns(),
                task=b"" if ours else self._task,
            )


class HostClient:
    """Another host's end. ``wish`` is the last answer; ``offset`` is None until enough exchanges were made."""

    def __init__(self, network: Network) -> None:
        self.host = network.own
        self.wish: Wish | None = None
        self.heard_ns = 0
        self.trouble = ""  # why there is no answer, as far as the handshake tells
        self._network = network
        self._offset: Offset | None = None
        self._exchanges = 0
        self._beat_due_ns = 0
        self._caller = Caller()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # old reports do not wait for somebody to connect to
        self._socket.setsockopt(zmq.RECONNECT_IVL, 200)
        self._monitor = self._socket.get_monitor_socket(CALLS)
        try:
            prepare_call(self._socket, network, network.first)
        except BaseException:
            self.close()
            raise
        self._socket.connect(network.endpoint(network.first, LINK))

    @property
    def offset(self) -> Offset | None:
        """How far the first host's clock is from this one's."""
        return self._offset if self._exchanges >= EXCHANGES else None

    def silent_s(self) -> float:
        """How long nothing has been heard of the first host; infinite before anything was."""
        return (time.monotonic_ns() - self.heard_ns) * 1e-9 if self.heard_ns else float("inf")

    def forget_clock(self) -> None:
        """Measure anew: another run may be of another boot of the first host."""
        self._offset, self._exchanges = None, 0

    def exchange(self, timeout_s: float, **said: Any) -> bool:
        """Report what is ``said`` when it is time to, and take in answers for ``timeout_s``; True when one came."""
        self._watch()
        now = time.monotonic_ns()
        if now >= self._beat_due_ns:
            pace_s = BEAT_S if self._exchanges >= EXCHANGES else BEAT_S / 10
            self._beat_due_ns = now + round(pace_s * 1e9)
            report = Report(host=self.host, sent_ns=time.monotonic_ns(), offset=self.offset, **said)
            with contextlib.suppress(zmq.Again):  # nobody is connected
                self._socket.send(msgspec.msgpack.encode(report), zmq.NOBLOCK)
        heard = False
        wait_ms = round(timeout_s * 1e3)
        while self._socket.poll(wait_ms):
            back_ns, wait_ms, heard = time.monotonic_ns(), 0, True
            with contextlib.suppress(msgspec.MsgspecError):
                self._take_in(_WISH.decode(self._socket.recv()), back_ns)
        return heard

    def say_now(self) -> None:
        """Do not wait for the next beat: what is to be told is important."""
        self._beat_due_ns = 0

    def _take_in(self, wish: Wish, back_ns: int) -> None:
        if self.wish is not None and wish.run_id != self.wish.run_id:
            self.forget_clock()
        self.wish, self.heard_ns, self.trouble = wish, back_ns, ""
        new = measure_offset(wish.sent_ns, wish.received_ns, wish.answered_ns, back_ns)
        self._offset = better_offset(self._offset, new)
        self._exchanges += 1

    def _watch(self) -> None:
        while self._monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self._monitor)["event"]
            if self._caller.note(event):
                first = self._network.first
                refused = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
                self.trouble = (
                    f"{first} does not take the key of {self.host}"
                    if refused
                    else f"who answers at the address of {first} has not its key, or not this encryption"
                )

    def close(self) -> None:
        """Close the socket; what was said last gets a moment to leave."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()
