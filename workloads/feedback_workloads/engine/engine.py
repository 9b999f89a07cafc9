"""One vLLM engine, loaded once a stage, that samples answers, scores given answers and answers yes/no questions.

Requests flow in while others finish, so that the engine's batches stay full across part files. Log-probabilities are
raw: natural logarithms at temperature 1, before top-p and before any banned token (vLLM's `raw_logprobs`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from feedback_workloads import contract
from feedback_workloads.contract import BadInput, Decoding

if TYPE_CHECKING:
    from PIL import Image
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput

ADAPTER_CONFIG: Final = "adapter_config.json"
LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter takes the next one."""

BANNED: Final = -100.0
"""Bias that keeps a token from being sampled; raw log-probabilities are taken before it."""

CPU_BLOCK_TOKENS: Final = 32
"""Prefixes are shared in whole blocks; this is the smallest one that vLLM takes on a CPU."""

Precision = Literal["auto", "float32", "bfloat16"]
Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prompt:
    """Tokens up to where the answer begins, with one unexpanded picture token where there is a picture.

    `picture_key` names the picture: requests that share it share the picture's preparation and its prefix.
    """

    ids: Sequence[int]
    picture: Image.Image | None = None
    picture_key: str = ""


@dataclass(frozen=True)
class Draw:
    """What may differ between the answers to one prompt: the seed and, in an ablation, the temperature."""

    seed: int
    temperature: float


