"""The policy and its reference in vLLM: candidates from the one, their log-probabilities under the other.

A full checkpoint takes two engines in one process. A LoRA policy takes one: the policy with its adapter on, the
reference with it off, request by request.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import safe_open
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from feedback_workloads.contract import BadInput
from feedback_workloads.engine.engine import (
    ADAPTER_CONFIG,
    BANNED,
    LORA_RANKS,
    Prompt,
    _arguments,
    _engine_prompt,
    _of_tokens,
)
from feedback_workloads.preprocess import Preprocessor
from feedback_workloads.serving.protocol import FinishReason

if TYPE_CHECKING:
    from vllm import TokensPrompt
    from vllm.outputs import RequestOutput

    from feedback_workloads.serving.settings import Settings

ADAPTER_WEIGHTS = "adapter_model.safetensors"

GIBIBYTE = 2**30

PICTURE_CACHE_GIB = 0.5
"""Prepared pictures kept for other candidates and turns; each engine keeps two such caches."""


@dataclass(frozen=True)
class Sampling:
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Candidate:
    """One answer. `logp` is the sum over `token_ids` of raw log-probabilities (nats, at temperature 1)."""

    text: str
    token_ids: tuple[int, ...]
    logp: float
    finish_reason: FinishReason


@dataclass(frozen=True)
class Piece:
    """What is new of an answer that is being written; `finish_reason` comes with the last piece."""

    text: str
    tokens: int
    finish_reason: FinishReason | None


class Engines:
    """Both models, ready to be asked. Cancelling a call takes its work out of the engine."""

    def __init__(
        self, preprocessor: Preprocessor, policy: AsyncLLM, reference: AsyncLLM, adapter: LoRARequest | None
    ) -> None:
        self.preprocessor = preprocessor
        self._policy = policy
        self._reference = reference
        self._adapter = adapter

    @classmethod
    def load(cls, policy: Path, reference: Path, settings: Settings) -> Engines:
        """Load both models from their folders, one after the other; takes from tens of seconds to minutes.

        Raises BadInput where the two do not belong together, or the adapter is not one that can be switched.
        """
        if (policy / ADAPTER_CONFIG).exists():
            adapter = Adapter.read(policy)
            preprocessor = Preprocessor.from_directory(reference)
            engine = _load(reference, _engine_arguments(settings) | adapter.engine_arguments())
            return cls(preprocessor, engine, engine, LoRARequest("policy", 1, str(policy)))
        preprocessor = Preprocessor.from_directory(policy)
        check_same_tokens(preprocessor, Preprocessor.from_directory(reference))
        first = _load(policy, _engine_arguments(settings))
        try:
            second = _load(reference, _reference_arguments(settings))
        except BaseException:
            first.shutdown()
            raise
        return cls(preprocessor, first, second, None)

    @property
    def max_model_len(self) -> int:
        """Longest sequence, in tokens, that both models take."""
        return min(self._policy.model_config.max_model_len, self._reference.model_config.max_model_len)

    @property
    def alive(self) -> bool:
        return not (self._policy.errored or self._reference.errored)

    def unfinished(self) -> int:
        """Sequences that the engines still work on."""
        return sum(engine.get_num_unfinished_requests() for engine in {self._policy, self._reference})

    def close(self) -> None:
        for engine in {self._policy, self._reference}:
            engine.shutdown()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Candidate:
        """Sample one answer from the policy."""
        params = self._params(sampling, RequestOutputKind.FINAL_ONLY)
        answer = (await _finish(self._policy, prompt, params, self._adapter)).outputs[0]
        return Candidate(
            text=answer.text,
            token_ids=tuple(answer.token_ids),
            logp=math.fsum(_of_tokens(answer.logprobs, answer.token_ids)),
            finish_reason=_finish_reason(answer.finish_reason),
        )

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Sample one answer from the policy, piece by piece; close the generator to end it early."""
        outputs = self._policy.generate(
            _tokens(prompt),
            self._params(sampling, RequestOutputKind.DELTA),
            _request_id(),
            lora_request=self._adapter,
        )
        async with aclosing(outputs):
            async for output in outputs:
                piece = output.outputs[0]
                reason = None if piece.finish_reason is None else _finish_reason(piece.finish_reason)
                yield Piece(piece.text, len(piece.token_ids), reason)

    async def reference_logp(self, prompt: Prompt, token_ids: Sequence[int]) -> float:
        """Sum of the reference's raw log-probabilities of an answer's tokens: one prefill, nothing generated."""
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        whole = replace(prompt, ids=(*prompt.ids, *token_ids))
        output = await _finish(self._reference, whole, params, adapter=None)
        assert output.prompt_logprobs is not None
        return math.fsum(_of_tokens(list(output.prompt_logprobs)[-len(token_ids) :], token_ids))

    def _params(self, sampling: Sampling, kind: RequestOutputKind) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop),
            logprobs=0,
            # In a prompt, and an answer becomes part of one when it is scored, this token stands for a whole picture.
            logit_bias={self.preprocessor.image_token_id: BANNED},
            output_kind=kind,
        )


