"""Log-probabilities out of vLLM: of what it sampled, and of answers that are given.

The stages and the server weigh given answers with these functions and nothing else. Log-probabilities are raw: natural
logarithms at temperature 1 (vLLM's `raw_logprobs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput


def of_tokens(rows: Any, token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-probability of each token, from vLLM's rows of {token: Logprob}."""
    return tuple(row[token].logprob for row, token in zip(rows, token_ids, strict=True))


def most_likely(rows: Any, number: int) -> tuple[tuple[tuple[int, float], ...], ...]:
    """At each position the `number` most likely tokens with their log-probabilities, from the same rows.

    vLLM puts the token that was sampled among them, wherever it stands.
    """
    found = (sorted(((token, one.logprob) for token, one in row.items()), key=lambda pair: -pair[1]) for row in rows)
    return tuple(tuple(row[:number]) for row in found)


def read_with_prompt(answer: Sequence[int]) -> Sequence[int]:
    """What is put behind the prompt to weigh an answer: all but its last token.

    So whatever was sampled can be weighed, however long it is.
    """
    return answer[:-1]


def weighing(answer: Sequence[int], top: int = 0) -> SamplingParams:
    """What to ask of a prompt with `read_with_prompt(answer)` behind it: a prefill and one step.

    `top` most likely tokens come with each of the answer's.
    """
    from vllm import SamplingParams

    # The last token is drawn, since no other may be; its log-probability is from before that. To ask for the token by
    # `logprob_token_ids` would take from all who are in the same batch the likely tokens that they ask for, silently.
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=top,
        logprobs=top,
        allowed_token_ids=[answer[-1]],
        detokenize=False,
    )


def weighed(output: RequestOutput, answer: Sequence[int]) -> list[Any]:
    """vLLM's row of each of the answer's tokens, from the output of `weighing`; see `of_tokens` and `most_likely`."""
    assert output.prompt_logprobs is not None
    assert output.outputs[0].logprobs is not None
    rows = list(output.prompt_logprobs)
    return [*rows[len(rows) - len(answer) + 1 :], *output.outputs[0].logprobs]
