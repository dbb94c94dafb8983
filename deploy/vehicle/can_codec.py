"""CAN frames and the numbers in them: a DBC file, message counters and checksums, and every reason to refuse a frame.

Protection follows AUTOSAR E2E profile 1: a counter from 0 to 14 that goes up by one with each frame of a message, and a
CRC-8 (SAE J1850) over identifier and data. Bytes in, values out; sockets are in ``deploy.vehicle.can_link``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import cantools.database
import msgspec
from cantools.database.can import Database, Message

COUNTER, CHECKSUM = "Counter", "Checksum"
COUNTER_VALUES = 15
DBC_BYTES_MAX = 1 << 20
FRAME_BYTES_MAX = 64  # of CAN FD
_LENGTH = re.compile(r"\bBO_\s+\d+\s+(\w+)\s*:\s*(\d+)")
_SIGNAL = re.compile(r"\bSG_\s+(\w+)[^:]*:\s*(\d+)\s*\|\s*(\d+)")
SHIPPED_DBC = Path(__file__).with_name("car.dbc")


class CanError(ValueError):
    """A DBC file or a value that cannot be used; names the file, the message and the signal, and what was expected."""


class Decoded(msgspec.Struct, frozen=True):
    """One good frame: physical values by signal, without counter and checksum."""

    message: str
    values: dict[str, float]
    lost: int  # frames of this message that went missing since the last good one, as far as the counter tells


class CanCodec:
    """Encodes and decodes the messages of one DBC file; keeps the counters of both directions.

    ``refused`` counts frames that were not believed, by cause: ``unknown`` identifier, ``length``, ``checksum``,
    ``repeated`` counter (a stuck sender sends old values), ``counter`` beyond its range, ``range`` of a signal.
    """

    def __init__(self, dbc: Path = SHIPPED_DBC) -> None:
        self.dbc = dbc
        self._database = _load(dbc)
        self._checked = {m.name: _protection(dbc, m) for m in self._database.messages}
        self.refused: Counter[str] = Counter()
        self._sent: dict[str, int] = {}
        self._received: dict[str, int] = {}

    def reset(self) -> None:
        """Forget the counters, not the counts."""
        self._sent.clear()
        self._received.clear()

    def message(self, name: str) -> Message:
        """The definition of a message. Raises CanError with the names that there are."""
        try:
            return self._database.get_message_by_name(name)
        except KeyError as error:
            names = ", ".join(sorted(self._checked))
            raise CanError(f"{self.dbc}: no message {name}; expected one of {names}") from error

    def signal_range(self, name: str, signal: str) -> tuple[float, float]:
        """Least and greatest physical value of a signal, infinite where the DBC sets none."""
        definition = self.message(name)
        for found in definition.signals:
            if found.name == signal:
                return (
                    -math.inf if found.minimum is None else float(found.minimum),
                    math.inf if found.maximum is None else float(found.maximum),
                )
        names = ", ".join(s.name for s in definition.signals)
        raise CanError(f"{self.dbc}: message {name} has no signal {signal}; expected one of {names}")

    def encode(self, name: str, values: Mapping[str, float]) -> tuple[int, bytes]:
        """Identifier and data of the next frame of a message.

        Raises CanError that names the signal for a value that is missing, not finite or out of range.
        """
        definition = self.message(name)
        protection = self._checked[name]
        full = {key: float(value) for key, value in values.items()}
        for key, value in full.items():
            low, high = self.signal_range(name, key)
            if not low <= value <= high:  # refuses what is not a number, too
                raise CanError(f"{self.dbc}: {name}.{key}: expected {low:g} to {high:g}, got {value}")
        missing = {s.name for s in definition.signals} - set(full) - {COUNTER, CHECKSUM}
        if missing:
            raise CanError(f"{self.dbc}: {name}: no value for {', '.join(sorted(missing))}")
        if protection.counter:
            full[COUNTER] = self._sent[name] = (self._sent.get(name, -1) + 1) % COUNTER_VALUES
        if protection.checksum_byte is not None:
            full[CHECKSUM] = 0
        data = bytearray(definition.encode(full, strict=True))
        if protection.checksum_byte is not None:
            data[protection.checksum_byte] = _checksum(definition.frame_id, data)
        return definition.frame_id, bytes(data)

    def decode(self, frame_id: int, data: bytes) -> Decoded | None:
        """Values of a frame, or None for one that is not to be believed; ``refused`` says why."""
        try:
            return self._decode(frame_id, data)
        except _RefusedError as error:
            self.refused[str(error)] += 1
            return None

    def _decode(self, frame_id: int, data: bytes) -> Decoded:
        try:
            definition = self._database.get_message_by_frame_id(frame_id)
        except KeyError as error:
            raise _RefusedError("unknown") from error
        if len(data) != definition.length:
            raise _RefusedError("length")
        protection = self._checked[definition.name]
        if protection.checksum_byte is not None:
            zeroed = bytearray(data)
            zeroed[protection.checksum_byte] = 0
            if data[protection.checksum_byte] != _checksum(frame_id, zeroed):
                raise _RefusedError("checksum")
        raw = definition.decode(bytes(data), decode_choices=False)
        try:
            values = {key: float(value) for key, value in cast("dict[str, float]", raw).items()}
        except (OverflowError, ValueError) as error:  # a scale beyond what a float holds
            raise _RefusedError("range") from error
        counter = values.pop(COUNTER, 0.0)
        values.pop(CHECKSUM, None)
        for key, value in values.items():
            low, high = self.signal_range(definition.name, key)
            if not (low <= value <= high and math.isfinite(value)):
                raise _RefusedError("range")
        return Decoded(definition.name, values, self._lost(definition.name, int(counter)) if protection.counter else 0)

    def _lost(self, name: str, counter: int) -> int:
        last = self._received.get(name)
        if counter >= COUNTER_VALUES:
            raise _RefusedError("counter")
        if counter == last:
            raise _RefusedError("repeated")
        self._received[name] = counter
        return 0 if last is None else (counter - last - 1) % COUNTER_VALUES


class _RefusedError(Exception):
    """A frame that is not believed; the text is the cause."""


class _Protection(msgspec.Struct, frozen=True):
    """How frames of a message are protected: by a counter, and by a checksum in one of their bytes."""

    counter: bool
    checksum_byte: int | None


def crc8_j1850(data: bytes | bytearray) -> int:
    """CRC-8 of SAE J1850: polynomial 0x1D, start 0xFF, inverted at the end."""
    crc = 0xFF
    for byte in data:
        crc = _TABLE[crc ^ byte]
    return crc ^ 0xFF


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1D) & 0xFF if crc & 0x80 else crc << 1
        table.append(crc)
    return tuple(table)


_TABLE = _table()


def _checksum(frame_id: int, data: bytearray) -> int:
    return crc8_j1850(bytes((frame_id & 0xFF, frame_id >> 8 & 0xFF)) + data)


def _load(dbc: Path) -> Database:
    try:
        with dbc.open("rb") as file:
            data = file.read(DBC_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise CanError(f"{dbc}: cannot be read ({error}); expected a DBC file") from error
    if len(data) > DBC_BYTES_MAX:
        raise CanError(f"{dbc}: expected at most {DBC_BYTES_MAX} bytes, got more")
    text = data.decode("cp1252", "replace")
    for name, length in _LENGTH.findall(text):  # the library makes room for whatever length it is told
        if len(length) > 3 or int(length) > FRAME_BYTES_MAX:
            raise CanError(f"{dbc}: {name}: expected at most {FRAME_BYTES_MAX} bytes, got {length[:20]}")
    for name, *bits in _SIGNAL.findall(text):
        if any(len(number) > 3 or int(number) > 8 * FRAME_BYTES_MAX for number in bits):
            raise CanError(f"{dbc}: {name}: expected bits of a frame, got {bits[0][:20]}|{bits[1][:20]}")
    try:
        database = cantools.database.load_string(text, database_format="dbc", strict=True)
    except Exception as error:  # parse errors of the library have no common class
        raise CanError(f"{dbc}: not a usable DBC file: {error}") from error
    if not isinstance(database, Database) or not database.messages:
        raise CanError(f"{dbc}: defines no message; expected a DBC file with BO_ entries")
    for message in database.messages:
        if message.is_container or message.is_multiplexed():
            raise CanError(f"{dbc}: message {message.name}: multiplexed and container messages are not supported")
    return database


def _protection(dbc: Path, message: Message) -> _Protection:
    signals = {signal.name: signal for signal in message.signals}
    checksum = signals.get(CHECKSUM)
    if checksum is not None and (checksum.length != 8 or checksum.start % 8 or checksum.byte_order != "little_endian"):
        raise CanError(f"{dbc}: {message.name}.{CHECKSUM}: expected one whole byte, as in 56|8@1+")
    counter = signals.get(COUNTER)
    if counter is not None and counter.length != 4:
        raise CanError(f"{dbc}: {message.name}.{COUNTER}: expected 4 bits, got {counter.length}")
    return _Protection(counter is not None, None if checksum is None else checksum.start // 8)
