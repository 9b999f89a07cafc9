"""The policy and its reference in vLLM: candidates from the one, their log-probabilities under the other.

A full checkpoint takes two engines in one process. A LoRA policy takes one: the policy with its adapter on, the
reference with it off, request by request.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from feedback_workloads.contract import BadInput, Model
from feedback_workloads.engine.arguments import Adapter, compile_nothing_on_a_cpu, engine_arguments
from feedback_workloads.engine.engine import BANNED, engine_prompt
from feedback_workloads.engine.logprobs import most_likely, of_tokens, read_with_prompt, weighed, weighing
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.models.families import check, family_of
from feedback_workloads.models.family import Family, Prompt
from feedback_workloads.serving.protocol.drawing import FinishReason, Shaping

if TYPE_CHECKING:
    from vllm import TokensPrompt
    from vllm.outputs import RequestOutput

    from feedback_workloads.serving.settings import Settings

END_SECONDS = 0.4
"""What an engine's process gets to end by itself; it holds nothing that has to be saved."""

PICTURE_CACHE_GIB = 0.5
"""Prepared pictures kept for other candidates and turns; each engine keeps two such caches."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    `schema` is what it must be, as JSON Schema, where it may not be any text; `raw` says that a thought is part of it.
    `weighed` says that log-probabilities of
    its tokens are asked for: the `top_logprobs` most likely in each place, and its own.
    """

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None
    weighed: bool = True
    top_logprobs: int = 0
    schema: str | None = None
    raw: bool = False
    shaping: Shaping = field(default_factory=Shaping)


@dataclass(frozen=True)
class Drawn:
    """One token of an answer, its raw log-probability, and those of the most likely in its place, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Candidate:
    """One answer. `logp` is the sum over `token_ids` of raw log-probabilities (nats, at temperature 1)."""

    text: str
    token_ids: tuple[int, ...]
    logp: float
    finish_reason: FinishReason
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True)
class Piece:
    """What is new of an answer that is being written; `finish_reason` comes with the last piece."""

    text: str
    drawn: tuple[Drawn, ...]
    finish_reason: FinishReason | None


class Engines:
    """Both models, ready to be asked. Cancelling a call takes its work out of the engine."""

    def __init__(self, family: Family, policy: AsyncLLM, reference: AsyncLLM, adapter: LoRARequest | None) -> None:
        self.family = family
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
            base = _family(reference, settings.reference)
            engine = _load(reference, _engine_arguments(base, settings) | adapter.engine_arguments())
            return cls(base, engine, engine, LoRARequest("policy", 1, str(policy)))
        family, other = _family(policy, settings.policy), _family(reference, settings.reference)
        check_same_tokens(family, other)
        first = _load(policy, _engine_arguments(family, settings))
        try:
            second = _load(reference, _reference_arguments(other, settings))
        except BaseException:
            first.shutdown(timeout=END_SECONDS)
            raise
        return cls(family, first, second, None)

    @property
    def max_model_len(self) -> int:
        """Longest sequence, in tokens, that both models take."""
        return min(self._policy.model_config.max_model_len, self._reference.model_config.max_model_len)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the policy can write."""
        return int(self._policy.model_config.get_vocab_size())

    @property
    def alive(self) -> bool:
        return not (self._policy.errored or self._reference.errored)

    def unfinished(self) -> int:
        """Sequences that the engines still work on."""
        return sum(engine.get_num_unfinished_requests() for engine in {self._policy, self._reference})

    def close(self) -> None:
        for engine in {self._policy, self._reference}:
            engine.shutdown(timeout=END_SECONDS)

    def check_schema(self, schema: str) -> None:
        """Raise ValueError where no answer can be held to a JSON Schema, as vLLM understands it; takes a while."""
        policy = self._policy
        params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))
        structured = policy.vllm_config.structured_outputs_config
        try:
            params.verify(policy.model_config, None, structured, policy.get_tokenizer())
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Candidate:
        """Sample one answer from the policy."""
        params = self._params(sampling, RequestOutputKind.FINAL_ONLY)
        answer = (await _finish(self._policy, prompt, params, self._adapter)).outputs[0]
        rows: Any = answer.logprobs
        if sampling.schema is not None and sampling.weighed:
            # Those that came with it are among what the schema allowed in each place, and not the policy's own.
            rows = await _weighed(self._policy, prompt, answer.token_ids, self._adapter, sampling.top_logprobs)
        drawn = _drawn(answer.token_ids, rows, sampling.top_logprobs)
        return Candidate(
            text=answer.text if sampling.raw else self.family.spoken(answer.text) or "",
            token_ids=tuple(answer.token_ids),
            logp=math.fsum(one.logprob for one in drawn),
            finish_reason=_finish_reason(answer.finish_reason),
            drawn=drawn,
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
                yield Piece(piece.text, _drawn(piece.token_ids, piece.logprobs, sampling.top_logprobs), reason)

    async def policy_logp(self, prompt: Prompt, token_ids: Sequence[int]) -> float:
        """The same as `reference_logp`, of the policy: for answers that it did not write here."""
        return await _logp(self._policy, prompt, token_ids, self._adapter)

    async def reference_logp(self, prompt: Prompt, token_ids: Sequence[int]) -> float:
        """Sum of the reference's raw log-probabilities of an answer's tokens: a prefill and one step.

        Whatever the policy wrote can be scored, up to the end of the context.
        """
        return await _logp(self._reference, prompt, token_ids, adapter=None)

    def _params(self, sampling: Sampling, kind: RequestOutputKind) -> SamplingParams:
        shaping = sampling.shaping
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop=list(sampling.stop),
            logprobs=sampling.top_logprobs,
            top_k=shaping.top_k,
            min_p=shaping.min_p,
            frequency_penalty=shaping.frequency_penalty,
            presence_penalty=shaping.presence_penalty,
            repetition_penalty=shaping.repetition_penalty,
            min_tokens=shaping.min_tokens,
            structured_outputs=None if sampling.schema is None else StructuredOutputsParams(json=sampling.schema),
            # In a prompt, and an answer becomes part of one when it is scored, they stand for a whole picture.
            logit_bias=dict(shaping.logit_bias) | dict.fromkeys(self.family.banned_ids, BANNED),
            output_kind=kind,
        )


