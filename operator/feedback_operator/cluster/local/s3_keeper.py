"""Runs a server for as long as somebody uses it: started as a script by `embedded_s3`, with the standard library alone.

    python s3_keeper.py LOCK COMMAND...

Every user of the server holds a shared lock on the file LOCK. The kernel lets go of it however a user ends, so the
keeper gets the exclusive lock when the last one is gone, and then stops the server. If the keeper itself is killed, the
kernel stops the server (on Linux).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

STOP_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL."""
PR_SET_PDEATHSIG = 1


def keep(lock: Path, command: Sequence[str]) -> None:
    """Run `command` until nobody holds `lock`, or until it ends by itself."""
    keeper = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_keeper() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:  # it was killed before prctl
            os._exit(1)

    with lock.open("w") as users:
        server = subprocess.Popen(command, preexec_fn=end_with_keeper)  # noqa: PLW1509 (no threads yet)

        def end_with_server() -> None:
            os._exit(abs(server.wait()))

        threading.Thread(target=end_with_server, daemon=True).start()
        fcntl.flock(users, fcntl.LOCK_EX)
        server.terminate()
        threading.Timer(STOP_SECONDS, server.kill).start()
        server.wait()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2:])
