"""The one preprocessing of pictures and prompts: for sampling, labelling, training, scoring and serving alike.

Pictures that are preprocessed in one way for sampling and in another for training make the sampler's log-probabilities
meaningless as references, so every stage and the server come through here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import ExifTags, Image, UnidentifiedImageError

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    import torch

MAX_PIXELS: Final = 16_777_216
"""A larger picture is refused before it is decoded, so that memory is bounded (4096 x 4096)."""

MAX_PADDED_PIXELS: Final = 4 * MAX_PIXELS
"""The same for the square that a picture is padded to: a strip of 1 x 16 million pixels must not ask for a terabyte."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded. PIL knows more, among them EPS, which it hands to an interpreter of programs."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation (EXIF 2.3, tag 0x0112); 1 is upright."""

Message = Mapping[str, Any]
"""A chat message as Hugging Face templates take it: `role`, and `content` as text or as a list of parts."""


@dataclass(frozen=True)
class Prompt:
    """Tokens up to where the answer begins, with one unexpanded picture token where there is a picture.

    `picture_key` names the picture's content: prompts that share it share the picture's preparation and its prefix.
    The model sees `picture_tokens` in place of that one token.
    """

    ids: Sequence[int]
    picture: Image.Image | None = None
    picture_key: str = ""
    picture_tokens: int = 1

    @property
    def length(self) -> int:
        """Number of tokens that the model sees."""
        return len(self.ids) + self.picture_tokens - 1


def load_picture(data: bytes) -> Image.Image:
    """Decode an encoded picture to RGB, upright as its EXIF orientation says, on white where it is transparent.

    Raises BadRow `undecodable-picture` or `picture-too-large`; the size is read from the header, before any decoding.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise BadRow("picture-too-large", f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
        picture.load()
        return _on_white(_upright(picture))
    except BadRow:
        raise
    except Image.DecompressionBombError as error:
        raise BadRow("picture-too-large", str(error)) from error
    except UnidentifiedImageError as error:  # its own message has a memory address, which differs from run to run
        raise BadRow("undecodable-picture", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from error
    # PIL's decoders raise many kinds of errors on damaged data: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise BadRow("undecodable-picture", f"{type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; where that cannot be read, leave it as its pixels are."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # of as many kinds as those of damaged pixels, while the pixels themselves are sound
        return picture
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, laid on white where it is transparent, as a page would show it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white, layer = Image.new("RGB", picture.size, "white"), picture.convert("RGBA")
    white.paste(layer, mask=layer)
    return white


def template_switches(template: object) -> dict[str, bool]:
    """What a chat template is given beside the messages: that the model is not to think first, where it can be told.

    Claims would be made of its thoughts, and yes or no is read where its answer begins.
    """
    return {"enable_thinking": False} if "enable_thinking" in str(template) else {}


def picture_key(data: bytes) -> str:
    """A name for the content of an encoded picture."""
    return hashlib.sha256(data).hexdigest()


class Preprocessor:
    """A model's processor, with the decisions that all stages must share.

    With `pads`, a picture is padded to a square first, with the processor's mean colour: LLaVA-1.5's processor would
    crop it to one, and what is at its edges would be lost (https://arxiv.org/abs/2310.03744, section 3). Those of other
    models see a picture in its own shape.
    """

    def __init__(self, processor: Any, eos_ids: frozenset[int], *, pads: bool = False) -> None:
        self.processor = processor
        self.eos_ids = eos_ids
        self.image_token_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self._pads = pads

    @classmethod
    def from_directory(cls, model: Path) -> Preprocessor:
        """The processor of a model folder. Raises BadInput if the folder has none, or no chat template."""
        from transformers import AutoProcessor, GenerationConfig, LlavaProcessor

        try:
            processor = AutoProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise BadInput(f"{model} has no multimodal processor; save one beside the weights ({error})") from error
        if getattr(processor, "image_processor", None) is None:
            raise BadInput(f"{model} is a text model without an image processor; name a multimodal model")
        if not processor.chat_template:
            raise BadInput(f"{model} has no chat template; save chat_template.jinja beside the processor")
        eos = {processor.tokenizer.eos_token_id}
        if (model / "generation_config.json").exists():
            configured = GenerationConfig.from_pretrained(model).eos_token_id
            eos |= set(configured) if isinstance(configured, list) else {configured}
        # Other processors have the switch, too, and do not heed it: LLaVA-NeXT's cuts a picture into tiles.
        crops = getattr(processor.image_processor, "do_center_crop", False)
        pads = isinstance(processor, LlavaProcessor) and bool(crops)
        return cls(processor, frozenset(eos - {None}), pads=pads)

    def picture(self, data: bytes) -> Image.Image:
        """Decode a picture, and pad it where the processor would crop it. Raises BadRow."""
        picture = load_picture(data)
        if not self._pads or picture.width == picture.height:
            return picture
        side = max(picture.size)
        if side * side > MAX_PADDED_PIXELS:
            raise BadRow("picture-too-large", f"{picture.width} x {picture.height} pixels, too long to pad to a square")
        mean = tuple(int(255 * value) for value in self.processor.image_processor.image_mean)
        square = Image.new("RGB", (side, side), mean)
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square

    def prompt(self, question: str, data: bytes) -> Prompt:
        """What to ask a model about an encoded picture. Raises BadRow where the picture or the question is no good."""
        ids, picture = self.prompt_ids(question), self.picture(data)
        return Prompt(ids, picture, picture_key(data), self.image_tokens(picture))

    def prompt_ids(self, question: str) -> list[int]:
        """Tokens of a one-turn chat, picture first, up to where the answer begins, with one picture token.

        Raises BadRow `picture-token` where the question itself spells that token.
        """
        content = [{"type": "image"}, {"type": "text", "text": question}]
        ids = self.chat_ids([{"role": "user", "content": content}])
        if ids.count(self.image_token_id) != 1:
            raise BadRow("picture-token", f"the question spells the picture token {self.processor.image_token!r}")
        return ids

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a chat up to where the next answer begins, with one token a picture, not expanded."""
        template = self.processor.chat_template
        text = self.processor.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False, **template_switches(template)
        )
        bos = self.processor.tokenizer.bos_token
        starts_with_bos = bos is not None and text.startswith(bos)
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=not starts_with_bos)["input_ids"]
        return ids

    def pixel_values(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Pixels as the vision tower takes them: float (pictures, channels, height, width)."""
        pixels: torch.Tensor = self.processor.image_processor(images=list(pictures), return_tensors="pt")[
            "pixel_values"
        ]
        return pixels

    def image_tokens(self, picture: Image.Image) -> int:
        """Number of tokens that one picture token stands for."""
        try:
            found = self.processor._get_num_multimodal_tokens(image_sizes=[(picture.height, picture.width)])
            return int(found["num_image_tokens"][0])
        except (AttributeError, TypeError):
            # Some processors cannot tell it from a size, and LLaVA's only where pictures are cropped.
            found = self.processor(text=self.processor.image_token, images=[picture], add_special_tokens=False)
            return len(found["input_ids"][0])

    def expand(self, ids: Sequence[int], picture: Image.Image) -> list[int]:
        """The prompt as the model sees it: the picture token repeated once for each picture feature."""
        number = self.image_tokens(picture)
        return [token for i in ids for token in ([i] * number if i == self.image_token_id else [i])]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        text: str = self.processor.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
