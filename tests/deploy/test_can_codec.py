from __future__ import annotations

import math
import re
from pathlib import Path

import cantools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.deploy.vehicle.can_codec import (
    CHECKSUM,
    COUNTER,
    COUNTER_VALUES,
    SHIPPED_DBC,
    CanCodec,
    CanError,
    crc8_j1850,
)

MOTION = {"Speed": 12.34, "Acceleration": -1.5, "YawRate": 0.1}
DRIVER = dict.fromkeys(
    (
        "BrakePedal",
        "AcceleratorPedal",
        "SteeringTouched",
        "EngageButton",
        "DisengageButton",
        "EmergencyStopButton",
        "ResetButton",
    ),
    0.0,
)


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # AUTOSAR, Specification of CRC Routines, table of CRC8 (SAE J1850)
        ("00000000", 0x59),
        ("F20183", 0x37),
        ("0FAA0055", 0x79),
        ("00FF5511", 0xB8),
        ("332255AABBCCDDEEFF", 0xCB),
        ("926B55", 0x8C),
        ("FFFFFFFF", 0x74),
    ],
)
def test_checksum_is_the_standards(data: str, crc: int):
    assert crc8_j1850(bytes.fromhex(data)) == crc


def test_what_is_sent_is_what_the_dbcs_own_tools_read():
    frame_id, data = CanCodec().encode(
        "COMMAND", {"Acceleration": -3.5, "SteeringAngle": 0.1234, "Engaged": 1, "EmergencyStop": 0}
    )
    read = cantools.database.load_file(str(SHIPPED_DBC)).decode_message(frame_id, data)
    assert (read["Acceleration"], read["SteeringAngle"]) == (pytest.approx(-3.5), pytest.approx(0.1234))
    assert (read["Engaged"], read["EmergencyStop"], read["Counter"]) == (1, 0, 0)


SENDER, RECEIVER = CanCodec(), CanCodec()  # to read a DBC takes longer than an example


@settings(deadline=None)
@given(
    st.floats(-20.0, 65.0),
    st.floats(-20.0, 20.0),
    st.floats(-3.2, 3.2),
)
def test_values_come_back_within_half_a_step(speed: float, acceleration: float, yaw_rate: float):
    values = {"Speed": speed, "Acceleration": acceleration, "YawRate": yaw_rate}
    decoded = RECEIVER.decode(*SENDER.encode("MOTION", values))
    assert decoded is not None
    assert decoded.message == "MOTION"
    for (name, value), step in zip(values.items(), (0.002, 0.001, 0.0001), strict=True):
        assert decoded.values[name] == pytest.approx(value, abs=0.5 * step + 1e-9)


def test_counter_goes_round_and_tells_what_was_lost():
    sender, receiver = CanCodec(), CanCodec()
    frames = [sender.encode("MOTION", MOTION) for _ in range(2 * COUNTER_VALUES)]
    lost = [receiver.decode(*frame) for frame in frames]
    assert [d.lost for d in lost if d] == [0] * len(frames)
    sender.encode("MOTION", MOTION)
    sender.encode("MOTION", MOTION)
    after = receiver.decode(*sender.encode("MOTION", MOTION))
    assert after is not None
    assert after.lost == 2
    assert not receiver.refused


def test_messages_have_counters_of_their_own():
    sender, receiver = CanCodec(), CanCodec()
    for _ in range(3):
        assert receiver.decode(*sender.encode("MOTION", MOTION))
    driver = receiver.decode(*sender.encode("DRIVER", DRIVER))
    assert driver is not None
    assert driver.lost == 0
    assert driver.values == DRIVER


def test_a_frame_that_comes_again_is_old():
    sender, receiver = CanCodec(), CanCodec()
    frame = sender.encode("MOTION", MOTION)
    assert receiver.decode(*frame)
    assert receiver.decode(*frame) is None
    assert receiver.refused == {"repeated": 1}
    receiver.reset()
    assert receiver.decode(*frame), "after a reset the first counter is taken as it is"


def test_every_flipped_bit_is_found():
    frame_id, data = CanCodec().encode("MOTION", MOTION)
    receiver = CanCodec()
    for bit in range(64):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert receiver.decode(frame_id, bytes(damaged)) is None, bit
    assert receiver.refused == {"checksum": 64}


@settings(deadline=None)
@given(
    st.integers(0, 0x7FF) | st.sampled_from((256, 512, 513, 528)),
    st.binary(max_size=64) | st.binary(min_size=8, max_size=8),
)
def test_any_bytes_are_decoded_or_refused(frame_id: int, data: bytes):
    before = RECEIVER.refused.total()
    decoded = RECEIVER.decode(frame_id, data)
    assert (decoded is None) == (RECEIVER.refused.total() == before + 1)
    if decoded is not None:
        assert all(math.isfinite(value) for value in decoded.values.values())


