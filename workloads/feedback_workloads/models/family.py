"""Everything in which models differ, asked through one protocol. A family is one file beside this one, or
one folder where it brings a network of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from feedback_workloads.contract import Model
from feedback_workloads.rows.conversations import Message

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel

Capability = Literal["sample", "label", "split", "train", "share-prompts", "lora", "several-pictures"]
"""What a model can be used for: to answer about pictures, to judge claims about them, to divide answers; to be trained,
with both answers of a pair in one row, or as an adapter; to see more than one picture in a prompt."""

MOST_PICTURES: Final = 64
"""In a prompt of a model that sees several; vLLM reserves nothing for them, and has to have a limit."""

Purpose = Literal["answer", "verdict"]
"""What the next answer of a chat is for: to be read as a whole, or for its first token, which must not be a thought."""

Config = Mapping[str, Any]
"""The content of a model's config.json."""

Features = Mapping[str, "torch.Tensor"]
"""What a model is given of its pictures beside their tokens, by the names of its forward pass: `pixel_values`, ..."""


@dataclass(frozen=True)
class Rendering:
    """How a template writes a chat, in Hugging Face's words: with the header of an answer behind it, or with its last
    message left open, which is then gone on with; `variables` are what the template reads besides."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


AS_USUAL: Final = Rendering()
"""Up to where the next answer begins."""


@dataclass(frozen=True)
class Shown:
    """A picture of a prompt, as the processor is to have it.

    `key` names its content: prompts that share it share the picture's preparation and their prefix. The model sees
    `tokens` in place of its one token.
    """

    picture: Image.Image
    key: str
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """Tokens up to where the answer begins, with one unexpanded picture token for each picture that is shown."""

    ids: Sequence[int]
    shown: tuple[Shown, ...] = ()

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """What is shown, in the order of its tokens."""
        return tuple(one.picture for one in self.shown)

    @property
    def length(self) -> int:
        """Number of tokens that the model sees."""
        return len(self.ids) + sum(one.tokens - 1 for one in self.shown)


class Family(Protocol):
    """The model in `folder`, as its family does things.

    It is made from config.json alone; tokenizer and processor are read when they are first needed. Pictures and prompts
    of all stages and of the server come through here: what is prepared in one way for sampling and in another for
    training makes the sampler's log-probabilities meaningless as references.
    """

    folder: Path
    config: Config
    model: Model
    """What was named: where the folder is from, and what is said of it beyond its files."""

    def __init__(self, folder: Path, config: Config, model: Model | None = None) -> None: ...

    @classmethod
    def recognises(cls, config: Config) -> bool:
        """Whether a model of this config.json is of this family."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can be used for."""
        ...

    @property
    def processor(self) -> Any:
        """Its own processor. Raises BadInput where the folder has none, or no chat template."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its own tokenizer. Raises BadInput as `processor` does."""
        ...

    # ── what it is asked, and what it says ───────────────────────────────────────────────────────────────────────────

    def message(self, text: str, role: str = "user") -> Message:
        """What somebody says without a picture, as the template takes it."""
        ...

    def chat_ids(
        self, messages: Sequence[Message], purpose: Purpose = "answer", rendering: Rendering = AS_USUAL
    ) -> list[int]:
        """Tokens of a chat up to where the next answer begins, with one token a picture, not expanded.

        A chat that has no system prompt begins with that of `model`, where there is one.
        Where the template can tell the model not to think first, it does; where it opens a thought all the same, that
        is closed again for a verdict. Raises jinja2's TemplateError, ValueError or TypeError where the template cannot
        write the chat.
        """
        ...

    def reads(self, name: str) -> bool:
        """Whether its chat template reads a variable that is nobody else's to set."""
        ...

    def prompt_ids(self, question: str, purpose: Purpose = "answer") -> list[int]:
        """Tokens of a one-turn chat, picture first. Raises BadRow `picture-token` where the question spells one."""
        ...

    def prompt(self, question: str, data: bytes, purpose: Purpose = "answer") -> Prompt:
        """What to ask about an encoded picture. Raises BadRow where the picture or the question is no good."""
        ...

    def conversation_ids(self, messages: Sequence[Message], purpose: Purpose = "answer") -> list[int]:
        """Tokens of a chat that shows pictures, one token a picture, not expanded.

        Raises BadRow `picture-token` where the template writes more or fewer of them, as where a text spells one, and
        `template-refused` where it does not write the chat at all.
        """
        ...

    def show(self, pictures: Sequence[bytes]) -> tuple[Shown, ...]:
        """Encoded pictures of one prompt. Raises BadRow where one is no good, `too-many-pictures` for too many."""
        ...

    def conversation(self, messages: Sequence[Message], pictures: Sequence[bytes]) -> Prompt:
        """What is asked in a chat that shows encoded pictures. Raises BadRow as `conversation_ids` and `show`."""
        ...

    def text_prompt(self, text: str) -> Prompt:
        """A one-turn chat without a picture."""
        ...

    def answer_ids(self, text: str) -> list[int]:
        """Tokens of a whole answer that is given as text, with the one that ends it."""
        ...

    def token_bytes(self, id: int) -> bytes | None:
        """What a token adds to a text, in UTF-8, perhaps a part of a character; None of a special token."""
        ...

    def spoken(self, text: str) -> str | None:
        """What is said after thinking; None where the thought has no end. The whole of who does not think aloud."""
        ...

    def answer(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens and thoughts. Raises BadRow `unfinished-reasoning`."""
        ...

    @property
    def thinks(self) -> bool:
        """Whether an answer begins with a thought, which its template opens whatever it is told."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    @property
    def pad_id(self) -> int:
        """What rows of a batch are filled up with."""
        ...

    @property
    def image_token_id(self) -> int:
        """The token that stands for a picture, and in an expanded prompt for each of its features."""
        ...

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that must not be sampled: within an answer, a model would look for a picture behind them."""
        ...

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Every token that is `word` alone: in any case, with or without a leading space as tokenizers write it."""
        ...

    # ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def most_pictures(self) -> int:
        """How many pictures a prompt may show."""
        ...

    def picture(self, data: bytes) -> Image.Image:
        """An encoded picture as the processor is to have it. Raises BadRow."""
        ...

    def image_tokens(self, picture: Image.Image) -> int:
        """Number of tokens that the model sees in place of one picture token. Raises BadRow `picture-refused`."""
        ...

    def expand(self, ids: Sequence[int], *pictures: Image.Image) -> list[int]:
        """A prompt as the model sees it, each picture token replaced by what stands for its picture."""
        ...

    def features(self, picture: Image.Image) -> Features:
        """What the model is given of one picture."""
        ...

    def collate(self, pictures: Sequence[Features]) -> Features:
        """The features of several pictures, as a forward pass over their rows takes them: row by row, and within a
        row in the order of its tokens."""
        ...

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def positions(
        self, backbone: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """Positions of the tokens of rows that are padded on the right and have the pictures of `features`.

        `input_ids` and `attention_mask` have shape (rows, tokens), and so has the result, or (axes, rows, tokens) where
        a position has several coordinates.
        """
        ...

    def freeze(self, model: PreTrainedModel) -> None:
        """Leave to training what the paper trains: language model and projector, not the vision tower."""
        ...

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        """Names of the linear layers that an adapter changes: those of the language model, all but lm_head."""
        ...

    # ── engine and files ─────────────────────────────────────────────────────────────────────────────────────────────

    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM's `EngineArgs` have to say for this family."""
        ...

    def saved_name(self, name: str) -> str:
        """The name under which a weight that transformers saves as `name` is to lie in a file, for vLLM to find it."""
        ...
