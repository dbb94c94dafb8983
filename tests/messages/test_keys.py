"""Key files: made once, secret from their first byte on, refused when anything about them is not as it should be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth

from visuomotor.messages.keys import KeyFileError, load_pair, load_public, make_keys, public_file, secret_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["car", "gpu-box"])
    return tmp_path / "keys"


def test_keys_are_made_with_the_modes_they_need_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_keys(tmp_path / "keys", ["car", "gpu-box"])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {"car.key": 0o644, "car.key_secret": 0o600, "gpu-box.key": 0o644, "gpu-box.key_secret": 0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_pair_belongs_together_and_zeromq_reads_it(folder: Path) -> None:
    pair = load_pair(folder, "car")
    assert zmq.curve_public(pair.secret) == pair.public == load_public(folder, "car")
    assert zmq.auth.load_certificate(secret_file(folder, "car")) == (pair.public, pair.secret)
    assert pair.secret.decode() not in f"{pair} {pair!r}"
    assert pair.secret not in public_file(folder, "car").read_bytes()
    assert load_pair(folder, "gpu-box").public != pair.public


@pytest.mark.parametrize("half", [public_file, secret_file])
def test_a_file_that_exists_is_not_replaced(folder: Path, half: object) -> None:
    path = half(folder, "car")  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        make_keys(folder, ["new", "car"])
    assert path.read_bytes() == before
    assert not public_file(folder, "new").exists(), "all or nothing"


def test_a_name_given_twice_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="'car': expected each host once, got it 2 times"):
        make_keys(tmp_path / "keys", ["car", "gpu-box", "car"])
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("name", ["", "Car", "../car", "a b", "-a", "x" * 33])
def test_names_that_are_no_hosts(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="expected a name of a host like gpu-box"):
        make_keys(tmp_path, [name])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_secret_key_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    secret_file(folder, "car").chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:o}, so others can read it; expected 600"):
        load_pair(folder, "car")


def test_what_is_no_key_file_is_named(folder: Path) -> None:
    secret, other = secret_file(folder, "car"), secret_file(folder, "gpu-box")
    whole = secret.read_text()
    for text, complaint in [
        ("", "not a key file; expected"),
        (whole[: whole.index("secret-key")], "holds no secret key"),
        (whole[:-10], "holds no secret key"),
        ('public-key = "short"', "its public key has 5 characters, expected 40"),
        (other.read_text(), "does not belong to the public one"),
        (whole.replace(whole[-44:-2], other.read_text()[-44:-2]), "does not belong to the public one"),
    ]:
        secret.write_text(text)
        with pytest.raises(KeyFileError, match=complaint) as caught:
            load_pair(folder, "car")
        assert str(secret) in str(caught.value)
    with pytest.raises(KeyFileError, match=r"laptop.key: cannot be read"):
        load_public(folder, "laptop")
