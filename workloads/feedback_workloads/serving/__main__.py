"""`python -m feedback_workloads.serving`: see settings.py for the flags.

Imports nothing heavy before it is called: vLLM's own processes import this module again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from feedback_workloads.contract import BadInput, ExitCode, Temporary

LOG = logging.getLogger("feedback_workloads.serving")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code (see `ExitCode`)."""
    from feedback_workloads.models.sources import fetch
    from feedback_workloads.process.ending import end_with_parent
    from feedback_workloads.serving.intake.listening import listen
    from feedback_workloads.serving.settings import read_settings
    from feedback_workloads.storage.artifacts import ArtifactStore

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _terminate)  # until the server has its own way to end
    end_with_parent()
    try:
        settings = read_settings(arguments)
        listening = listen(settings.host, settings.port)
        store = ArtifactStore.from_environment()
        reference = fetch(store, settings.reference, settings.policy.uri, LOG.info)
        policy = fetch(store, settings.policy, settings.policy.uri, LOG.info, merged=False)
        # Takes as long as loading a small model: after everything that can be wrong before it.
        from feedback_workloads.serving.server import serve

        return asyncio.run(serve(settings, policy, reference, listening))
    except BadInput as error:
        sys.stderr.write(f"serving: {error}\n")
        return ExitCode.BAD_INPUT
    except Temporary as error:
        sys.stderr.write(f"serving: {error}\n")
        return ExitCode.TEMPORARY


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(ExitCode.TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