async def _finish(
    engine: AsyncLLM, prompt: Prompt, params: SamplingParams, adapter: LoRARequest | None
) -> RequestOutput:
    last = None
    async for output in engine.generate(_tokens(prompt), params, _request_id(), lora_request=adapter):
        last = output
    assert last is not None
    return last


def _load(model: Path, arguments: dict[str, Any]) -> AsyncLLM:
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **arguments))
    except (ValueError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"vLLM cannot load the model in {model}: {first}; check its files and architecture") from error


def _engine_arguments(settings: Settings) -> dict[str, Any]:
    arguments = _arguments(settings.engine, settings.precision, seed=0)
    arguments["mm_processor_cache_gb"] = PICTURE_CACHE_GIB
    if current_platform.is_cpu():
        arguments["kv_cache_memory_bytes"] = settings.engine.cpu_kv_cache_gib * GIBIBYTE
    return arguments


def _reference_arguments(settings: Settings) -> dict[str, Any]:
    return _engine_arguments(settings) | {
        "gpu_memory_utilization": settings.reference_gpu_memory_utilization,
        # Both engines would write to the same Prometheus metrics; those of the policy tell more.
        "disable_log_stats": True,
    }


def _tokens(prompt: Prompt) -> TokensPrompt:
    return cast("TokensPrompt", _engine_prompt(prompt))


def _request_id() -> str:
    return uuid.uuid4().hex


def _finish_reason(reason: str | None) -> FinishReason:
    return "length" if reason == "length" else "stop"


@dataclass(frozen=True)
class Adapter:
    """What the engine must know of a LoRA adapter before it loads the base."""

    rank: int
    modules: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read a PEFT adapter. Raises BadInput where it changes more than linears of the language model's layers."""
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        if config.get("modules_to_save") or config.get("bias", "none") != "none" or config.get("use_dora"):
            raise BadInput(
                f"{folder} is not a plain LoRA adapter; merge it into its base and serve the whole checkpoint"
            )
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
            changed = sorted(name.removesuffix(".weight").rpartition(".")[0] for name in weights.keys())  # noqa: SIM118
        for name in changed:
            if ".language_model." not in name or name.endswith(".lm_head"):
                raise BadInput(
                    f"{folder} changes {name}, outside the language model's layers, which the engine cannot switch "
                    "on and off; merge the adapter into its base and serve the whole checkpoint"
                )
        rank = max(config["r"], *config.get("rank_pattern", {}).values(), 1)
        if rank > LORA_RANKS[-1]:
            raise BadInput(f"{folder} has rank {rank}, more than {LORA_RANKS[-1]}; merge the adapter into its base")
        return cls(rank, tuple(sorted({name.rpartition(".")[2] for name in changed})))

    def engine_arguments(self) -> dict[str, Any]:
        return {
            "enable_lora": True,
            # With one place, and requests with and without the adapter in one batch, vLLM gives those without it wrong
            # log-probabilities, silently; a spare place avoids it. tests/integration/test_serving.py watches over it.
            "max_loras": 2,
            "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= self.rank),
            "lora_target_modules": list(self.modules),
        }


def check_same_tokens(policy: Preprocessor, reference: Preprocessor) -> None:
    """Raise BadInput unless both models read and write the same tokens: else their ratio means nothing."""
    if policy.processor.tokenizer.get_vocab() != reference.processor.tokenizer.get_vocab():
        raise BadInput("--policy and --reference have different vocabularies; the reference is the policy's own start")
