"""Where the live view goes: to a viewer that listens, to one that it opens, or nowhere, with the reason."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from visuomotor.launch.report import view


class FakeRerun:
    """Remembers what it was asked to open."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []

    def connect_grpc(self, url: str) -> None:
        self.calls.append(("connect", url))

    def spawn(self, *, port: int, memory_limit: str, executable_path: str | None) -> None:
        self.calls.append(("spawn", executable_path))
        if executable_path is None:
            raise RuntimeError("no such program\nlong advice")


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The viewers' port, for this test one that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    monkeypatch.setattr(view, "PORT", port)
    return port


def test_the_live_view_goes_to_a_viewer_that_listens(closed_port: int) -> None:
    rr = FakeRerun()
    with socket.create_server(("127.0.0.1", closed_port)):
        view.find_viewer(rr)
    assert rr.calls == [("connect", f"rerun+http://127.0.0.1:{closed_port}/proxy")]


def test_the_live_view_opens_the_viewer_beside_this_python(
    closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    rr = FakeRerun()
    with pytest.raises(ValueError, match=r"--view: Rerun's viewer did not start: no such program$"):
        view.find_viewer(rr)
    (tmp_path / "rerun").touch()
    view.find_viewer(rr)
    assert rr.calls == [("spawn", None), ("spawn", str(tmp_path / "rerun"))]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a screen")
def test_without_a_screen_the_live_view_says_how_to_see_it(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    rr = FakeRerun()
    with pytest.raises(ValueError, match=r"--view: there is no screen here .* --serve-web --bind 127.0.0.1"):
        view.find_viewer(rr)
    assert rr.calls == []
