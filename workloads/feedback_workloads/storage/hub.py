"""Models and data sets from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput, Temporary

LOOK_SECONDS: Final = 20


def fetch(uri: str, revision: str | None, ignored: Sequence[str] = ()) -> Path:
    """Return the local snapshot of `hf://owner/name`, or `hf://datasets/owner/name`, at `revision`.

    Files whose names match one of the patterns `ignored` need not be in it.

    The hub's own client keeps it, verified, below HF_HOME. Raises BadInput where the hub has no such thing for this
    user, and Temporary where it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, kind = _named(uri)
    with _sentences(uri, revision):
        return Path(snapshot_download(name, repo_type=kind, revision=revision, ignore_patterns=list(ignored)))


def size(uri: str, revision: str | None) -> int:
    """Bytes of all that `fetch` would fetch. Raises what it would; fetches nothing."""
    from huggingface_hub import HfApi

    name, kind = _named(uri)
    with _sentences(uri, revision):
        asked = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
        found = asked(name, revision=revision, timeout=LOOK_SECONDS, files_metadata=True)
    sizes: list[int] = [file.size or 0 for file in found.siblings or ()]
    return sum(sizes)


def _named(uri: str) -> tuple[str, str]:
    """Name and kind of a repository."""
    name = uri.removeprefix("hf://")
    return name.removeprefix("datasets/"), "dataset" if name.startswith("datasets/") else "model"


@contextmanager
def _sentences(uri: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into BadInput or Temporary."""
    from httpx import TransportError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (LocalEntryNotFoundError, TransportError, ConnectionError) as error:
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
