"""Models and data sets from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from feedback_workloads.contract import BadInput, Temporary


def fetch(uri: str, revision: str | None, ignored: Sequence[str] = ()) -> Path:
    """Return the local snapshot of `hf://owner/name`, or `hf://datasets/owner/name`, at `revision`.

    Files whose names match one of the patterns `ignored` need not be in it.

    The hub's own client keeps it, verified, below HF_HOME. Raises BadInput where the hub has no such thing for this
    user, and Temporary where it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = uri.removeprefix("hf://")
    kind = "dataset" if name.startswith("datasets/") else "model"
    try:
        return Path(
            snapshot_download(
                name.removeprefix("datasets/"), repo_type=kind, revision=revision, ignore_patterns=list(ignored)
            )
        )
    except LocalEntryNotFoundError as error:
        raise Temporary(
            f"the Hugging Face hub cannot be reached for {uri}; check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code == 429:
            raise Temporary(
                f"the Hugging Face hub failed on {uri} (HTTP {error.response.status_code}); try again later"
            ) from error
        raise _unknown(uri, revision) from error
    except HFValidationError as error:
        raise _unknown(uri, revision) from error


def _unknown(uri: str, revision: str | None) -> BadInput:
    return BadInput(
        f"the Hugging Face hub has no {uri} at revision {revision or 'main'} for this user; "
        "mend the URI or the revision, or set HF_TOKEN"
    )
