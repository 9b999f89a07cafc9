"""Conversations about pictures in LLaVA's JSON, as ShareGPT-4V and many others publish theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.data.drafts import Draft, Drafts, Published, embedded, rejected
from feedback_workloads.data.records import records
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.picture_texts import picture_in
from feedback_workloads.rows.rejected import BadRow, Rejected

MARK: Final = "<image>"
ASKS: Final = frozenset({"human", "user"})
OPTIONS: Final = {
    "turns": "first (the default): the first question of a conversation; all: each question by itself",
    "file": "name of the file of conversations, where there are several JSON files",
}


def rows(tree: Tree, options: Mapping[str, str]) -> Drafts:
    """Questions of conversations about one picture, with the answers as references.

    `id` is no name in these files (one picture has it several times), so rows are numbered as they stand.
    """
    turns = options.get("turns", "first")
    if turns not in {"first", "all"}:
        raise BadInput(f"the option turns is {turns!r}; give first or all")
    for row, (place, values) in enumerate(records(tree, [_file(tree, options.get("file"))]), 1):
        if isinstance(values, BadRow):
            yield rejected(place, values)
            continue
        try:
            for turn, draft in enumerate(_drafts(tree, str(row), values), 1):
                yield draft
                if turns == "first" and turn == 1:
                    break
        except BadRow as bad:
            yield rejected(place, bad)


def _file(tree: Tree, named: str | None) -> str:
    files = tree.need("file of conversations", *([named] if named else ["*.json", "*.jsonl"]))
    if len(files) > 1:
        raise BadInput(
            f"there are several JSON files, {files[0]} and {files[1]} among them; name one: --option file=NAME"
        )
    return files[0]


def _drafts(tree: Tree, id: str, values: Mapping[str, Any]) -> Iterator[Draft | Rejected]:
    path = _path(values)
    conversation = values.get("conversations")
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise BadRow("no-conversation", "the field 'conversations' is no list of turns")
    asked = [at for at, turn in enumerate(conversation) if turn.get("from") in ASKS]
    if not asked:
        raise BadRow("no-conversation", "nobody asks anything in it")
    for turn, at in enumerate(asked, 1):
        question = str(conversation[at].get("value") or "").replace(MARK, "").strip()
        answer = conversation[at + 1].get("value") if at + 1 < len(conversation) else None
        own = id if turn == 1 else f"{id}-{turn}"
        if not question:
            yield Rejected(own, None, "empty-question", f"turn {turn} asks nothing")
            continue
        columns = {"question": question, "reference": str(answer).strip() if answer else None}
        yield Draft(own, embedded(tree, path), path if picture_in(path) is None else None, columns)


def _path(values: Mapping[str, Any]) -> str:
    found = values.get("image")
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    match found:
        case None | "" | []:
            raise BadRow("text-only", "the conversation is about no picture")
        case str():
            return found
        case list():
            raise BadRow("several-pictures", f"the conversation is about {len(found)} pictures")
    raise BadRow("wrong-type", f"the field 'image' is {type(found).__name__}, not text")


SHAREGPT4V = Published(
    title="ShareGPT-4V",
    home="https://huggingface.co/datasets/Lin-Chen/ShareGPT4V",
    licence="cc-by-nc-4.0",
    terms="CC BY-NC 4.0, and OpenAI's terms of use, since GPT-4V wrote it; each picture under its own source's terms",
    files="one of its JSON files and the data root with coco/, sam/, llava/, wikiart/ and so on",
    kind="instructions",
    rows=rows,
    options=OPTIONS,
)
LLAVA = Published(
    title="LLaVA-format JSON",
    home="https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md",
    licence="other",
    terms="those of whoever made the file",
    files="JSON or JSON lines of {id, image, conversations} and the pictures that it names",
    kind="instructions",
    rows=rows,
    options=OPTIONS,
)
