"""Digests of an episode: what each publisher sent, topic by topic, and one hash over them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import Buffer


class TopicDigests:
    """Running sha256 per topic over the bodies of one episode; services with ``digested=False`` are left out."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def clear(self) -> None:
        """Begin a new episode."""
        self._hashes.clear()

    def add(self, service: str, body: Buffer) -> None:
        """Take in the body of one message, in order of publication."""
        if not SERVICES[service].digested:
            return
        running = self._hashes.get(service)
        if running is None:
            running = self._hashes[service] = hashlib.sha256()
        running.update(len(body).to_bytes(8, "little"))
        running.update(body)

    def hexdigests(self) -> dict[str, str]:
        """Topic -> hex digest, sorted by topic; topics on which nothing was sent are missing."""
        return {service: self._hashes[service].hexdigest() for service in sorted(self._hashes)}


def merge_digests(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Digests of several publishers as one table; ValueError when two of them claim the same topic."""
    merged: dict[str, str] = {}
    for part in parts:
        for service, digest in part.items():
            if merged.setdefault(service, digest) != digest:
                raise ValueError(f"{service}: two publishers report different digests, {merged[service]} and {digest}")
    return dict(sorted(merged.items()))


def episode_digest(topic_digests: Mapping[str, str]) -> str:
    """One hash over the sorted per-topic digests."""
    running = hashlib.sha256()
    for service in sorted(topic_digests):
        if SERVICES[service].digested:
            running.update(f"{service} {topic_digests[service]}\n".encode())
    return running.hexdigest()
