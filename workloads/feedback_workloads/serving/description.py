"""What the server takes and gives, as OpenAPI: the schemas of its calls are those by which it reads and writes them.

Null is left out of them, though it is taken wherever a field may be absent.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from feedback_workloads.serving.protocol.chat import ChatRequest, Chunk, Completion
from feedback_workloads.serving.protocol.completions import CompletionRequest, TextCompletion
from feedback_workloads.serving.protocol.parts import ModelList
from feedback_workloads.serving.protocol.responses import Event, Response, ResponsesRequest
from feedback_workloads.serving.protocol.scores import RerankList, RerankRequest, ScoreList, ScoreRequest
from feedback_workloads.serving.protocol.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens

CALLS: Final[dict[str, tuple[type[BaseModel], type[BaseModel]]]] = {
    "/v1/chat/completions": (ChatRequest, Completion),
    "/v1/completions": (CompletionRequest, TextCompletion),
    "/v1/responses": (ResponsesRequest, Response),
    "/v1/score": (ScoreRequest, ScoreList),
    "/score": (ScoreRequest, ScoreList),
    "/v1/rerank": (RerankRequest, RerankList),
    "/v2/rerank": (RerankRequest, RerankList),
    "/rerank": (RerankRequest, RerankList),
    "/tokenize": (TokenizeRequest, Tokens),
    "/detokenize": (DetokenizeRequest, Detokenized),
}
"""What is posted where, and what comes back."""

STREAMED: Final = {"/v1/chat/completions": Chunk, "/v1/completions": TextCompletion, "/v1/responses": Event}
"""Of what a stream has one an event."""

ERROR: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, all of whose posts are in `CALLS`."""
    kinds: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for asked, answered in CALLS.values():
        kinds |= {(asked, "validation"): None, (answered, "serialization"): None}
    kinds |= dict.fromkeys((kind, "serialization") for kind in (*STREAMED.values(), ModelList))
    found, definitions = models_json_schema(list(kinds), ref_template="#/components/schemas/{model}")
    document = get_openapi(title=app.title, version=metadata.version("feedback-operator"), routes=app.routes)
    for path, (asked, answered) in CALLS.items():
        operation = document["paths"][path]["post"]
        operation["requestBody"] = {"required": True, "content": _json(found[asked, "validation"])}
        operation["responses"] = {
            "200": {"description": "Answered.", "content": _json(found[answered, "serialization"])},
            "default": {"description": "An error, as OpenAI tells it.", "content": _json(ERROR)},
        }
        if path in STREAMED:
            event = {"schema": found[STREAMED[path], "serialization"]}
            operation["responses"]["200"]["content"]["text/event-stream"] = event
    models = document["paths"]["/v1/models"]["get"]["responses"]["200"]
    models["content"] = _json(found[ModelList, "serialization"])
    document["components"] = {"schemas": definitions["$defs"]}
    return document


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
