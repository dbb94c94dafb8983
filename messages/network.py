"""A run on several hosts as plain data: where each node is, at which port it is heard, and who may connect there.

Readers on the host of a node use ipc as ever; only what another host reads has a port, a *door*. Ports follow from the
base port and the order of the nodes alone, so every host computes the same table and a firewall can be set once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from visuomotor.messages.services import SERVICES

CURVE = "curve"
PLAIN = "none-anyone-on-this-network-can-read-and-command"
Encryption = Literal["curve", "none-anyone-on-this-network-can-read-and-command"]

LINK = "hosts"  # the door at which the hosts of a run find each other
RENDEZVOUS = "rendezvous"
PORTS_PER_NODE = 32  # one for the node, then one for each newest-only service; the rest is room for more
FIRST_PORT, LAST_PORT = 1024, 65535


class NetworkError(ValueError):
    """Hosts, addresses or ports that cannot be used; names what was found and what was expected."""


class Door(msgspec.Struct, frozen=True):
    """A tcp socket and the hosts whose keys open it."""

    port: int
    hosts: tuple[str, ...]


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """All that one host's processes need to know of the others. ``doors`` is by socket name, see ``RunPlace``."""

    own: str  # the host of this process
    first: str  # the host of the supervisor
    addresses: dict[str, str]
    nodes: dict[str, str]  # node -> host
    doors: dict[str, Door]
    encryption: Encryption
    keys: str = ""  # folder; only ever the path of secret keys is handed on
    clock_file: str = ""  # on the other hosts: how far their clock is from that of the first, see ``run_clock``

    def __post_init__(self) -> None:
        if self.encryption == CURVE and not self.keys:
            raise NetworkError("keys: expected a folder of keys for encryption 'curve', got none")
        if self.encryption not in (CURVE, PLAIN):
            raise NetworkError(f"encryption: expected 'curve' or '{PLAIN}', got '{self.encryption}'")
        for name in (self.own, self.first, *self.nodes.values()):
            if name not in self.addresses:
                raise NetworkError(f"hosts: no host '{name}'; expected one of {', '.join(self.addresses)}")

    def host_of(self, node: str) -> str:
        """Host of a node; the supervisor, and what no profile places (the recorder), is on the first."""
        return self.nodes.get(node, self.first)

    def endpoint(self, host: str, name: str) -> str:
        """Address of a door. Raises NetworkError where the hosts' table has none."""
        if name not in self.doors:
            raise NetworkError(f"{name}: on host {host}, and nobody on another host was known to read it")
        return f"tcp://{self.addresses[host]}:{self.doors[name].port}"


def assign_ports(base_port: int, nodes: Sequence[str]) -> dict[str, int]:
    """Socket name -> port for every socket that the nodes of a run can have.

    Raises NetworkError when they do not fit below port 65536.
    """
    newest = [name for name, service in SERVICES.items() if service.queue == "newest"]
    last = base_port + PORTS_PER_NODE * (1 + len(nodes)) - 1
    if base_port < FIRST_PORT or last > LAST_PORT:
        raise NetworkError(
            f"base_port: {base_port} puts {len(nodes)} nodes on ports up to {last}; "
            f"expected all within {FIRST_PORT} to {LAST_PORT}"
        )
    ports = {LINK: base_port, RENDEZVOUS: base_port + 1, "supervisor": base_port + 2}
    for index, node in enumerate(nodes, start=1):
        first = base_port + PORTS_PER_NODE * index
        ports[node] = first
        ports |= {f"{node}.{service}": first + 1 + place for place, service in enumerate(newest)}
    return ports


def make_doors(
    ports: Mapping[str, int],
    hosts: Mapping[str, str],  # node -> host
    first: str,
    reads: Mapping[str, Sequence[str]],  # node -> services
    writes: Mapping[str, Sequence[str]],
) -> dict[str, Door]:
    """The doors that have a reader on another host, each with those hosts.

    The supervisor reads every node; what nodes read of each other follows from their services.
    """
    every = tuple(dict.fromkeys((first, *hosts.values())))
    others = tuple(host for host in every if host != first)
    doors = {name: Door(ports[name], others) for name in (LINK, RENDEZVOUS, "supervisor")}
    for node, services in writes.items():
        own = hosts[node]
        at_node: set[str] = set() if own == first else {first}
        for service in services:
            readers = {hosts[reader] for reader, read in reads.items() if service in read}
            if own != first:
                readers.add(first)
            readers.discard(own)
            at_node |= readers
            name = f"{node}.{service}"
            if readers and name in ports:
                doors[name] = Door(ports[name], tuple(sorted(readers)))
        if at_node:
            doors[node] = Door(ports[node], tuple(sorted(at_node)))
    return doors


def check_address(text: str) -> str:
    """The address of one host, as it was; NetworkError when sockets cannot be bound to it alone."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise NetworkError(f"expected an IPv4 address such as 10.0.0.2, got '{text}'") from error
    if address.is_unspecified or address.is_multicast:
        raise NetworkError(f"expected the address of one host, got '{text}'")
    return text
