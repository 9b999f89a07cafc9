"""What transformers says of an answer, by a model's own processor and its plain forward pass: nothing of ours but how a
picture is prepared before the processor has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, PreTrainedModel

from feedback_workloads.models.family import Family

PER_TOKEN = {"attention_mask": 1, "mm_token_type_ids": 0}
"""What a processor says of each token beside its id, and what that is for a token of an answer."""


def load(folder: Path, adapter: Path | None = None) -> PreTrainedModel:
    """A model in float32, with an adapter on it."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()


@dataclass(frozen=True)
class Chat:
    """Turns, and the encoded pictures in them."""

    messages: Sequence[Mapping[str, Any]]
    pictures: Sequence[bytes]


def about(question: str, picture: bytes) -> Chat:
    """A question about a picture, which comes first."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return Chat([{"role": "user", "content": content}], [picture])


def chat(family: Family, question: str) -> str:
    """The text of a question about a picture, up to where the answer begins, as the template has it."""
    return _text(family, about(question, b""))


def _text(family: Family, asked: Chat) -> str:
    said = list(asked.messages)
    text: str = family.processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return text


def processed(family: Family, questions: Sequence[str], pictures: Sequence[bytes]) -> dict[str, Any]:
    """All that the processor makes of questions, each with its picture, padded on the right."""
    return processed_chats(family, list(map(about, questions, pictures)))


def processed_chats(family: Family, chats: Sequence[Chat]) -> dict[str, Any]:
    """All that the processor makes of chats with their pictures, padded on the right."""
    texts = [_text(family, one) for one in chats]
    bos = family.tokenizer.bos_token
    return dict(
        family.processor(
            text=texts,
            images=[list(map(family.picture, one.pictures)) for one in chats],
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
    )


def logps(model: PreTrainedModel, family: Family, question: str, picture: bytes, answer: Sequence[int]) -> torch.Tensor:
    """Those of `logps_in` for a question about a picture."""
    return logps_in(model, family, about(question, picture), answer)


def logps_in(model: PreTrainedModel, family: Family, asked: Chat, answer: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of all tokens after the prompt and after each token of the answer: (answer + 1, tokens)."""
    given = processed_chats(family, [asked])
    prompt = given["input_ids"].shape[1]
    ids = torch.tensor([list(answer)], dtype=torch.long)
    for name, value in PER_TOKEN.items():
        if name in given:
            given[name] = torch.cat([given[name], torch.full_like(ids, value, dtype=given[name].dtype)], dim=1)
    given["input_ids"] = torch.cat([given["input_ids"], ids], dim=1)
    return model(**given).logits[0, prompt - 1 :].float().log_softmax(-1)


def of_answer(
    model: PreTrainedModel, family: Family, question: str, picture: bytes, answer: Sequence[int]
) -> list[float]:
    """Log-probabilities of the tokens of an answer to a question about a picture."""
    return of_answer_in(model, family, about(question, picture), answer)


def of_answer_in(model: PreTrainedModel, family: Family, asked: Chat, answer: Sequence[int]) -> list[float]:
    """Log-probabilities of an answer's tokens."""
    with torch.no_grad():
        found = logps_in(model, family, asked, answer)
    return [found[i, token].item() for i, token in enumerate(answer)]
