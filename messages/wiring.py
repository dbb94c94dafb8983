"""Who publishes and who reads what in a run, as plain data that every process of the run has."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from visuomotor.messages.network import RENDEZVOUS, Network
from visuomotor.messages.node import ClockName, Input, Node
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import schema_hash

SUPERVISOR = "supervisor"
SUPERVISOR_OUTPUTS = ("episode", "operator", "node_health")
NODE_OUTPUTS = ("node_health", "trace")  # of every node, sent by its loop
SHARED = frozenset({*SUPERVISOR_OUTPUTS, *NODE_OUTPUTS})  # services that may have several publishers
NODE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
MAX_SOCKET_NAME = 32 + 1 + 30  # node, dot, service


class WiringError(ValueError):
    """Nodes that do not fit together; names them and the service."""


class RunPlace(msgspec.Struct, frozen=True):
    """Where a run takes place: all that a process needs to join it. ``sockets`` comes from RunDirectory."""

    sockets: str
    run_id: str
    clock: ClockName = "lockstep"
    network: Network | None = None  # None: all on one host

    def socket_name(self, node: str, service: str) -> str:
        """Name of the socket on which ``node`` publishes ``service``.

        Everything in lockstep, and what is never dropped in realtime, shares one socket per node and so keeps its
        order; newest-only services have a socket each, because a socket keeps one newest message.
        """
        return f"{node}.{service}" if newest_only(service, self.clock) else node

    def endpoint(self, node: str, service: str) -> str:
        """Address at which readers on the host of ``node`` find ``service``."""
        return f"ipc://{self.sockets}/{self.socket_name(node, service)}"

    def other_host(self, node: str) -> str:
        """Host of a node that is not on this one; empty for one that is."""
        if self.network is None or (host := self.network.host_of(node)) == self.network.own:
            return ""
        return host

    @property
    def rendezvous(self) -> str:
        """Address at which the supervisor receives the nodes of its host."""
        return f"ipc://{Path(self.sockets) / RENDEZVOUS}"

    @property
    def clock_file(self) -> str:
        """Where the offset of this host's clock is told; empty where the run's clock is its own."""
        return "" if self.network is None else self.network.clock_file


class NodeWiring(msgspec.Struct, frozen=True):
    """What one node reads and publishes, with the schema that its process has of each service."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    schemas: dict[str, str]  # service -> schema hash


class Wiring(msgspec.Struct, frozen=True):
    """All nodes of a run, the supervisor among them."""

    nodes: dict[str, NodeWiring]

    def publishers(self, service: str) -> tuple[str, ...]:
        """Names of the nodes that publish a service."""
        return tuple(name for name, node in self.nodes.items() if service in node.outputs)

    def check(self) -> None:
        """Raise WiringError when a service has no publisher, two of them, or a reader that sees it differently."""
        for service in dict.fromkeys(s for node in self.nodes.values() for s in node.outputs):
            names = self.publishers(service)
            if len(names) > 1 and service not in SHARED:
                raise WiringError(f"{service}: published by both {names[0]} and {names[1]}")
        for reader in self.nodes.values():
            for source in reader.inputs:
                names = self.publishers(source.service)
                if not names and not source.optional:
                    raise WiringError(f"{source.service}: read by {reader.name}, published by nobody")
                for name in names:
                    sent, read = self.nodes[name].schemas.get(source.service), reader.schemas.get(source.service)
                    if sent != read:
                        raise WiringError(
                            f"{source.service}: {name} publishes schema {sent}, {reader.name} reads {read}; "
                            "both must run the same version of visuomotor"
                        )

    def stalled(self, dead: Collection[str]) -> frozenset[str]:
        """Nodes that can't step any more in lockstep when those in ``dead`` are gone, the dead among them.

        A node goes on as long as one input of the same tick still comes; one with none but lagged inputs always does.
        """
        gone = set(dead)
        while True:
            silent = {s for s in SERVICES if (names := self.publishers(s)) and gone.issuperset(names)}
            more = {
                node.name
                for node in self.nodes.values()
                if (waits := [i.service for i in node.inputs if not i.optional and i.lag == 0])
                and silent.issuperset(waits)
            }
            if more <= gone:
                return frozenset(gone)
            gone |= more

    def silent(self, dead: Collection[str]) -> frozenset[str]:
        """Services that can't come any more when the nodes in ``dead`` are gone."""
        gone = self.stalled(dead)
        return frozenset(s for s in SERVICES if (names := self.publishers(s)) and gone.issuperset(names))


def newest_only(service: str, clock: ClockName) -> bool:
    """Whether readers of a service keep only the newest message."""
    return clock == "realtime" and SERVICES[service].queue == "newest"


def wire_node(node: Node) -> NodeWiring:
    """What ``node`` declares, and what its loop adds."""
    if not NODE_NAME.fullmatch(node.name) or node.name == SUPERVISOR:
        raise WiringError(f"{node.name!r}: expected a node name like 'perception', up to 32 of a-z, 0-9 and _")
    for service in (*(i.service for i in node.inputs), *node.outputs):
        if service not in SERVICES:
            raise WiringError(f"{node.name}: {service!r} is not a service; expected one of {', '.join(SERVICES)}")
    own = {i.service for i in node.inputs}
    control = tuple(Input(s, optional=True) for s in ("episode", "node_health") if s not in own)
    return wire_up(node.name, (*node.inputs, *control), (*node.outputs, *NODE_OUTPUTS))


def wire_up(name: str, inputs: tuple[Input, ...], outputs: tuple[str, ...]) -> NodeWiring:
    """NodeWiring with the schemas of this process."""
    services = dict.fromkeys((*(i.service for i in inputs), *outputs))
    return NodeWiring(name, inputs, outputs, {s: schema_hash(s) for s in services})
