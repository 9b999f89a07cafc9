"""The rows that stages exchange, as Arrow schemas."""

from __future__ import annotations

import pyarrow as pa


def _strict(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SAMPLES = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("question", pa.string()),
        _strict("answer", pa.string()),
        _strict("token_ids", pa.list_(pa.int32())),
        _strict("logprobs", pa.list_(pa.float32())),
        _strict("temperature", pa.float32()),
        _strict("seed", pa.int64()),
        _strict("finish_reason", pa.string()),
        _strict("prompt_tokens", pa.int32()),
    ]
)
"""One row a candidate answer. `token_ids` is the completion, with EOS where it was sampled; `logprobs` has one raw
value (temperature 1) a token; `finish_reason` is `stop` or `length`."""

CLAIMS = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("claims", pa.list_(pa.string())),
        _strict("questions", pa.list_(pa.string())),
    ]
)
"""One row an answer: its claims and one yes/no question for each. Both lists are empty where nothing was claimed."""

VERDICTS = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("p_yes", pa.list_(pa.float32())),
        _strict("p_no", pa.list_(pa.float32())),
        _strict("accepted", pa.list_(pa.bool_())),
    ]
)
"""One row an answer, one list element a claim: probabilities over the full vocabulary, and p_yes > p_no. What is
missing of p_yes + p_no to 1 is the probability that the labeler answers otherwise."""

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""A picture as Hugging Face `datasets` stores it."""

_PICTURE_METADATA = {"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'}
"""So that datasets.load_dataset decodes the picture."""

INSTRUCTIONS = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("image", IMAGE),
        _strict("question", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("truth", pa.string()),
        pa.field("split", pa.string()),
        _strict("source", pa.string()),
        pa.field("attribution", pa.string()),
    ],
    metadata=_PICTURE_METADATA,
)
"""One row an instruction that was made of public data. `reference` is an answer that its authors have, `truth` what a
benchmark judges by, `source` the name of the data set, `attribution` who is to be named with the picture."""

PREFERENCES = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("image", IMAGE),
        _strict("question", pa.string()),
        _strict("chosen", pa.string()),
        _strict("rejected", pa.string()),
        pa.field("logps", pa.string()),
        _strict("source", pa.string()),
        pa.field("origin", pa.string()),
    ],
    metadata=_PICTURE_METADATA,
)
"""One row a pair that others made. `logps` is their JSON of reference log-probabilities: sum, mean and one a token of
the chosen answer, then of the rejected one; `origin` a JSON object of whatever else their row says."""

PAIRS = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("image", IMAGE),  # datasets takes it for a picture only where it may be null
        _strict("question", pa.string()),
        _strict("chosen", pa.string()),
        _strict("rejected", pa.string()),
        _strict("chosen_token_ids", pa.list_(pa.int32())),
        _strict("rejected_token_ids", pa.list_(pa.int32())),
        _strict("chosen_logps", pa.list_(pa.float32())),
        _strict("rejected_logps", pa.list_(pa.float32())),
        _strict("chosen_candidate", pa.int32()),
        _strict("rejected_candidate", pa.int32()),
        _strict("chosen_score", pa.int32()),
        _strict("rejected_score", pa.int32()),
        _strict("chosen_claims", pa.list_(pa.string())),
        _strict("rejected_claims", pa.list_(pa.string())),
        _strict("chosen_accepted", pa.list_(pa.bool_())),
        _strict("rejected_accepted", pa.list_(pa.bool_())),
    ],
    metadata=_PICTURE_METADATA,
)
"""One row a pair: a self-contained preference data set. `*_logps` are the sampler's raw values, one a token; a score is
minus the number of claims that were not accepted. Of pairs that were made elsewhere there is no sampler: `*_logps` are
no numbers (NaN), `*_candidate` is -1, `*_score` 0, and there are no claims."""

MESSAGES = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string()),
            pa.field("content", pa.list_(pa.struct([pa.field("type", pa.string()), pa.field("text", pa.string())]))),
        ]
    )
)
"""Turns as Hugging Face has them: parts of type `text` have a text, those of type `image` stand for a picture each."""

PAIRS_OF_CONVERSATIONS = pa.schema(
    [
        PAIRS.field("id"),
        pa.field("images", pa.list_(IMAGE)),
        pa.field("messages", MESSAGES),
        *(field for field in PAIRS if field.name not in {"id", "image", "question"}),
    ],
    metadata={
        "huggingface": '{"info": {"features": {"images": {"feature": {"_type": "Image"}, "_type": "List"}}}}',
    },
)
"""PAIRS of a data set in which some row has several pictures or turns: `images` and `messages` take the place of
`image` and `question`. All rows of an artifact are of one form."""

SCORES = pa.schema(
    [
        _strict("checkpoint", pa.string()),
        _strict("benchmark", pa.string()),
        _strict("split", pa.string()),
        _strict("drawn", pa.string()),
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("answer", pa.string()),
        _strict("tokens", pa.int32()),
        _strict("logp", pa.float64()),
        pa.field("other_logp", pa.float64()),
        _strict("mentions", pa.int32()),
        _strict("hallucinated", pa.int32()),
        _strict("covered", pa.int32()),
        _strict("truth_total", pa.int32()),
        _strict("expected", pa.int32()),
        _strict("expected_covered", pa.int32()),
        _strict("spans", pa.list_(pa.struct([_strict("start", pa.int32()), _strict("end", pa.int32())]))),
    ]
)
"""One row a scored answer. `checkpoint` is `baseline` or a checkpoint's name; `drawn` is `once` for the one answer of
each model, `ranked` for candidates of a ranking; `logp` is its log-probability under the model that gave it,
`other_logp` that under the model it is compared with, where it is; the numbers are those of `Judgement`; `spans` are
the hallucinated words, as character offsets [start, end) in the answer."""

REJECTED = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("candidate", pa.int32()),
        _strict("reason", pa.string()),
        _strict("detail", pa.string()),
    ]
)
"""One row a `Rejected`."""
