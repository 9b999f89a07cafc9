"""What most families do alike, from a model's own processor, and how models of text alone do it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from feedback_workloads.contract import BadInput, Model
from feedback_workloads.models.family import (
    AS_USUAL,
    MOST_PICTURES,
    Capability,
    Config,
    Features,
    Prompt,
    Purpose,
    Rendering,
    Shown,
)
from feedback_workloads.models.overrides import code_of
from feedback_workloads.models.pictures import load_picture, picture_key
from feedback_workloads.models.token_bytes import reading_of
from feedback_workloads.rows.conversations import Message, asked, places
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel

THOUGHT: Final = "<think>"
THOUGHT_END: Final = "</think>"
"""How models that think aloud mark it, in the templates of Qwen3 and of those who follow it."""

FULL_ATTENTION: Final = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "qwen3_vl_text"}  # as transformers names them
)
"""Decoders whose every layer heeds a mask that says which tokens see which, and whose adapters vLLM serves as they were
trained. Others may have layers that hand on a state from token to token: in one row, the answers of a pair would see
each other, silently, so they get two."""


class Standard:
    """A family whose own processor and template say all that is asked: a multimodal model of any type.

    What is trained is a subclass: it has been seen to train, and has a test that transformers, vLLM and the trainer
    agree about it.
    """

    TYPES: ClassVar[tuple[str, ...]] = ()
    """`model_type` in config.json; a subclass that has some can be trained."""
    DECODER: ClassVar[str] = ""
    """`model_type` of the language model where config.json does not say it."""
    PROJECTORS: ClassVar[tuple[str, ...]] = ()
    """Names of modules within the vision tower that are the projector."""
    SEVERAL_PICTURES: ClassVar[bool] = False
    """Whether its authors trained it on more than one picture in a prompt, and transformers and vLLM agree on them."""

    def __init__(self, folder: Path, config: Config, model: Model | None = None) -> None:
        self.folder = folder
        self.config = config
        self.model = model or Model(uri=str(folder))
        self._counts: dict[tuple[int, int], int] = {}

    @classmethod
    def recognises(cls, config: Config) -> bool:
        """Whether config.json names one of `TYPES`."""
        return config.get("model_type") in cls.TYPES

    @classmethod
    def described(cls) -> str:
        """Which models are of this family, for people."""
        return " or ".join(cls.TYPES)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All but training for any type; that for those of `TYPES`, and all of it with decoders that are known."""
        found: set[Capability] = {"sample", "label", "split"}
        if self.TYPES:
            found.add("train")
            if (self.config.get("text_config") or {}).get("model_type", self.DECODER) in FULL_ATTENTION:
                found |= {"share-prompts", "lora"}
        if self.SEVERAL_PICTURES:
            found.add("several-pictures")
        return frozenset(found)

    @cached_property
    def processor(self) -> Any:
        """Its own processor. Raises BadInput where the folder has none, or no chat template."""
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=self.model.trust_remote_code)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self.folder} has no multimodal processor; {self._remedy('save one beside the weights')} ({error})"
            ) from error
        processor.chat_template = self.model.chat_template or processor.chat_template
        if getattr(processor, "image_processor", None) is None:
            raise BadInput(f"{self.folder} is a text model without an image processor; name a multimodal model")
        if not processor.chat_template:
            raise BadInput(
                f"{self.folder} has no chat template; give one as chatTemplate, or save chat_template.jinja beside the "
                "processor"
            )
        return processor

    @property
    def tokenizer(self) -> Any:
        """Its own tokenizer. Raises BadInput as `processor` does."""
        return self.processor.tokenizer

    def _remedy(self, otherwise: str) -> str:
        """What to do about a part that cannot be loaded."""
        if code_of(self.folder) and not self.model.trust_remote_code:
            return "it is code that comes with the model, and is not run unless trustRemoteCode is true"
        return otherwise

    # ── what it is asked, and what it says ───────────────────────────────────────────────────────────────────────────

    def chat_ids(
        self, messages: Sequence[Message], purpose: Purpose = "answer", rendering: Rendering = AS_USUAL
    ) -> list[int]:
        """Tokens of a chat up to where the next answer begins, with one token a picture, not expanded."""
        text = self._chat(messages, purpose, rendering)
        bos = self.tokenizer.bos_token
        starts_with_bos = bos is not None and text.startswith(bos)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_with_bos)["input_ids"]
        return ids

    def _chat(self, messages: Sequence[Message], purpose: Purpose, rendering: Rendering = AS_USUAL) -> str:
        """The text of a chat up to where the next answer begins."""
        template = self._templated.chat_template
        # Others would warn of it at every prompt.
        switches = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        said = list(messages)
        if self.model.system_prompt is not None and not any(message["role"] == "system" for message in said[:1]):
            said.insert(0, self.message(self.model.system_prompt, "system"))
        text: str = self._templated.apply_chat_template(
            said,
            add_generation_prompt=rendering.add_generation_prompt,
            continue_final_message=rendering.continue_final_message,
            tokenize=False,
            **{**switches, **rendering.variables},
        )
        if purpose == "verdict" and text.rstrip().endswith(THOUGHT):
            return f"{text.rstrip()}\n\n{THOUGHT_END}\n\n"
        return text

    def reads(self, name: str) -> bool:
        """Whether its chat template reads a variable that is nobody else's to set."""
        templated = self._templated
        taken = {"messages", *inspect.signature(templated.apply_chat_template).parameters}
        taken |= set(self.tokenizer.special_tokens_map)
        return name not in taken and re.search(rf"\b{re.escape(name)}\b", str(templated.chat_template)) is not None

    @property
    def _templated(self) -> Any:
        """What has the chat template: the processor, or a text model's tokenizer."""
        return self.processor

    def prompt_ids(self, question: str, purpose: Purpose = "answer") -> list[int]:
        """Tokens of a one-turn chat, picture first. Raises BadRow `picture-token` where the question spells one."""
        return self.conversation_ids(asked(question), purpose)

    def prompt(self, question: str, data: bytes, purpose: Purpose = "answer") -> Prompt:
        """What to ask about an encoded picture. Raises BadRow where the picture or the question is no good."""
        return Prompt(self.prompt_ids(question, purpose), self.show([data]))

    def conversation_ids(self, messages: Sequence[Message], purpose: Purpose = "answer") -> list[int]:
        """Tokens of a chat that shows pictures. Raises BadRow `picture-token` or `template-refused`."""
        from jinja2 import TemplateError

        try:
            ids = self.chat_ids(messages, purpose)
        except TemplateError as error:
            why = str(error).strip().partition("\n")[0]
            raise BadRow("template-refused", f"the model's chat template refuses this conversation: {why}") from error
        wanted, found = places(messages), [i for i in ids if i in self.banned_ids]
        if len(found) < wanted:
            raise BadRow("picture-token", f"the model's chat template writes {len(found)} of {wanted} pictures")
        if found != [self.image_token_id] * wanted:
            tokens = " or ".join(map(repr, self.tokenizer.convert_ids_to_tokens(list(self.banned_ids))))
            raise BadRow("picture-token", f"the question spells the picture token {tokens}")
        return ids

    def show(self, pictures: Sequence[bytes]) -> tuple[Shown, ...]:
        """Encoded pictures of one prompt. Raises BadRow where one is no good, `too-many-pictures` for too many."""
        most = self.most_pictures
        if len(pictures) > most:
            raise BadRow("too-many-pictures", f"there are {len(pictures)} pictures; the model takes {most} in a prompt")
        return tuple(self._shown(data) for data in pictures)

    def _shown(self, data: bytes) -> Shown:
        picture = self.picture(data)
        return Shown(picture, picture_key(data), self.image_tokens(picture))

    def conversation(self, messages: Sequence[Message], pictures: Sequence[bytes]) -> Prompt:
        """What is asked in a chat that shows encoded pictures."""
        return Prompt(self.conversation_ids(messages), self.show(pictures))

    def text_prompt(self, text: str) -> Prompt:
        """A one-turn chat without a picture."""
        return Prompt(self.chat_ids([self.message(text)]))

    def message(self, text: str, role: str = "user") -> Message:
        """What somebody says without a picture, as the template takes it."""
        return {"role": role, "content": [{"type": "text", "text": text}]}

    def answer_ids(self, text: str) -> list[int]:
        """Tokens of a whole answer that is given as text, with the one that ends it."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, int(self.tokenizer.eos_token_id)]

    def token_bytes(self, id: int) -> bytes | None:
        """What a token adds to a text, in UTF-8, perhaps a part of a character; None of a special token."""
        if id in self._special_ids:
            return None
        token = self.tokenizer.convert_ids_to_tokens(id)
        return b"" if token is None else self._written(token)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def _written(self) -> Callable[[str], bytes]:
        return reading_of(self.tokenizer)

    def spoken(self, text: str) -> str | None:
        """What is said after thinking; None where the thought has no end. The whole of who does not think aloud."""
        if THOUGHT not in str(self._templated.chat_template):
            return text
        _, end, rest = text.rpartition(THOUGHT_END)
        if end:
            return rest.strip()
        return None if self.thinks or THOUGHT in text else text

    def answer(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens and thoughts. Raises BadRow `unfinished-reasoning`."""
        text = self.spoken(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        if text is None:
            raise BadRow("unfinished-reasoning", f"{len(ids)} tokens, and none of them ends the thought with a reply")
        return text

    @cached_property
    def thinks(self) -> bool:
        """Whether an answer begins with a thought, which its template opens whatever it is told."""
        return self._chat([self.message("?")], "answer").rstrip().endswith(THOUGHT)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """The tokenizer's end of sequence, and those of generation_config.json."""
        from transformers import GenerationConfig

        eos = {self.tokenizer.eos_token_id}
        if (self.folder / "generation_config.json").exists():
            configured = GenerationConfig.from_pretrained(self.folder).eos_token_id
            eos |= set(configured) if isinstance(configured, list) else {configured}
        return frozenset(eos - {None})

    @property
    def pad_id(self) -> int:
        """The tokenizer's padding, or its end of sequence where it has none."""
        found = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if found is None else found)

    @cached_property
    def image_token_id(self) -> int:
        """The token that stands for a picture, and in an expanded prompt for each of its features."""
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token))

    @cached_property
    def banned_ids(self) -> tuple[int, ...]:
        """The tokens of pictures and of videos."""
        video = self.tokenizer.get_vocab().get(getattr(self.processor, "video_token", None))
        return (self.image_token_id,) if video is None else (self.image_token_id, video)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Every token that is `word` alone: in any case, with or without a leading space as tokenizers write it."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return tuple(sorted(i for token, i in vocabulary.items() if token.lstrip(" Ġ▁").lower() == word))

    # ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def most_pictures(self) -> int:
        """How many pictures a prompt may show."""
        return MOST_PICTURES if "several-pictures" in self.capabilities else 1

    def picture(self, data: bytes) -> Image.Image:
        """The picture in its own shape. Raises BadRow."""
        return load_picture(data)

    def image_tokens(self, picture: Image.Image) -> int:
        """Number of tokens that the model sees in place of one picture token. Raises BadRow `picture-refused`."""
        try:
            return self._count(picture)
        except ValueError as error:
            raise BadRow("picture-refused", f"{picture.width} x {picture.height} pixels: {error}") from error

    def _count(self, picture: Image.Image) -> int:
        if self.model.processor_kwargs:
            # Processors that count from a size alone overlook some settings, and keep others for the next model.
            if picture.size not in self._counts:
                self._counts[picture.size] = len(self._processed(picture)["input_ids"][0])
            return self._counts[picture.size]
        try:
            found = self.processor._get_num_multimodal_tokens(image_sizes=[(picture.height, picture.width)])
            return int(found["num_image_tokens"][0])
        except (AttributeError, TypeError):
            # Some processors cannot tell it from a size, and LLaVA's only where pictures are cropped.
            return len(self._processed(picture)["input_ids"][0])

    def _processed(self, picture: Image.Image) -> Any:
        """What the processor makes of one picture token and its picture."""
        return self.processor(
            text=self.processor.image_token,
            images=[picture],
            add_special_tokens=False,
            return_tensors="pt",
            **self.model.processor_kwargs,
        )

    def expand(self, ids: Sequence[int], *pictures: Image.Image) -> list[int]:
        """A prompt as the model sees it, each picture token replaced by what stands for its picture."""
        expansions = iter([self._expansion(picture) for picture in pictures])
        return [token for i in ids for token in (next(expansions) if i == self.image_token_id else [i])]

    def _expansion(self, picture: Image.Image) -> list[int]:
        """What stands for a picture: one token for each feature."""
        return [self.image_token_id] * self.image_tokens(picture)

    def features(self, picture: Image.Image) -> Features:
        """What the image processor makes of one picture."""
        names = self.processor.image_processor.model_input_names
        return {name: value for name, value in self._processed(picture).items() if name in names}

    def collate(self, pictures: Sequence[Features]) -> Features:
        """The features one behind the other, along their first axis."""
        import torch

        return {name: torch.cat([one[name] for one in pictures]) for name in pictures[0]}

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def positions(
        self, backbone: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, features: Features
    ) -> torch.Tensor:
        """Each token's place in its row, shape (rows, tokens)."""
        import torch

        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)

    def freeze(self, model: PreTrainedModel) -> None:
        """Leave to training what the paper trains: language model and projector, not the vision tower."""
        tower = model.get_encoder(modality="image")
        if tower is model:
            raise BadInput(f"{type(model).__name__} has no vision tower; give a multimodal model")
        tower.requires_grad_(False)
        for name in self.PROJECTORS:
            tower.get_submodule(name).requires_grad_(True)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        """Every linear layer of the language model, by the name that it has in `model`."""
        import torch

        decoder = model.get_decoder()
        prefix = next(name for name, module in model.named_modules() if module is decoder)
        linears = (name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear))
        return [f"{prefix}.{name}" for name in linears]

    # ── engine and files ─────────────────────────────────────────────────────────────────────────────────────────────

    def engine_arguments(self) -> dict[str, Any]:
        """As many pictures a prompt as it takes, and what is said of the model.

        Without a limit, vLLM would reserve memory for the longest video that a model takes.
        """
        said = {
            "mm_processor_kwargs": dict(self.model.processor_kwargs) or None,
            "trust_remote_code": self.model.trust_remote_code or None,
            "quantization": self.model.quantization,
        }
        given = {name: value for name, value in said.items() if value is not None}
        return {"limit_mm_per_prompt": {"image": self.most_pictures, "video": 0}, **given}

    def saved_name(self, name: str) -> str:
        """The same name: vLLM reads what transformers saves."""
        return name