@dataclass(frozen=True)
class Answer:
    """A sampled answer. `token_ids` ends with end-of-sequence where that was sampled; `logprobs` is as long."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int


@dataclass(frozen=True)
class Verdict:
    """Probabilities of yes and of no as the next token, over the full vocabulary and every way to write them."""

    p_yes: float
    p_no: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def accepted(self) -> bool:
        """Ties reject."""
        return self.p_yes > self.p_no


class Engine:
    """A loaded model. Close it when done; as a context it closes itself."""

    def __init__(self, llm: Any, model: Path, window: int) -> None:
        self._llm = llm
        self._base = model
        self._loaded = model
        self._adapter: Any = None
        self._window = window
        self._requests = 0
        self._tokenizer = llm.get_tokenizer()

    @classmethod
    def load(
        cls,
        model: Path,
        settings: contract.Engine,
        precision: Precision = "auto",
        seed: int = 0,
        adapter: Path | None = None,
    ) -> Engine:
        """Load the model of a folder. With `adapter`, room is kept for LoRA adapters of that one's rank and targets.

        Raises BadInput when vLLM cannot load the folder.
        """
        # In one process: nothing can be left behind, and an engine is ready in a third of the time.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kv_cache_gib))
        from vllm import LLM

        arguments = {**_arguments(settings, precision, seed), **_lora_arguments(adapter)}
        try:
            llm = LLM(str(model), **arguments)
        except (ValueError, OSError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise BadInput(
                f"vLLM cannot load the model in {model}: {first}; check its files and architecture"
            ) from error
        return cls(llm, model, window=2 * settings.max_num_seqs)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens, picture and answer included."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    # ── which weights answer ─────────────────────────────────────────────────────────────────────────────────────────

    def use(self, weights: Path) -> None:
        """Answer with other weights of the same architecture from now on: a full checkpoint, or a LoRA adapter.

        An adapter goes on top of the model that the engine was loaded with. Caches of the old weights are dropped.
        """
        if (weights / ADAPTER_CONFIG).exists():
            from vllm.lora.request import LoRARequest

            self._reload(self._base)
            number = 1 + (self._adapter.lora_int_id if self._adapter else 0)
            self._adapter = LoRARequest(f"adapter-{number}", number, str(weights))
            return
        self._adapter = None
        self._reload(weights)

    def _reload(self, weights: Path) -> None:
        if weights == self._loaded:
            return
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(weights)})
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        self._loaded = weights

    # ── what can be asked ────────────────────────────────────────────────────────────────────────────────────────────

    def sample(
        self,
        requests: Iterable[tuple[Key, Prompt, Draw]],
        decoding: Decoding,
        banned: Sequence[int] = (),
    ) -> Iterator[tuple[Key, Answer]]:
        """Sample one answer a request `(key, prompt, draw)`; answers come as they are finished, in any order.

        The draw's temperature takes the place of the decoding's. `banned` tokens are never sampled.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        bias = dict.fromkeys(banned, BANNED) or None

        def params(draw: Draw) -> SamplingParams:
            return SamplingParams(
                temperature=draw.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_new_tokens,
                seed=draw.seed,
                logprobs=0,
                logit_bias=bias,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )

        for key, output in self._run((key, prompt, params(draw)) for key, prompt, draw in requests):
            answer = output.outputs[0]
            yield (
                key,
                Answer(
                    token_ids=tuple(answer.token_ids),
                    logprobs=_of_tokens(answer.logprobs, answer.token_ids),
                    finish_reason="length" if answer.finish_reason == "length" else "stop",
                    prompt_tokens=len(output.prompt_token_ids),
                ),
            )

    def score(self, requests: Iterable[tuple[Key, Prompt, Sequence[int]]]) -> Iterator[tuple[Key, Sequence[float]]]:
        """Log-probabilities of given answers `(key, prompt, token ids)`, one a token: a prefill, nothing generated."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)

        def whole() -> Iterator[tuple[tuple[Key, Sequence[int]], Prompt, SamplingParams]]:
            for key, prompt, answer in requests:
                ids = (*prompt.ids, *answer)
                yield (key, answer), Prompt(ids, prompt.picture, prompt.picture_key), params

        for (key, answer), output in self._run(whole()):
            yield key, _of_tokens(output.prompt_logprobs[-len(answer) :], answer)

    def yes_no(self, requests: Iterable[tuple[Key, Prompt]]) -> Iterator[tuple[Key, Verdict]]:
        """Probabilities of yes and no as the first token of the answer (paper, section 3.2)."""
        from vllm import SamplingParams

        yes, no = self.word_ids("yes"), self.word_ids("no")
        if not yes or not no:
            raise BadInput(f"the tokenizer of {self._base} has no single token for yes and no; name another labeler")
        params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=[*yes, *no], detokenize=False)
        for key, output in self._run((key, prompt, params) for key, prompt in requests):
            found = output.outputs[0].logprobs[0]
            yield (
                key,
                Verdict(
                    p_yes=math.fsum(math.exp(found[i].logprob) for i in yes),
                    p_no=math.fsum(math.exp(found[i].logprob) for i in no),
                    prompt_tokens=len(output.prompt_token_ids),
                    cached_tokens=output.num_cached_tokens or 0,
                ),
            )

    def text_prompt(self, text: str) -> Prompt:
        """A one-turn chat without a picture, up to where the answer begins."""
        ids = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return Prompt(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def word_ids(self, word: str) -> tuple[int, ...]:
        """Every token that is `word` alone: in any case, with or without a leading space as tokenizers write it."""
        vocabulary: Mapping[str, int] = self._tokenizer.get_vocab()
        return tuple(sorted(i for token, i in vocabulary.items() if token.lstrip(" Ġ▁").lower() == word))

    def _run(self, requests: Iterable[tuple[Key, Prompt, SamplingParams]]) -> Iterator[tuple[Key, RequestOutput]]:
        """Keep the engine busy with requests as they come, and yield each output as it is finished."""
        engine, waiting, source = self._llm.llm_engine, {}, iter(requests)
        try:
            while True:
                while len(waiting) < self._window and (request := next(source, None)):
                    key, prompt, params = request
                    self._requests += 1
                    name = str(self._requests)
                    engine.add_request(name, _engine_prompt(prompt), params, lora_request=self._adapter)
                    waiting[name] = key
                if not waiting:
                    return
                for output in engine.step():
                    if output.finished:
                        yield waiting.pop(output.request_id), output
        finally:
            if waiting:
                engine.abort_request(list(waiting))


def _arguments(settings: contract.Engine, precision: Precision, seed: int) -> dict[str, Any]:
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "dtype": ("float32" if on_cpu else "bfloat16") if precision == "auto" else precision,
        "seed": seed,
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": 1},
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_num_seqs": settings.max_num_seqs,
        "max_model_len": settings.max_model_len,
        "max_logprobs": 64,
        "disable_log_stats": False,
    }
    if on_cpu:
        arguments |= {"enforce_eager": True, "block_size": CPU_BLOCK_TOKENS, "skip_mm_profiling": True}
    return arguments


def _lora_arguments(adapter: Path | None) -> dict[str, Any]:
    """Room for one adapter and a spare slot: with a single slot vLLM silently mixes up base and adapter rows."""
    if adapter is None:
        return {}
    data = json.loads((adapter / ADAPTER_CONFIG).read_text())
    targets = sorted({name.rpartition(".")[2] for name in data["target_modules"]} - {"lm_head"})
    rank = next((rank for rank in LORA_RANKS if rank >= data["r"]), LORA_RANKS[-1])
    return {"enable_lora": True, "max_loras": 2, "max_lora_rank": rank, "lora_target_modules": targets}


def _engine_prompt(prompt: Prompt) -> dict[str, Any]:
    if prompt.picture is None:
        return {"prompt_token_ids": list(prompt.ids)}
    given: dict[str, Any] = {"prompt_token_ids": list(prompt.ids), "multi_modal_data": {"image": prompt.picture}}
    if prompt.picture_key:
        given["multi_modal_uuids"] = {"image": prompt.picture_key}
    return given


def _of_tokens(rows: Any, token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-probability of each token, from vLLM's rows of {token: Logprob}."""
    return tuple(row[token].logprob for row, token in zip(rows, token_ids, strict=True))
