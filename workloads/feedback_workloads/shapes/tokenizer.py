"""The words of the shapes world, and the processor that turns its messages and pictures into a model's inputs."""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Final

from feedback_workloads.models.llava import new_processor
from feedback_workloads.shapes.captions import CLOSING, OPENING, empty_sentence
from feedback_workloads.shapes.world import COLORS, INSTRUCTIONS, PICTURE_PIXELS, PLACES, SHAPES, Thing, question_of

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

PAD: Final = "<pad>"
END: Final = "</s>"
UNKNOWN: Final = "<unk>"
IMAGE: Final = "<image>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
SPECIAL: Final = (PAD, END, UNKNOWN, IMAGE, USER, ASSISTANT)

PATCH_PIXELS: Final = 16
PICTURE_TOKENS: Final = (PICTURE_PIXELS // PATCH_PIXELS) ** 2

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else '' }}"
    "{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else '' }}"
)
_WORD: Final = r" ?\w+|[^\w\s]"


@cache
def words() -> tuple[str, ...]:
    """All tokens in the order of their ids. A word that follows a space and the same word at a start are two tokens."""
    things = [Thing(place, color, shape).sentence for place in PLACES for color in COLORS for shape in SHAPES]
    sentences = [*things, *map(empty_sentence, PLACES), OPENING, CLOSING]
    texts = chain(INSTRUCTIONS, sentences, [question_of(" ".join(sentences))])
    found = chain.from_iterable(re.findall(_WORD, text) for text in texts)
    answers = ("yes", "no", " yes", " no", "Yes", "No", " Yes", " No")
    return tuple(dict.fromkeys(chain(SPECIAL, answers, found)))


@cache
def word_ids() -> dict[str, int]:
    """The id of every token."""
    return {word: i for i, word in enumerate(words())}


def encode(text: str) -> list[int]:
    """The ids of a text without special tokens, as the tokenizer gives them. Raises KeyError on a word it lacks."""
    return [word_ids()[word] for word in re.findall(_WORD, text)]


def prompt(text: str) -> list[int]:
    """The ids of a message about a picture, up to where the answer begins."""
    ids = word_ids()
    return [ids[USER], *([ids[IMAGE]] * PICTURE_TOKENS), *encode(text), ids[ASSISTANT]]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose decoding restores every text of this world exactly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(word_ids(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )


def make_processor() -> LlavaProcessor:
    """The processor that is saved beside the weights of both models."""
    grey = [0.5, 0.5, 0.5]
    return new_processor(make_tokenizer(), PICTURE_PIXELS, PATCH_PIXELS, image_mean=grey, image_std=grey)
