"""One vLLM engine, loaded once a stage, that samples answers, scores given answers and answers yes/no questions.

Requests flow in while others finish, so that the engine's batches stay full across part files. Log-probabilities are
raw: natural logarithms at temperature 1, before top-p and before any banned token (vLLM's `raw_logprobs`).
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from feedback_workloads import contract
from feedback_workloads.contract import BadInput, Decoding, Precision, Temporary
from feedback_workloads.engine.arguments import Adapter, check_quantized, compile_nothing_on_a_cpu, engine_arguments
from feedback_workloads.engine.logprobs import of_tokens, read_with_prompt, weighed, weighing
from feedback_workloads.models.adapters import ADAPTER_CONFIG
from feedback_workloads.models.family import Family, Prompt
from feedback_workloads.models.overrides import quantized
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput

BANNED: Final = -100.0
"""Bias that keeps a token from being sampled; raw log-probabilities are taken before it."""

PROBE_TOKENS: Final = 16

LONGEST: Final = 600
"""Characters of what vLLM says of a model that it does not load."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Draw:
    """What may differ between the answers to one prompt: the seed and, in an ablation, the temperature."""

    seed: int
    temperature: float


@dataclass(frozen=True)
class Sampled:
    """A sampled answer. `token_ids` ends with end-of-sequence where that was sampled; `logprobs` is as long."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int


@dataclass(frozen=True)
class Verdict:
    """Probabilities of yes and of no as the next token, over the full vocabulary and every way to write them.

    `cached_tokens` of the `prompt_tokens` were not computed, for an earlier prompt began with them.
    """

    p_yes: float
    p_no: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def accepted(self) -> bool:
        """Ties reject."""
        return self.p_yes > self.p_no

    @property
    def mass(self) -> float:
        """Probability that the answer begins with yes or no at all."""
        return self.p_yes + self.p_no


class Engine:
    """A loaded model, one at a time in a process. Close it when done; as a context it closes itself.

    The methods that take requests `(key, prompt, ...)` are generators: they read a request when there is room for it,
    and yield `(key, result)` as soon as it is there, in any order. An iterator of requests that ends is asked again
    after each result, since a result may give rise to a request. Leaving a generator early drops what is unfinished.
    """

    def __init__(self, llm: Any, family: Family, window: int) -> None:
        self.family = family
        self._llm = llm
        self._loaded = family.folder
        self._adapter: Any = None
        self._adapters = 0
        self._window = window
        self._requests = 0
        self._rendered: tuple[Prompt, Any] | None = None

    @classmethod
    def load(
        cls,
        family: Family,
        settings: contract.EngineConfig,
        precision: Precision = "auto",
        seed: int = 0,
        adapter: Path | None = None,
    ) -> Engine:
        """Load the family's model. With `adapter`, room is kept for LoRA adapters of that one's rank and targets.

        Precision `auto` is bfloat16 on a GPU and float32 on a CPU. Raises BadInput when vLLM cannot load it.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            # A process of its own would compete for the same cores, and import everything once more. Beside a GPU it
            # prepares pictures while the GPU works.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        compile_nothing_on_a_cpu()
        check_quantized(family, precision)
        arguments = engine_arguments(family, settings, precision, seed)
        if adapter is not None:
            arguments |= Adapter.read(adapter).engine_arguments()
        # Where vLLM lacks the arithmetic for quantized weights on a processor, each kind of layer says so in its way.
        unfit = (RuntimeError,) if current_platform.is_cpu() and quantized(family.config) else ()
        try:
            llm = LLM(str(family.folder), **arguments)
        except (ValueError, OSError, KeyError, NotImplementedError, *unfit) as error:
            line = " ".join(str(error).split())[:LONGEST]
            raise BadInput(
                f"vLLM cannot load the model in {family.folder}: {line}; check its files, its architecture and the "
                "engine's settings"
            ) from error
        # Twice what runs at once: whatever finishes, there is a prepared request to take its place.
        return cls(llm, family, window=2 * settings.max_num_seqs)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine with all its processes, and free its memory."""
        self._rendered = None
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()  # vLLM's objects refer to each other in circles

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens, picture and answer included."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def check(self, prompt: Prompt) -> None:
        """Raise BadRow `prompt-too-long` unless the model can read the prompt and answer at least one token.

        Raises BadInput where vLLM would show a picture otherwise than the model sees it.
        """
        if prompt.shown and self._sees_one_way:
            raise BadInput(
                f"{self.family.model.uri} lets the tokens of a picture see each other both ways, which vLLM computes "
                "on GPUs alone: its answers would be another model's; give the pods a GPU, or name another model"
            )
        # Never by rendering it: vLLM takes a picture that was rendered for one that was sent, and does not send it with
        # the next prompt.
        if prompt.length >= self.max_model_len:
            raise BadRow(
                "prompt-too-long", f"{prompt.length} tokens leave no room for an answer within {self.max_model_len}"
            )

    @cached_property
    def _sees_one_way(self) -> bool:
        """Whether tokens of a picture see those before them alone, although the model's see all of them."""
        from vllm.platforms import current_platform

        return bool(current_platform.is_cpu() and self._llm.llm_engine.model_config.is_mm_prefix_lm)

    # ── which weights answer ─────────────────────────────────────────────────────────────────────────────────────────

    def use(self, weights: Path) -> None:
        """Answer with other weights of the same architecture from now on: a full checkpoint, or a LoRA adapter.

        An adapter goes on top of the model that the engine was loaded with. Caches of the old weights are dropped.
        """
        if (weights / ADAPTER_CONFIG).exists():
            from vllm.lora.request import LoRARequest

            self._reload(self.family.folder)
            self._adapters += 1  # an adapter is known by its number, so that each one needs another
            self._adapter = LoRARequest(f"adapter-{self._adapters}", self._adapters, str(weights))
        else:
            self._adapter = None
            self._reload(weights)

    def _reload(self, weights: Path) -> None:
        if weights == self._loaded:
            return
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(weights)})
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()
        self._rendered = None
        self._loaded = weights

    # ── what can be asked ────────────────────────────────────────────────────────────────────────────────────────────

    def sample(
        self,
        requests: Iterable[tuple[Key, Prompt, Draw]],
        decoding: Decoding,
    ) -> Iterator[tuple[Key, Sampled]]:
        """Sample one answer a request. The draw's temperature takes the place of the decoding's.

        The family's banned tokens are never sampled, which leaves log-probabilities as they are. Requests with one and
        the same prompt that follow each other share its preparation and its prefix.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        bias = dict.fromkeys(self.family.banned_ids, BANNED) or None

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

        def request(given: tuple[Key, Prompt, Draw]) -> tuple[Key, Any, SamplingParams]:
            key, prompt, draw = given
            return key, self._render(prompt), params(draw)

        for key, output in self._run(map(request, requests)):
            answer = output.outputs[0]
            yield (
                key,
                Sampled(
                    token_ids=tuple(answer.token_ids),
                    logprobs=of_tokens(answer.logprobs, answer.token_ids),
                    finish_reason="length" if answer.finish_reason == "length" else "stop",
                    prompt_tokens=len(output.prompt_token_ids),
                ),
            )

    def score(self, requests: Iterable[tuple[Key, Prompt, Sequence[int]]]) -> Iterator[tuple[Key, Sequence[float]]]:
        """Log-probabilities of given answers `(key, prompt, token ids)`, one a token: a prefill and one step.

        Whatever `sample` returned can be scored, however long it is: the last token is not part of the prefill.
        """

        def request(
            given: tuple[Key, Prompt, Sequence[int]],
        ) -> tuple[tuple[Key, Sequence[int]], Any, SamplingParams]:
            key, prompt, answer = given
            rendered = self._render(prompt)
            whole = {**rendered, "prompt_token_ids": [*rendered["prompt_token_ids"], *read_with_prompt(answer)]}
            return (key, answer), whole, weighing(answer)

        for (key, answer), output in self._run(map(request, requests)):
            yield key, of_tokens(weighed(output, answer), answer)

    def yes_no(self, requests: Iterable[tuple[Key, Prompt]]) -> Iterator[tuple[Key, Verdict]]:
        """Probabilities of yes and no as the first token of the answer (paper, section 3.2).

        Prompts about one picture should follow each other: the first computes the prefix that the others share.
        """
        from vllm import SamplingParams

        yes, no = self.family.word_ids("yes"), self.family.word_ids("no")
        if not yes or not no:
            raise BadInput(
                f"the tokenizer of {self.family.folder} has no single token for yes and no; name another labeler"
            )
        params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=[*yes, *no], detokenize=False)

        def request(given: tuple[Key, Prompt]) -> tuple[Key, Any, SamplingParams]:
            key, prompt = given
            return key, self._render(prompt), params

        for key, output in self._run(map(request, requests)):
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

    def repeats(self) -> bool:
        """Whether a request that is sampled again with its seed gives the same tokens, on this hardware."""
        prompt, draw = Prompt(self.family.tokenizer.encode("Seven.")), Draw(seed=7, temperature=1.0)
        decoding = Decoding(max_new_tokens=PROBE_TOKENS)
        first, again = (answer.token_ids for _ in range(2) for _, answer in self.sample([(0, prompt, draw)], decoding))
        return first == again

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _render(self, prompt: Prompt) -> Any:
        """The prompt as the engine takes it, its picture prepared and expanded; the last one is kept."""
        if self._rendered is None or self._rendered[0] is not prompt:
            from vllm.renderers.inputs.preprocess import parse_model_prompt

            engine = self._llm.llm_engine
            (rendered,) = engine.renderer.render_cmpl([parse_model_prompt(engine.model_config, engine_prompt(prompt))])
            self._rendered = prompt, rendered
        return self._rendered[1]

    def _run(self, requests: Iterator[tuple[Key, Any, SamplingParams]]) -> Iterator[tuple[Key, RequestOutput]]:
        """Keep the engine busy with rendered requests as they come, and yield each output as it is finished."""
        engine, waiting = self._llm.llm_engine, dict[str, Key]()
        try:
            while True:
                while len(waiting) < self._window and (request := next(requests, None)):
                    key, rendered, params = request
                    self._requests += 1
                    name = str(self._requests)
                    engine.add_request(name, rendered, params, lora_request=self._adapter)
                    waiting[name] = key
                if not waiting:
                    return
                for output in engine.step():
                    if output.finished:
                        reason = output.outputs[0].finish_reason
                        if reason not in {"stop", "length"}:  # an answer that is not whole must not pass for one
                            raise Temporary(f"vLLM ended a request with {reason!r}; run the stage again, it goes on")
                        yield waiting.pop(output.request_id), output
        except GeneratorExit:
            engine.abort_request(list(waiting))
            raise


def engine_prompt(prompt: Prompt) -> dict[str, Any]:
    """The prompt as vLLM's `TokensPrompt`."""
    if not prompt.shown:
        return {"prompt_token_ids": list(prompt.ids)}
    return {
        "prompt_token_ids": list(prompt.ids),
        "multi_modal_data": {"image": list(prompt.pictures)},
        "multi_modal_uuids": {"image": [one.key for one in prompt.shown]},
    }
