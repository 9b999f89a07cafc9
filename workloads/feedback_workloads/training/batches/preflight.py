"""Which pairs may be trained on. A pair that would be cut or would teach the wrong thing is left out, and counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from feedback_workloads.rows.rejected import BadRow


def check_pair(
    *,
    prompt_tokens: int,
    chosen: Sequence[int],
    rejected: Sequence[int],
    chosen_logps: Sequence[float],
    rejected_logps: Sequence[float],
    end_ids: Collection[int],
    banned_ids: Collection[int],
    max_length: int,
) -> None:
    """Raise BadRow where a pair cannot be trained on as it is.

    `prompt_tokens` counts the prompt with its picture expanded; the completions are the sampler's token ids.

    Reasons: empty-completion; missing-logprobs (not one a token); picture-token-in-completion (the forward pass would
    look for a second picture); no-end-of-sequence; identical-completions; too-long (the sequence with the picture
    expanded passes `max_length`; it is never cut).

    An answer that stopped at the sampler's length limit has no end-of-sequence token. As the chosen side it would
    teach to run on, as the rejected side that stopping is what went wrong; and the sums of log-probabilities of the
    two sides would not cover the same events. So both sides must end.
    """
    for side, ids, logps in (("chosen", chosen, chosen_logps), ("rejected", rejected, rejected_logps)):
        if not ids:
            raise BadRow("empty-completion", f"the {side} answer has no tokens")
        if len(logps) != len(ids):
            raise BadRow(
                "missing-logprobs", f"the {side} answer has {len(ids)} tokens but {len(logps)} log-probabilities"
            )
        if banned := set(banned_ids) & set(ids):
            raise BadRow("picture-token-in-completion", f"the {side} answer contains the picture token {min(banned)}")
        if ids[-1] not in end_ids:
            raise BadRow("no-end-of-sequence", f"the {side} answer stopped at the length limit of {len(ids)} tokens")
    if list(chosen) == list(rejected):
        raise BadRow("identical-completions", "chosen and rejected are the same tokens")
    length = prompt_tokens + max(len(chosen), len(rejected))
    if length > max_length:
        raise BadRow(
            "too-long", f"{length} tokens with the picture expanded, more than spec.training.maxLength {max_length}"
        )
