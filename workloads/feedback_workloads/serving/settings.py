"""What the server is told on its command line."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from feedback_workloads.contract import BadInput, EngineConfig, Model, Precision, Ranking, RankingRule
from feedback_workloads.serving.intake.pictures import PictureHosts
from feedback_workloads.serving.protocol.drawing import Defaults

LARGEST_BEST_OF = 64
"""As far as the paper's curve goes."""

MEBIBYTE = 2**20


API_KEY = "FEEDBACK_API_KEY"
"""The variable that has a key beside those of --api-key: on a cluster from a Secret (spec.serving.pod.envFrom)."""


@dataclass(frozen=True)
class Tls:
    """PEM files: a certificate with those that lead to its root, and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Settings:
    """Everything about one server, checked.

    `engine.gpu_memory_utilization` is the policy's share of a GPU and `reference_gpu_memory_utilization` that of the
    reference, where it has an engine of its own (a LoRA policy shares one engine with its base).
    """

    policy: Model
    reference: Model
    model_name: str
    host: str
    port: int
    api_keys: tuple[str, ...]
    cors_origins: tuple[str, ...]
    tls: Tls | None
    beta: float
    defaults: Defaults
    precision: Precision
    engine: EngineConfig
    reference_gpu_memory_utilization: float
    picture_hosts: PictureHosts
    max_picture_bytes: int
    max_queue: int
    unlisted_seconds: float
    drain_seconds: float

    @property
    def fingerprint(self) -> str:
        """Which policy answers, in short: the start of its digest, or where it has none, of its name's."""
        named = f"{self.policy.uri}@{self.policy.revision or ''}"
        return f"fp_{(self.policy.sha256 or hashlib.sha256(named.encode()).hexdigest())[:12]}"

    @property
    def max_body_bytes(self) -> int:
        """Room for the largest picture in base64, and for text."""
        return self.max_picture_bytes * 4 // 3 + MEBIBYTE


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line. Raises BadInput naming the flag, its value and what it may be."""
    options = _parser().parse_args(arguments)
    _check(options)
    return Settings(
        policy=_model(options, "policy"),
        reference=_model(options, "reference"),
        model_name=options.model_name or options.policy.rstrip("/").rpartition("/")[2],
        host=options.host,
        port=options.port,
        api_keys=_keys(options.api_key, os.environ.get(API_KEY)),
        cors_origins=tuple(map(_origin, options.cors_origin)),
        tls=_tls(options.tls_certificate, options.tls_key),
        beta=options.beta,
        defaults=Defaults(
            best_of=options.best_of,
            max_best_of=options.max_best_of,
            ranking=Ranking(rule=options.ranking, weight=options.ranking_lambda or 0.0),
            temperature=options.temperature,
            top_p=options.top_p,
            ranked_temperature=options.ranked_temperature,
            ranked_top_p=options.ranked_top_p,
            max_tokens=options.max_tokens,
        ),
        precision=options.precision,
        engine=EngineConfig(**{name: getattr(options, name) for name in EngineConfig.model_fields}),
        reference_gpu_memory_utilization=options.reference_gpu_memory_utilization,
        picture_hosts=PictureHosts.read(options.picture_host, options.private_picture_host),
        max_picture_bytes=options.max_picture_bytes,
        max_queue=options.max_queue,
        unlisted_seconds=options.unlisted_seconds,
        drain_seconds=options.drain_seconds,
    )


def _model(options: argparse.Namespace, name: str) -> Model:
    """One of the two models, which are asked alike."""
    digest = getattr(options, f"{name}_sha256")
    if digest is not None and re.fullmatch("[0-9a-f]{64}", digest) is None:
        raise BadInput(f"--{name}-sha256 is {digest!r}; give the 64 hexadecimal digits of its manifest.json")
    return Model(
        uri=getattr(options, name),
        revision=getattr(options, f"{name}_revision"),
        sha256=digest,
        system_prompt=options.system_prompt,
        chat_template=options.chat_template,
        processor_kwargs=_processor_kwargs(options.processor_kwargs),
    )


def _processor_kwargs(text: str | None) -> dict[str, Any]:
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise BadInput(f"--processor-kwargs is {text!r}, which is no JSON ({error}); give an object") from error
    if not isinstance(given, dict):
        raise BadInput(f'--processor-kwargs is {text!r}; give an object, such as {{"max_pixels": 1003520}}')
    return given


def _keys(given: Sequence[str], from_environment: str | None) -> tuple[str, ...]:
    keys = [("--api-key", key) for key in given]
    if from_environment is not None:
        keys.append((API_KEY, from_environment))
    for name, key in keys:
        if re.fullmatch("[!-~]+", key) is None:
            raise BadInput(f"{name} is empty or has blanks or letters beyond ASCII; give a key that a header can hold")
    return tuple(key for _, key in keys)


def _origin(text: str) -> str:
    if text != "*" and re.fullmatch("[a-z][a-z0-9+.-]*://[^/?#@\\s]+", text) is None:
        raise BadInput(f"--cors-origin is {text!r}; give scheme://host[:port] without a path, or * for all")
    return text


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadInput("--tls-certificate and --tls-key belong together; give both")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(
            f"--tls-certificate {certificate} and --tls-key {key} cannot be used: {error}; give the PEM files of a "
            "certificate and of its key, without a password"
        ) from error
    return Tls(certificate, key)


@dataclass(frozen=True)
class Range:
    """What a flag may be, ends included."""

    low: float
    high: float = float("inf")

    def check(self, name: str, value: float) -> None:
        if not self.low <= value <= self.high:
            flag = "--" + name.replace("_", "-")
            bounds = f"at least {self.low:g}" if self.high == float("inf") else f"from {self.low:g} to {self.high:g}"
            raise BadInput(f"{flag} is {value:g}; give a value {bounds}")


RANGES = {
    "port": Range(0, 65535),
    "beta": Range(1e-6),
    "max_best_of": Range(1, LARGEST_BEST_OF),
    "best_of": Range(1, LARGEST_BEST_OF),
    "temperature": Range(0, 2),
    "top_p": Range(1e-6, 1),
    "ranked_temperature": Range(1e-6, 2),
    "ranked_top_p": Range(1e-6, 1),
    "ranking_lambda": Range(1e-6, 1000),
    "max_tokens": Range(1),
    "max_num_seqs": Range(1),
    "tensor_parallel_size": Range(1),
    "gpu_memory_utilization": Range(0.01, 1),
    "reference_gpu_memory_utilization": Range(0.01, 1),
    "cpu_kv_cache_gib": Range(1),
    "max_picture_bytes": Range(1),
    "max_queue": Range(0),
    "unlisted_seconds": Range(0),
    "drain_seconds": Range(0),
}


def _check(options: argparse.Namespace) -> None:
    for name, limits in RANGES.items():
        if (value := getattr(options, name)) is not None:
            limits.check(name, value)
    if options.best_of > options.max_best_of:
        raise BadInput(f"--best-of is {options.best_of}; give at most --max-best-of, which is {options.max_best_of}")
    if (options.ranking == "Regularised") != (options.ranking_lambda is not None):
        raise BadInput(
            f"--ranking is {options.ranking}; give --ranking-lambda with Regularised, and with no other rule"
        )


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not that of flags that have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m feedback_workloads.serving",
        description="Serve the best of several answers over an OpenAI-compatible API.",
        formatter_class=_Formatter,
    )
    add = parser.add_argument_group("models").add_argument
    add("--policy", required=True, metavar="SOURCE", help="the aligned model: a checkpoint, or a LoRA adapter's folder")
    add("--reference", required=True, metavar="SOURCE", help="the model before alignment; for an adapter, its base")
    for model in ("policy", "reference"):
        add(f"--{model}-revision", metavar="REVISION", help=f"revision of the {model} on Hugging Face")
        add(f"--{model}-sha256", metavar="DIGEST", help=f"what the {model}'s manifest.json must hash to")
    add("--model-name", metavar="NAME", help="what clients call the model (default: the last part of --policy)")
    add("--system-prompt", metavar="TEXT", help="what a chat begins with that has no system prompt of its own")
    add("--chat-template", metavar="TEXT", help="Jinja, in the place of the models' own template")
    add("--processor-kwargs", metavar="JSON", help="settings of the image processor, as vLLM's --mm-processor-kwargs")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="type of the weights")

    add = parser.add_argument_group("answers").add_argument
    add("--best-of", type=int, default=1, metavar="N", help="candidates where a request does not say")
    add("--max-best-of", type=int, default=LARGEST_BEST_OF, metavar="N", help="the most a request may ask for")
    add("--beta", type=float, default=0.1, metavar="B", help="scale of the reward, as in training")
    add("--ranking", choices=get_args(RankingRule), default="LogRatio", help="by what candidates are ranked")
    add("--ranking-lambda", type=float, metavar="L", help="weight of the rule Regularised")
    add("--temperature", type=float, default=0.0, metavar="T", help="of one answer, where a request does not say")
    add("--top-p", type=float, default=1.0, metavar="P", help="of one answer, where a request does not say")
    add(
        "--ranked-temperature", type=float, default=0.7, metavar="T", help="of candidates, where a request does not say"
    )
    add("--ranked-top-p", type=float, default=0.9, metavar="P", help="of several, where a request does not say")
    add("--max-tokens", type=int, default=512, metavar="N", help="where a request does not say")

    add = parser.add_argument_group("network and limits").add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    add("--api-key", action="append", default=[], metavar="KEY",
        help=f"what clients must send as their key, as well as ${API_KEY}; may be given again")  # fmt: skip
    add("--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="an origin whose pages may ask, as https://host, or * for all; may be given again")  # fmt: skip
    add("--tls-certificate", type=Path, metavar="FILE", help="PEM file; the server then speaks HTTPS")
    add("--tls-key", type=Path, metavar="FILE", help="PEM file of the certificate's key")
    add("--picture-host", action="append", default=[], metavar="HOST[:PORT]",
        help="a host with public addresses that pictures may be fetched from; may be given again")  # fmt: skip
    add("--private-picture-host", action="append", default=[], metavar="HOST[:PORT]",
        help="the same for a host inside, whose addresses are not public")  # fmt: skip
    add("--max-picture-bytes", type=int, default=20 * MEBIBYTE, metavar="BYTES", help="the largest encoded picture")
    add("--max-queue", type=int, default=64, metavar="N", help="requests that may wait; the next is answered 429")
    add("--unlisted-seconds", type=float, default=0.0, metavar="S",
        help="time after SIGTERM in which requests are still taken, until load balancers know")  # fmt: skip
    add("--drain-seconds", type=float, default=25.0, metavar="S", help="time that running requests get then")

    add = parser.add_argument_group("engine").add_argument
    _add_engine(add)
    add("--reference-gpu-memory-utilization", type=float, default=0.4, metavar="SHARE",
        help="the reference's share, where it is a full checkpoint")  # fmt: skip
    return parser


def _add_engine(add: Any) -> None:
    usual = {name: field.default for name, field in EngineConfig.model_fields.items()}
    add("--max-model-len", type=int, metavar="N", help="longest prompt and answer (default: what the model can)")
    add("--max-num-seqs", type=int, default=usual["max_num_seqs"], metavar="N", help="candidates computed at once")
    add("--tensor-parallel-size", type=int, default=usual["tensor_parallel_size"], metavar="N", help="GPUs a model")
    add("--gpu-memory-utilization", type=float, default=0.5, metavar="SHARE", help="the policy's share of a GPU")
    add("--cpu-kv-cache-gib", type=int, default=usual["cpu_kv_cache_gib"], metavar="GIB", help="without a GPU")
