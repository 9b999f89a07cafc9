"""Tiny checkpoints with random weights and all that a real one has: config, weights, tokenizer, processor, template."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Final

from PIL import Image

from feedback_workloads.models.llava import new_processor

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PATCH: Final = 14
LESSONS: Final = 500


def tiny_llava(
    directory: Path, seed: int = 0, *, side: int = 56, hidden: int = 64, layers: int = 2, siglip: bool = False
) -> Path:
    """Save a LLaVA of random weights with pictures of side x side pixels; returns `directory`.

    Its tokenizer takes any text byte by byte, and its image processor crops to a square, as LLaVA-1.5's does.
    """
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    from feedback_workloads.models.families import name_weights

    tokenizer = byte_tokenizer()
    heads = hidden // 32
    config = LlavaConfig(
        vision_config=(SiglipVisionConfig if siglip else CLIPVisionConfig)(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=side,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(side // PATCH) ** 2,
        vision_feature_select_strategy="full" if siglip else "default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():  # the default is so small that all answers look alike
        if "language_model" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(directory)
    processor = siglip_processor(tokenizer, side) if siglip else new_processor(tokenizer, side, PATCH)
    processor.save_pretrained(directory)
    name_weights(directory)
    return directory


def tiny_llava_with_siglip(directory: Path, seed: int = 0) -> Path:
    """As `tiny_llava`, with SigLIP's tower, which has no class token."""
    return tiny_llava(directory, seed, siglip=True)


def siglip_processor(tokenizer, side: int):  # type: ignore[no-untyped-def]
    """The processor of a LLaVA with SigLIP's tower: pictures are squeezed into a square of side x side pixels."""
    from transformers import LlavaProcessor, SiglipImageProcessor

    return LlavaProcessor(
        SiglipImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def llava_next_processor(tokenizer, side: int):  # type: ignore[no-untyped-def]
    """The processor of a LLaVA-NeXT, whose pictures are cut into tiles of side x side pixels."""
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    grid = [[rows * side, columns * side] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    return LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=grid
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer(  # type: ignore[no-untyped-def]
    pad: str = "<pad>",
    bos: str | None = "<s>",
    eos: str = "</s>",
    named: Mapping[str, str] = {"image_token": "<image>"},
    chat_template: str = CHAT_TEMPLATE,
):
    """One token a byte, and the special ones, `named` among them; no text is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("y", "e"), ("ye", "s"), ("n", "o"), ("Y", "e"), ("Ye", "s"), ("N", "o")]
    merges += [("Ġ", "yes"), ("Ġ", "no"), ("Ġ", "Yes"), ("Ġ", "No")]
    special = [pad, *([bos] if bos else []), eos, *named.values()]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet, *map("".join, merges)])}
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=dict(named),
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )


def tiny_llm(directory: Path, replies: Mapping[str, str], seed: int = 0) -> Path:
    """Save a text model that has learnt by heart what to reply to each message; returns `directory`.

    What it says to other messages is anything.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=False
        )
        for message in replies
    ]
    targets = [[*tokenizer(reply)["input_ids"], tokenizer.eos_token_id] for reply in replies.values()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(LESSONS):
        known = True
        for prompt, target in zip(prompts, targets, strict=True):
            logits = model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
            loss.backward()
            known &= loss.item() < 0.02
        if known:
            break
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"{LESSONS} lessons did not suffice")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def picture(seed: int, width: int = 80, height: int = 60) -> bytes:
    """A PNG of coloured blocks."""
    rng = Random(seed)
    image = Image.new("RGB", (4, 3))
    image.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(12)])
    data = BytesIO()
    image.resize((width, height), Image.Resampling.NEAREST).save(data, "PNG")
    return data.getvalue()
