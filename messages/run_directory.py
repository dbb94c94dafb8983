"""The directory of one run: locked against a second run, short paths for sockets, nothing left behind.

Sockets need paths below 107 characters (``sun_path``); when the run directory's is too long they live in a short
directory under the temporary one. A run that was killed leaves its sockets behind: the next run clears them, because
only it can hold the lock that the dead one lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from visuomotor.messages.wiring import MAX_SOCKET_NAME

LOCK_NAME = "visuomotor.lock"
SOCKETS_NAME = "vm.sock"  # a name that nobody else gives a folder: it is emptied at the start
# sun_path less the separator and the longest socket name
MAX_SOCKETS_PATH = 107 - 1 - MAX_SOCKET_NAME


class RunDirectoryError(ValueError):
    """A run directory that cannot be used: another run has it, or it cannot be written."""


class RunDirectory:
    """Directory of one run, held from construction to ``close``; also a context manager.

    Without ``path`` it is a new directory under the temporary one, removed at the end. With ``path`` the directory and
    what else is in it stay. Raises RunDirectoryError when another run holds it.
    """

    def __init__(self, path: Path | None = None) -> None:
        base = _private_base()
        self._own = path is None
        with _locked(base / LOCK_NAME):  # nobody clears a directory that is being made
            _clear_stale(base)
            self.path = Path(tempfile.mkdtemp(prefix="run-", dir=base)) if path is None else path.absolute()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = _take_lock(self.path / LOCK_NAME)
            except OSError as error:
                raise RunDirectoryError(f"{self.path}: run directory cannot be used ({error.strerror})") from error
            if self._lock < 0:
                raise RunDirectoryError(f"{self.path}: run directory is in use by another run; give each run its own")
            try:
                self.sockets = self._make_sockets(base)
            except BaseException:
                os.close(self._lock)
                raise

    def _make_sockets(self, base: Path) -> Path:
        near = self.path / SOCKETS_NAME
        if near.is_symlink():  # of a killed run with a long path; its target was cleared with the stale ones
            near.unlink()
        shutil.rmtree(near, ignore_errors=True)
        if len(os.fsencode(near)) <= MAX_SOCKETS_PATH:
            near.mkdir(mode=0o700)
            return near
        self._far_lock = -1
        far = Path(tempfile.mkdtemp(prefix="s-", dir=base))
        if len(os.fsencode(far)) > MAX_SOCKETS_PATH:
            far.rmdir()
            raise RunDirectoryError(
                f"{far}: too long for sockets (at most {MAX_SOCKETS_PATH} bytes); set TMPDIR shorter"
            )
        self._far_lock = _take_lock(far / LOCK_NAME)
        near.symlink_to(far)
        return far

    def close(self) -> None:
        """Remove the sockets (and the directory, when it was made for this run) and give up the lock."""
        if self._lock < 0:
            return
        shutil.rmtree(self.sockets, ignore_errors=True)
        far_lock = getattr(self, "_far_lock", -1)
        if far_lock >= 0:
            (self.path / SOCKETS_NAME).unlink(missing_ok=True)
            os.close(far_lock)
        if self._own:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _private_base() -> Path:
    """``<temporary directory>/vm-<uid>``, ours alone: whoever can write there can speak on the bus."""
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) > MAX_SOCKETS_PATH - 24:
        temporary = Path("/tmp")
    base = temporary / f"vm-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise RunDirectoryError(f"{base}: cannot be made ({error.strerror})") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RunDirectoryError(f"{base}: expected a directory of user {os.getuid()} with mode 700")
    return base


def _take_lock(path: Path, *, wait: bool = False) -> int:
    """Descriptor of the locked file, or -1 when another process holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held, named = os.fstat(descriptor), os.stat(path)
        except BlockingIOError:
            os.close(descriptor)
            return -1
        except FileNotFoundError:  # its last holder removed it between open and lock
            os.close(descriptor)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _take_lock(path, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def _clear_stale(base: Path) -> None:
    """Remove directories of killed runs: those whose lock nobody holds."""
    for directory in base.iterdir():
        if directory.is_symlink() or not directory.is_dir():
            continue
        lock = _take_lock(directory / LOCK_NAME)
        if lock >= 0:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)