def _drawn(token_ids: Sequence[int], rows: Any, top: int) -> tuple[Drawn, ...]:
    return tuple(map(Drawn, token_ids, of_tokens(rows, token_ids), most_likely(rows, top)))


async def _finish(
    engine: AsyncLLM, prompt: Prompt, params: SamplingParams, adapter: LoRARequest | None
) -> RequestOutput:
    last = None
    async for output in engine.generate(_tokens(prompt), params, _request_id(), lora_request=adapter):
        last = output
    assert last is not None
    return last


async def _logp(engine: AsyncLLM, prompt: Prompt, token_ids: Sequence[int], adapter: LoRARequest | None) -> float:
    return math.fsum(of_tokens(await _weighed(engine, prompt, token_ids, adapter), token_ids))


async def _weighed(
    engine: AsyncLLM, prompt: Prompt, token_ids: Sequence[int], adapter: LoRARequest | None, top: int = 0
) -> list[Any]:
    whole = replace(prompt, ids=(*prompt.ids, *read_with_prompt(token_ids)))
    return weighed(await _finish(engine, whole, weighing(token_ids, top), adapter), token_ids)


def _load(model: Path, arguments: dict[str, Any]) -> AsyncLLM:
    if current_platform.is_cpu():
        # One process an engine instead of two: it starts in half the time. What is lost is vLLM's binding of threads to
        # cores, which would bind those of both engines to the same ones.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    compile_nothing_on_a_cpu()
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model), **arguments))
    except (ValueError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"vLLM cannot load the model in {model}: {first}; check its files and architecture") from error


def _family(folder: Path, model: Model) -> Family:
    family = family_of(folder, model)
    check(family, "sample", model.uri)
    return family


def _engine_arguments(family: Family, settings: Settings) -> dict[str, Any]:
    arguments = engine_arguments(family, settings.engine, settings.precision)
    return arguments | {"mm_processor_cache_gb": PICTURE_CACHE_GIB}


def _reference_arguments(family: Family, settings: Settings) -> dict[str, Any]:
    return _engine_arguments(family, settings) | {
        "gpu_memory_utilization": settings.reference_gpu_memory_utilization,
        # Both engines would write to the same Prometheus metrics; those of the policy tell more.
        "disable_log_stats": True,
    }


def _tokens(prompt: Prompt) -> TokensPrompt:
    return cast("TokensPrompt", engine_prompt(prompt))


def _request_id() -> str:
    return uuid.uuid4().hex


def _finish_reason(reason: str | None) -> FinishReason:
    return "length" if reason == "length" else "stop"


def check_same_tokens(policy: Family, reference: Family) -> None:
    """Raise BadInput unless both models read and write the same tokens: else their ratio means nothing."""
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise BadInput("--policy and --reference have different vocabularies; the reference is the policy's own start")
