"""`python -m feedback_workloads.report.push`: an iteration's policy and pairs as folders, or repositories on the hub.

Each loads with one line: the policy in transformers (or peft) and vLLM, the pairs in datasets. Beside the weights are
the report, its figures, and the iteration from which the same can be made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from feedback_workloads.contract import MANIFEST_NAME, Artifact, BadInput, Source, Temporary
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.process.commands import ended, run
from feedback_workloads.report.cards import Made, Origin, dataset_card, model_card
from feedback_workloads.report.evidence import gather
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.parts import is_part

REPORT: Final = ("report.html", "summary.json", "iteration.json")
ON_HUB: Final = "hf://"
CARD: Final = "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish, and say where."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.report.push", description=__doc__)
    parser.add_argument("--result", type=Path, required=True, help="folder of a finished run, with its iteration.json")
    parser.add_argument("--to", required=True, help="hf://owner/name, or a folder that is not there yet")
    parser.add_argument("--public", action="store_true", help="make repositories on the hub that all can see")
    given = parser.parse_args(arguments)
    return ended("push", partial(_push, given))


def _push(given: argparse.Namespace) -> None:
    for place in publish(given.result, given.to, ArtifactStore.from_environment(), public=given.public):
        sys.stdout.write(f"{place}\n")


def publish(result: Path, to: str, store: ArtifactStore, *, public: bool = False) -> list[str]:
    """Publish policy and pairs of the run in `result`; where they are.

    To a folder: `policy` and `pairs` within it, all or nothing. To the hub: the repositories `owner/name` and
    `owner/name-pairs`, each in one commit. Raises BadInput where the run has no aligned policy, where the folder is
    there already, and where the hub refuses.
    """
    iteration = Iteration.read(result / "iteration.json")
    for file in REPORT:
        if not (result / file).exists():
            raise BadInput(f"{result}: there is no {file} in it; run it to its end first")
    if iteration.status.aligned is None:
        raise BadInput(f"{result}: the run has no aligned policy to publish; run it to its end first")
    name = to.removeprefix(ON_HUB)
    with _made_whole(Path(to)) if not to.startswith(ON_HUB) else tempfile.TemporaryDirectory() as folder:
        policy, pairs = Path(folder) / "policy", Path(folder) / "pairs"
        made = _collect(iteration, iteration.status.aligned, store, policy, pairs)
        for file in REPORT:
            _place(result / file, policy / file)
        names = (f"{to}/policy", f"{to}/pairs") if not to.startswith(ON_HUB) else (name, f"{name}-pairs")
        (policy / CARD).write_text(model_card(made, *names), encoding="utf-8")
        (pairs / CARD).write_text(dataset_card(made, names[1]), encoding="utf-8")
        if not to.startswith(ON_HUB):
            return list(names)
        message = f"Iteration {iteration.metadata.name}"
        return [
            _upload(policy, names[0], "model", message, public=public),
            _upload(pairs, names[1], "dataset", message, public=public),
        ]


@contextmanager
def _made_whole(target: Path) -> Iterator[str]:
    """A folder beside `target` that becomes it at the end of the block, and is gone where that is left early."""
    if target.exists():
        raise BadInput(f"{target} is there already; name a folder that is not, or remove it yourself")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        inside = Path(folder) / "whole"
        inside.mkdir()
        yield str(inside)
        inside.rename(target)


def _collect(iteration: Iteration, aligned: Artifact, store: ArtifactStore, policy: Path, pairs: Path) -> Made:
    """Put the files of the policy and of its pairs into these folders."""
    base = _origin(iteration.status.model.source if iteration.status.model else None, store)
    _copy(store.download(aligned), policy)
    adapter = (policy / ADAPTER_CONFIG).exists()
    if adapter and base.on_hub:
        _name_base(policy / ADAPTER_CONFIG, base.on_hub)
    pairing = iteration.stage("pairing")
    number, conversations = 0, False
    for artifact in pairing.artifacts if pairing else ():
        folder = store.download(artifact)
        for file in sorted(file for file in folder.iterdir() if is_part(file.name)):
            _place(file, pairs / "data" / f"train-{number:05d}.parquet")
            number += 1
            conversations |= "messages" in pq.read_schema(file).names
    return Made(
        iteration=iteration,
        scores=gather(iteration, store).scores,
        policy=aligned,
        base=base,
        labeler=labeler_of(iteration, base, store),
        pairs=pairing.count("rows") if pairing else 0,
        adapter=adapter,
        conversations=conversations,
        published=_origin(source, store) if (source := _source(iteration, "pairs", "source")) else None,
    )


def _name_base(file: Path, name: str) -> None:
    """Name the base in an adapter's configuration as peft looks for it. The file may be a link to that of the cache."""
    config = json.loads(file.read_text()) | {"base_model_name_or_path": name}
    file.unlink()
    file.write_text(json.dumps(config, indent=2) + "\n")


def _source(iteration: Iteration, *path: str) -> Source | None:
    """The source that stands there in the spec; None where there is none."""
    given = iteration.given(*path)
    return Source(uri=given["uri"], revision=given.get("revision"), sha256=given.get("sha256")) if given else None


def labeler_of(iteration: Iteration, policy: Origin, store: ArtifactStore) -> Origin:
    """Who labelled: a model of its own, one behind an API, or the policy."""
    if api := iteration.given("labeling", "api"):
        return Origin(f"{api['model']} at {api['url']}")
    if iteration.given("labeling", "model", "from"):
        return policy
    return _origin(_source(iteration, "labeling", "model"), store)


def _origin(source: Source | None, store: ArtifactStore) -> Origin:
    """Where a model is from, with the licence that its own card names, if it can be looked at and has one."""
    from huggingface_hub import ModelCard

    if source is None:
        return Origin("unknown")
    try:
        card = store.download(source, weights=False) / CARD
        licence = ModelCard.load(card).data.license if card.exists() else None
    except (BadInput, Temporary, ValueError):
        licence = None
    return Origin(source.uri, licence)


def _copy(folder: Path, to: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.name != MANIFEST_NAME:
            _place(file, to / file.relative_to(folder))


def _place(file: Path, to: Path) -> None:
    """Link a file that lies on the same disk; copy it otherwise."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), to)
    except OSError:
        shutil.copyfile(file, to)


def _upload(folder: Path, name: str, kind: str, message: str, *, public: bool) -> str:
    """Upload a folder in one commit; the address of the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    api = HfApi()
    try:
        address = api.create_repo(name, repo_type=kind, visibility="public" if public else "private", exist_ok=True)
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder, commit_message=message)
    except HFValidationError as error:
        raise BadInput(f"{name!r} is no name of a repository: {error}; give --to hf://owner/name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise Temporary(f"the Hugging Face hub failed on {name} (HTTP {status}); try again later") from error
        raise BadInput(
            f"the Hugging Face hub refused to take {name} (HTTP {status}): {error.server_message or error}; set "
            "HF_TOKEN to a token that may write there"
        ) from error
    except (HTTPError, OSError) as error:
        raise Temporary(f"the Hugging Face hub cannot be reached for {name}: {error}; try again later") from error
    return str(address)


if __name__ == "__main__":
    run(main)
