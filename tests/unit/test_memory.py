"""What does not fit a card is told before anything is loaded. Sizes are those of published models."""

from __future__ import annotations

from typing import Final

import pytest

from feedback_workloads.contract import BadInput, EngineConfig, TrainedOn
from feedback_workloads.models.memory import GIBIBYTE, Size, check_served, check_trained, served, trained

SEVEN: Final = Size(
    weights=7_063_427_072,
    trained=6_759_919_616,
    kept=2 * 32 * 32 * 128,
    longest=4096,
    adapted=32 * (4 * 4096**2 + 3 * 4096 * 11008),
)
"""LLaVA-1.5-7B: 32 layers of 32 heads of 128, and a tower of 303,507,456 that is not trained."""
THIRTY_FOUR: Final = Size(weights=34_750_000_000, trained=34_400_000_000, kept=2 * 60 * 8 * 128, longest=4096)
"""LLaVA-NeXT-34B, about: 60 layers of 8 heads of 128."""
UNKNOWN: Final = Size(weights=2 * 10**9, trained=0, kept=0, longest=131_072)
"""With a decoder whose layers keep what they keep."""


@pytest.mark.parametrize(
    ("size", "engine", "expect"),
    [
        pytest.param(SEVEN, EngineConfig(), (14_126_854_144, 2 * GIBIBYTE), id="bfloat16, and 4,096 tokens"),
        pytest.param(SEVEN, EngineConfig(max_model_len=1024), (14_126_854_144, GIBIBYTE // 2), id="1,024 tokens"),
        pytest.param(SEVEN, EngineConfig(tensor_parallel_size=2), (7_063_427_072, GIBIBYTE), id="half on each of two"),
        pytest.param(UNKNOWN, EngineConfig(), (4 * 10**9, 0), id="what a token takes is not known"),
    ],
)
def test_what_an_engine_holds(size: Size, engine: EngineConfig, expect: tuple[int, int]) -> None:
    assert served(size, engine) == expect


@pytest.mark.parametrize(
    ("processes", "zero_stage", "lora", "expect"),
    [
        pytest.param(1, 0, False, 109_372_743_680, id="float32: 4 bytes a weight, 12 more of what is trained"),
        pytest.param(1, 2, False, 108_765_728_768, id="bfloat16 and float32: 2 bytes a weight, 14 more"),
        pytest.param(8, 2, False, 25_956_713_472, id="ZeRO-2 divides those 14"),
        pytest.param(8, 3, False, 13_595_716_096, id="ZeRO-3 all 16"),
        pytest.param(8, 2, True, 14_126_854_144, id="beside an adapter, the weights alone"),
        pytest.param(8, 3, True, 1_765_856_768, id="and of those a part"),
    ],
)
def test_what_training_holds(processes: int, zero_stage: int, lora: bool, expect: int) -> None:
    on = TrainedOn.model_validate({"processes": processes, "zero_stage": zero_stage})
    assert trained(SEVEN, on, lora=lora) == expect


@pytest.mark.parametrize("processes", [1, 8])
def test_a_base_of_4_bits_is_whole_on_each_card(processes: int) -> None:
    on = TrainedOn(processes=processes, zero_stage=2, quantization="nf4")
    whole = 2 * (SEVEN.weights - SEVEN.adapted)  # tower, projector, embeddings, lm_head, norms
    assert trained(SEVEN, on, lora=True) == pytest.approx(whole + 4.127 / 8 * SEVEN.adapted, rel=1e-4)


@pytest.mark.parametrize(
    ("size", "engine", "card"),
    [
        pytest.param(SEVEN, EngineConfig(), 24, id="7B on a card of 24 GiB"),
        pytest.param(SEVEN, EngineConfig(max_model_len=2546), 16, id="on one of 16 GiB with a shorter context"),
        pytest.param(THIRTY_FOUR, EngineConfig(tensor_parallel_size=2), 48, id="34B on two of 48 GiB"),
        pytest.param(UNKNOWN, EngineConfig(), 8, id="a context of which nothing is known"),
    ],
)
def test_fits(size: Size, engine: EngineConfig, card: int) -> None:
    check_served("m", "spec.labeling", size, engine, card * GIBIBYTE)


@pytest.mark.parametrize(
    ("size", "section", "card", "expect"),
    [
        pytest.param(
            THIRTY_FOUR, "spec.labeling", 48,
            "m takes at least 65.7 GiB of a card (64.7 GiB of weights, 0.9 GiB for a sequence of 4096 tokens), and "
            "vLLM has 43.2 GiB of its 48.0 GiB; give its pods 2 GPUs by spec.labeling.resources, or name a smaller or "
            "a quantized model",
            id="a labeler of 34B on one card of 48 GiB",
        ),
        pytest.param(
            SEVEN, "spec.sampling", 16,
            "m takes at least 15.2 GiB of a card (13.2 GiB of weights, 2.0 GiB for a sequence of 4096 tokens), and "
            "vLLM has 14.4 GiB of its 16.0 GiB; lower spec.sampling.maxModelLen to 2546 or less, or give its pods 2 "
            "GPUs by spec.sampling.resources, or name a smaller model",
            id="a policy whose weights alone would fit; it cannot be quantized",
        ),
        pytest.param(
            THIRTY_FOUR, "spec.labeling", 2,
            "m takes at least 65.7 GiB of a card (64.7 GiB of weights, 0.9 GiB for a sequence of 4096 tokens), and "
            "vLLM has 1.8 GiB of its 2.0 GiB; name a smaller or a quantized model",
            id="on cards of which sixteen are too few",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_an_engine(size: Size, section: str, card: int, expect: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_served("m", section, size, EngineConfig(), card * GIBIBYTE)
    assert str(refused.value) == expect


@pytest.mark.parametrize(
    ("on", "lora", "card", "expect"),
    [
        pytest.param(
            TrainedOn(processes=8, zero_stage=2), False, 24,
            "m takes at least 24.2 GiB of a card to be trained on 8 with ZeRO-2, and there are 24.0 GiB; set "
            "spec.training.zeroStage to 3, or train a LoRA by spec.training.lora, or give training more GPUs, or "
            "larger ones",
            id="eight cards of 24 GiB",
        ),
        pytest.param(
            TrainedOn(processes=1, zero_stage=0), False, 105,
            None, id="without ZeRO, on one card that is large enough",
        ),
        pytest.param(
            TrainedOn(processes=1, zero_stage=0), False, 80,
            "m takes at least 101.9 GiB of a card to be trained on 1 with ZeRO-0, and there are 80.0 GiB; train a LoRA "
            "by spec.training.lora, or give training more GPUs, or larger ones",
            id="one card, where ZeRO has nothing to divide by",
        ),
        pytest.param(
            TrainedOn(processes=1, zero_stage=2), True, 12,
            "m takes at least 13.2 GiB of a card to be trained on 1 with ZeRO-2, and there are 12.0 GiB; round the "
            "model below a LoRA by spec.training.lora.quantization NF4, or give training more GPUs, or larger ones",
            id="an adapter, too",
        ),
        pytest.param(
            TrainedOn(processes=1, zero_stage=2, quantization="nf4"), True, 5,
            None, id="an adapter over 4 bits",
        ),
        pytest.param(
            TrainedOn(processes=8, zero_stage=2, quantization="nf4"), True, 4,
            "m takes at least 4.2 GiB of a card to be trained on 8 with ZeRO-2, and there are 4.0 GiB; give training "
            "more GPUs, or larger ones",
            id="which nothing makes smaller",
        ),
    ],
)  # fmt: skip
def test_training(on: TrainedOn, lora: bool, card: int, expect: str | None) -> None:
    if expect is None:
        check_trained("m", SEVEN, on, card * GIBIBYTE, lora=lora)
        return
    with pytest.raises(BadInput) as refused:
        check_trained("m", SEVEN, on, card * GIBIBYTE, lora=lora)
    assert str(refused.value) == expect