def filled_up(tiles: torch.Tensor, most: int) -> torch.Tensor:
    """What a model is given of a picture's tiles, (1, tiles, ...), with zeros behind it up to `most` tiles."""
    import torch

    return torch.cat([tiles, tiles.new_zeros(1, most - tiles.shape[1], *tiles.shape[2:])], dim=1)


class Text(Standard):
    """A model without pictures, which can divide answers into claims. It has a tokenizer and no processor."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Only what needs no picture."""
        return frozenset({"split"})

    @cached_property
    def tokenizer(self) -> Any:
        """Its own tokenizer. Raises BadInput where the folder has none, or no chat template."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.model.trust_remote_code)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self.folder} has no tokenizer; {self._remedy('save one beside the weights')} ({error})"
            ) from error
        tokenizer.chat_template = self.model.chat_template or tokenizer.chat_template
        if not tokenizer.chat_template:
            raise BadInput(
                f"{self.folder} has no chat template; name a model that was tuned for chats, or give a chatTemplate"
            )
        return tokenizer

    @property
    def _templated(self) -> Any:
        return self.tokenizer

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """None."""
        return ()

    def chat_ids(
        self, messages: Sequence[Message], purpose: Purpose = "answer", rendering: Rendering = AS_USUAL
    ) -> list[int]:
        """Tokens of a chat up to where the next answer begins: the template says all special tokens."""
        ids: list[int] = self.tokenizer(self._chat(messages, purpose, rendering), add_special_tokens=False)["input_ids"]
        return ids

    def message(self, text: str, role: str = "user") -> Message:
        """The text itself: templates of such models know no parts."""
        return {"role": role, "content": text}
