"""A node's process: it ends with its parent, whatever happens to that, and leaves Ctrl-C to the supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from types import FrameType

PR_SET_PDEATHSIG = 1
POLL_S = 0.2


def live_with_parent(parent_pid: int, grace_s: float = 5.0) -> threading.Event:
    """Event that is set when this process shall stop: on SIGTERM, which the kernel also sends when the parent dies.

    A node that is stuck is killed ``grace_s`` after its parent died, so that no orphan stays. SIGINT is ignored: the
    terminal sends it to the whole group, but the order of stopping is the supervisor's. Call from the main thread,
    first thing; ``parent_pid`` is what the parent gave as its own.
    """
    stop = threading.Event()

    def on_term(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(POLL_S)
        stop.set()  # also when the parent had died before prctl
        time.sleep(grace_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return stop
