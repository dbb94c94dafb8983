"""Key files of hosts: one pair for each, the public half for everybody, the secret one for its host alone.

The files have the form of ZeroMQ's certificates, so its own tools read them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.auth

HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
KEY_SIZE = 40  # Z85 text of 32 bytes


class KeyFileError(ValueError):
    """A key file that cannot be used; names it, what is wrong with it and what to do."""


class KeyPair(msgspec.Struct, frozen=True):
    """Keys of one host, Z85 text; the secret one is in no repr, so that no log can have it."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


def public_file(folder: Path, host: str) -> Path:
    """Where a host's public key is."""
    return folder / f"{host}.key"


def secret_file(folder: Path, host: str) -> Path:
    """Where a host's secret key is, on that host alone."""
    return folder / f"{host}.key_secret"


def make_keys(folder: Path, hosts: Sequence[str]) -> None:
    """Make a pair of keys for each host. Raises KeyFileError when a name is not one, or before a file is replaced."""
    for host in hosts:
        if not HOST_NAME.fullmatch(host):
            raise KeyFileError(f"'{host}': expected a name of a host like gpu-box, up to 32 of a-z, 0-9 and -")
        if hosts.count(host) > 1:
            raise KeyFileError(f"'{host}': expected each host once, got it {hosts.count(host)} times")
        for path in (public_file(folder, host), secret_file(folder, host)):
            if path.exists():
                raise KeyFileError(f"{path}: exists already; whoever uses it would be locked out. Delete it first")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for host in hosts:
            public, secret = zmq.curve_keypair()
            title = f"# visuomotor: {{}} key of host {host}\n"
            body = f'curve\n    public-key = "{public.decode()}"\n'
            _write(public_file(folder, host), title.format("public") + body, 0o644)
            hidden = title.format("secret") + body + f'    secret-key = "{secret.decode()}"\n'
            _write(secret_file(folder, host), hidden, 0o600)
    except OSError as error:
        raise KeyFileError(f"{error.filename}: cannot be written ({error.strerror})") from error


def _write(path: Path, text: str, mode: int) -> None:
    """Make a file that has its mode from the first byte on, and that was not there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def load_public(folder: Path, host: str) -> bytes:
    """Public key of a host."""
    public, _ = _load(public_file(folder, host))
    return public


def load_pair(folder: Path, host: str) -> KeyPair:
    """Both keys of this host. Raises KeyFileError also when anybody else can read the file."""
    path = secret_file(folder, host)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}); `visuomotor keys new` makes it") from error
    if mode & 0o077:
        raise KeyFileError(f"{path}: has mode {mode:o}, so others can read it; expected 600 (chmod 600 {path})")
    public, secret = _load(path)
    if len(secret) != KEY_SIZE:
        raise KeyFileError(f"{path}: holds no secret key; expected what `visuomotor keys new` writes")
    try:
        belongs = zmq.curve_public(secret) == public
    except (ValueError, zmq.ZMQError):
        belongs = False
    if not belongs or public != load_public(folder, host):
        raise KeyFileError(f"{path}: its secret key does not belong to the public one in {public_file(folder, host)}")
    return KeyPair(public, secret)


def _load(path: Path) -> tuple[bytes, bytes]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        reason = error.strerror or "no such file"
        raise KeyFileError(f"{path}: cannot be read ({reason}); `visuomotor keys new` makes it") from error
    except ValueError as error:
        raise KeyFileError(f"{path}: not a key file; expected what `visuomotor keys new` writes") from error
    if len(public) != KEY_SIZE:
        raise KeyFileError(f"{path}: not a key file: its public key has {len(public)} characters, expected {KEY_SIZE}")
    return public, secret or b""
