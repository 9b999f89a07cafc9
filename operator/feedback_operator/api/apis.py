"""Models behind OpenAI-compatible APIs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from feedback_operator.api.base import Heat, HTTPAddress, Integer, Money, ObjectName, Resource, plain_json
from feedback_operator.api.rules import OPERATIONAL, Rule
from feedback_workloads.contract import Price, Requests


class SecretKey(Resource):
    """One key of a Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")] = Field(
        description="Which of its entries is the API's key."
    )


class PriceSpec(Resource):
    """What an API costs, in any one currency. Counted are the tokens that the API tells."""

    input: Money = Field(default="0", description="Price of a million tokens that are sent, pictures included.")
    output: Money = Field(default="0", description="Price of a million tokens that come back.")


class SpendingLimits(Resource):
    """What a stage may spend. Once it is reached nothing is sent; requests that are under way come on top."""

    tokens: Annotated[Integer, Field(ge=1, le=1000000000000)] | None = Field(
        default=None, description="Most tokens, sent and received; absent: no limit."
    )
    cost: Money | None = Field(default=None, description="Most money, in the currency of price; absent: no limit.")


class APISpec(Resource):
    """A model behind an OpenAI-compatible API: a provider's, or a vLLM server in the cluster."""

    RULES = (
        Rule(
            cel="!has(self.limits) || !has(self.limits.cost) || has(self.price)",
            message="limits.cost needs price",
            holds=lambda api: api.limits is None or api.limits.cost is None or api.price is not None,
        ),
    )

    url: HTTPAddress = Field(
        description="Address that ends where /chat/completions follows, such as https://api.openai.com/v1."
    )
    model: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x20\x7f]+$")] = Field(
        description="Name of the model at the API."
    )
    key_secret_ref: Annotated[SecretKey | None, OPERATIONAL] = Field(
        default=None,
        description="Where the API's key is; absent: none is sent. feedback run reads it from the environment.",
    )
    parameters: (
        Annotated[
            dict[str, Any],
            Field(max_length=32, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
            BeforeValidator(plain_json),
        ]
        | None
    ) = Field(
        default=None,
        description="What is sent with each request besides, such as reasoning_effort, or chat_template_kwargs of "
        "vLLM that switch thinking off. It goes before what the stage says.",
    )
    concurrency: Annotated[Integer, OPERATIONAL] = Field(
        default=16, ge=1, le=1024, description="Requests of one pod that are under way at once."
    )
    retries: Annotated[Integer, OPERATIONAL] = Field(
        default=8,
        ge=0,
        le=100,
        description="How often one request is sent again where the API has too much to do (HTTP 429, after as long as "
        "it asks for), fails (500 and above) or breaks the connection. Other refusals end the stage at once.",
    )
    request_timeout_seconds: Annotated[Integer, OPERATIONAL] = Field(
        default=120, ge=1, le=3600, description="Longest silence of the API within a request."
    )
    price: Annotated[PriceSpec | None, OPERATIONAL] = Field(
        default=None, description="What tokens cost; absent: money is not counted."
    )
    limits: Annotated[SpendingLimits | None, OPERATIONAL] = Field(
        default=None, description="What the stage may spend, over all its attempts; absent: no limit."
    )


class VotesSpec(Resource):
    """Answers to each question that are drawn from the model, of which the first word counts: yes or no."""

    number: Integer = Field(default=5, ge=1, le=64, description="Answers to each question; ties reject.")
    temperature: Heat = Field(default="1", description="Sampling temperature, above 0 and at most 2.")
    max_new_tokens: Integer = Field(
        default=16, ge=1, le=32768, description="Longest answer in tokens, thoughts included."
    )


class LabelerAPISpec(APISpec):
    """A multimodal model behind an OpenAI-compatible API that answers the yes/no questions."""

    votes: VotesSpec | None = Field(
        default=None,
        description="For an API or a model that does not tell how likely its tokens are: p(yes) is the share of "
        "answers that say yes. Absent: p(yes) is read from the log-probabilities of the first token.",
    )
    max_picture_side: Annotated[Integer, Field(ge=16, le=16384)] | None = Field(
        default=None,
        description="Longest side in pixels of the pictures that are sent; larger ones are scaled down. Absent: as "
        "they are.",
    )


def requests_of(api: APISpec) -> Requests:
    """How the API is asked, as stages are given it."""
    price, limits = api.price or PriceSpec(), api.limits or SpendingLimits()
    return Requests(
        concurrency=api.concurrency,
        retries=api.retries,
        timeout_seconds=api.request_timeout_seconds,
        price=Price(input=float(price.input), output=float(price.output)),
        max_tokens=limits.tokens,
        max_cost=None if limits.cost is None else float(limits.cost),
    )