def forged(frame_id: int, data: bytearray) -> bytes:
    """The frame with a right checksum."""
    data[7] = 0
    data[7] = crc8_j1850(bytes((frame_id & 0xFF, frame_id >> 8)) + data)
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "cause"),
    [(1, 0x7F, "range"), (6, 0x0F, "counter")],  # 65.2 m/s; 15
)
def test_a_right_checksum_does_not_excuse_the_rest(at: int, value: int, cause: str):
    frame_id, data = CanCodec().encode("MOTION", MOTION)
    wrong = bytearray(data)
    wrong[at] = value
    receiver = CanCodec()
    assert receiver.decode(frame_id, forged(frame_id, wrong)) is None
    assert receiver.refused == {cause: 1}


def test_a_frame_of_one_message_is_not_another(tmp_path: Path):
    """The identifier is under the checksum."""
    _, data = CanCodec().encode("MOTION", MOTION)
    receiver = CanCodec()
    assert receiver.decode(513, data) is None
    assert receiver.decode(1, data) is None
    assert receiver.decode(512, data[:7]) is None
    assert receiver.refused == {"checksum": 1, "unknown": 1, "length": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, 66.0, -20.1])
def test_what_a_signal_cannot_carry_is_not_sent(value: float):
    with pytest.raises(CanError, match=re.escape("MOTION.Speed: expected -20 to 65, got")):
        CanCodec().encode("MOTION", MOTION | {"Speed": value})


def test_refusals_name_message_and_signal():
    codec = CanCodec()
    with pytest.raises(
        CanError, match="no message BRAKE; expected one of ATTITUDE, COMMAND, DRIVER, HEADING, MOTION, POSITION"
    ):
        codec.encode("BRAKE", {})
    with pytest.raises(CanError, match="MOTION has no signal Pace; expected one of Speed"):
        codec.encode("MOTION", MOTION | {"Pace": 1.0})
    with pytest.raises(CanError, match="MOTION: no value for Speed, YawRate"):
        codec.encode("MOTION", {"Acceleration": 0.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BU_: A\n", "defines no message"),
        ("", "not a usable DBC file"),
        ("BO_ 1", "not a usable DBC file"),
        ('BU_: A\nBO_ 1 M: 8 A\n SG_ Checksum : 4|8@1+ (1,0) [0|255] "" A\n', "M.Checksum: expected one whole byte"),
        ('BU_: A\nBO_ 1 M: 8 A\n SG_ Counter : 0|8@1+ (1,0) [0|14] "" A\n', "M.Counter: expected 4 bits, got 8"),
        (
            'BU_: A\nBO_ 1 M: 8 A\n SG_ X M : 0|2@1+ (1,0) [0|3] "" A\n SG_ Y m0 : 8|8@1+ (1,0) [0|9] "" A\n',
            "message M: multiplexed",
        ),
    ],
)
def test_unusable_dbc_files_are_refused_by_name(tmp_path: Path, text: str, message: str):
    file = tmp_path / "other.dbc"
    file.write_text(text)
    with pytest.raises(CanError, match=f"other.dbc: .*{message}"):
        CanCodec(file)
    with pytest.raises(CanError, match=r"none\.dbc: cannot be read"):
        CanCodec(tmp_path / "none.dbc")


def test_a_dbc_without_protection_is_read_as_it_is(tmp_path: Path):
    file = tmp_path / "plain.dbc"
    file.write_text('BU_: A\nBO_ 7 M: 2 A\n SG_ V : 0|16@1- (0.5,0) [-9|9] "m" A\n')
    sender, receiver = CanCodec(file), CanCodec(file)
    frame = sender.encode("M", {"V": 2.5})
    for _ in range(2):
        decoded = receiver.decode(*frame)
        assert decoded is not None
        assert decoded.values == {"V": 2.5}
        assert decoded.lost == 0


def test_the_shipped_bus_both_ways_at_every_signals_ends():
    sender, receiver = CanCodec(), CanCodec()
    database = cantools.database.load_file(str(SHIPPED_DBC))
    assert {m.name for m in database.messages} == {"COMMAND", "MOTION", "ATTITUDE", "POSITION", "HEADING", "DRIVER"}
    for message in database.messages:
        signals = [s for s in message.signals if s.name not in (COUNTER, CHECKSUM)]
        assert {COUNTER, CHECKSUM} < {s.name for s in message.signals}
        for end in ("minimum", "maximum"):
            values = {s.name: float(getattr(s, end)) for s in signals}
            frame_id, data = sender.encode(message.name, values)
            found = receiver.decode(frame_id, data)
            assert found is not None
            assert found.values == pytest.approx(values, abs=5e-3)
            plain = database.decode_message(frame_id, data, decode_choices=False)  # as any tool reads it
            assert {s.name: plain[s.name] for s in signals} == pytest.approx(values, abs=5e-3)
    assert not receiver.refused
