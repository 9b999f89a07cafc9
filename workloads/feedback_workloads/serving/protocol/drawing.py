"""How answers are drawn, as chats and completions say it alike, and what follows from it with nothing left open.

`ranking` and `return_scores` are ours; `best_of` OpenAI has for completions alone; `return_token_ids`, `top_k`,
`min_p`, `min_tokens` and `repetition_penalty` are as in vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from feedback_workloads.contract import Ranking
from feedback_workloads.serving.errors import invalid
from feedback_workloads.serving.protocol.parts import Ignored, RankingRequest, RequestPart

MAX_STOPS = 4
"""As OpenAI."""

MAX_TOP_LOGPROBS = 20
"""As OpenAI."""

SEED_LIMIT = 2**63
"""Seeds are signed 64-bit integers."""


FinishReason = Literal["stop", "length"]


# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


class StreamOptions(RequestPart):
    include_usage: bool = False
    include_obfuscation: Ignored = None


TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
"""As a name in a JSON object."""


Stop = Annotated[str, Field(min_length=1)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS)]


def _as_stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class DrawingRequest(RequestPart):
    """What a request may say of how its answers are drawn, ranked and told."""

    model: str
    n: Annotated[int, Field(ge=1)] = 1
    best_of: Annotated[int, Field(ge=1)] | None = None
    ranking: RankingRequest | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    stop: Annotated[Stops, BeforeValidator(_as_stops, json_schema_input_type=Stop | Stops)] = Field(default=[])
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_scores: bool = False
    return_token_ids: bool = False
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_tokens: Annotated[int, Field(ge=0)] = 0
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = Field(default={})
    user: Ignored = None

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer; None leaves it to the server."""
        return self.max_tokens

    @property
    def told_logprobs(self) -> int | None:
        """How many likely tokens are told with each that was drawn; None where no log-probabilities are."""
        return None

    @property
    def schema_text(self) -> str | None:
        """What an answer must be, as JSON Schema; None where it may be any text."""
        return None


# ── what is wanted, with nothing left open ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Defaults:
    """What this server does where a request does not say, and the most that it allows.

    `temperature` and `top_p` are those of one answer, `ranked_temperature` and `ranked_top_p` those of several.
    """

    best_of: int
    max_best_of: int
    ranking: Ranking
    temperature: float
    top_p: float
    ranked_temperature: float
    ranked_top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Shaping:
    """How the model's own distribution is changed before a token is drawn, in vLLM's terms.

    Log-probabilities and rewards are of the distribution before that. `logit_bias` has pairs of token id and bias.
    """

    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A request's parameters, checked against each other and complete.

    `max_tokens` of None means as many as the server's default and the model's context allow; `top_logprobs` of None
    that no log-probabilities are told; `schema` of None that an answer may be any text.
    """

    n: int
    best_of: int
    ranking: Ranking
    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    shaping: Shaping
    scores: bool
    token_ids: bool
    top_logprobs: int | None
    schema: str | None

    @property
    def ranked(self) -> bool:
        """Whether answers are scored at all."""
        return self.best_of > 1 or self.scores


def wanted(request: DrawingRequest, defaults: Defaults) -> Wanted:
    """Fill in the defaults. Raises ApiError (400) where fields contradict each other or exceed the server's limits."""
    for field in ("n", "best_of"):
        if (asked := getattr(request, field)) is not None and asked > defaults.max_best_of:
            raise invalid(field, f"{field} is {asked}; this server gives at most {defaults.max_best_of}")
        if request.temperature == 0 and asked is not None and asked > 1:
            raise invalid(field, f"{field} is {asked}, but temperature 0 gives one answer; raise temperature")
    default_best_of = 1 if request.temperature == 0 else max(request.n, defaults.best_of)
    best_of = default_best_of if request.best_of is None else request.best_of
    if best_of > 1:
        temperature, top_p = defaults.ranked_temperature, defaults.ranked_top_p
    else:
        temperature, top_p = defaults.temperature, defaults.top_p
    if best_of < request.n:
        raise invalid("best_of", f"best_of is {best_of}, less than n, which is {request.n}; raise best_of")
    if request.ranking and best_of == 1 and not request.return_scores:
        raise invalid("ranking", "ranking is given, but one answer is drawn; raise best_of")
    if request.stream_options is not None and request.stream_options.include_usage and not request.stream:
        raise invalid("stream_options", "stream_options.include_usage needs stream to be true")
    if (longest := request.longest) is not None and request.min_tokens > longest:
        raise invalid("min_tokens", f"min_tokens is {request.min_tokens}, more than max_tokens, which is {longest}")
    if request.return_token_ids and request.stream:
        raise invalid("return_token_ids", "return_token_ids needs stream to be false")
    return Wanted(
        n=request.n,
        best_of=best_of,
        ranking=request.ranking.ranking if request.ranking else defaults.ranking,
        temperature=temperature if request.temperature is None else request.temperature,
        top_p=top_p if request.top_p is None else request.top_p,
        max_tokens=longest,
        seed=request.seed,
        stop=tuple(request.stop),
        shaping=Shaping(
            top_k=request.top_k,
            min_p=request.min_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            repetition_penalty=request.repetition_penalty,
            min_tokens=request.min_tokens,
            logit_bias=tuple((int(token), bias) for token, bias in request.logit_bias.items()),
        ),
        scores=request.return_scores,
        token_ids=request.return_token_ids,
        top_logprobs=request.told_logprobs,
        schema=request.schema_text,
    )
