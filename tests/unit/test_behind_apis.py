"""A labeler and a splitter behind an API: what they send, what becomes of what comes back, what is found at once."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feedback_workloads.contract import (
    APILabeler,
    APIModel,
    APISplitter,
    Artifact,
    BadInput,
    Decoding,
    LabelingConfig,
    Manifest,
    Price,
    Requests,
    SamplingConfig,
    Source,
    SplittingConfig,
    Votes,
    shard_uri,
)
from feedback_workloads.method.splitting import REQUEST
from feedback_workloads.models.pictures import data_url
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.schemas import CLAIMS, IMAGE, SAMPLES
from feedback_workloads.stages import labeling, splitting
from feedback_workloads.stages.behind_apis import PROBE_QUESTION, APIJudge
from feedback_workloads.stages.preflight import check_apis
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.unit.judges import Answer, AskedJudge, Sent, completion, failure, judge_that
from tests.unit.test_apis import likely

QUICK = Requests(concurrency=2, retries=0, price=Price(input=2.0, output=8.0))


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELING_API_KEY", "labelers")
    monkeypatch.setenv("OPENAI_API_KEY", "everyones")


def picture(shade: int, size: tuple[int, int] = (40, 30), kind: str = "PNG", mode: str = "RGB") -> bytes:
    data = BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(data, kind)
    return data.getvalue()


def artifact(store: ArtifactStore, folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> Artifact:
    with store.append(str(folder), schema) as parts:
        parts.write(rows)
        manifest = Manifest(stage="any", config={}, config_hash="", files=parts.files(), counts=parts.counts())
    return store.publish(str(folder), manifest)


# ── labeling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def labeled(folder: Path, server: AskedJudge, questions: Mapping[str, list[str]], **given: Any) -> Any:
    """Judge one answer to each instruction, of these questions; the stage's outcome, and rows by their ids."""
    store = ArtifactStore(folder / "cache")
    instructions = folder / "instructions"
    instructions.mkdir(exist_ok=True)
    schema = pa.schema([("id", pa.string()), ("image", IMAGE), ("question", pa.string())])
    rows = [
        {"id": id, "image": {"bytes": picture(number), "path": None}, "question": "What?"}
        for number, id in enumerate(questions)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), instructions / "train.parquet")
    claims = [{"id": id, "candidate": 0, "claims": asked, "questions": asked} for id, asked in questions.items()]
    if not (found := store.find(str(folder / "claims"))):
        found = None, artifact(store, folder / "claims", CLAIMS, claims)  # type: ignore[assignment]
    assert found
    config = LabelingConfig(
        output=str(folder / given.pop("output", "labeling")),
        claims=(found[1],),
        instructions=Source(uri=str(instructions)),
        api=APILabeler(url=server.address, model="sees", **given.pop("api", {})),
        requests=given.pop("requests", QUICK),
        part_rows=1,
        max_rejected_fraction=1.0,
    )
    outcome = labeling.run(config, 0, store, Progress("labeling"))
    files = sorted(Path(shard_uri(config, 0)).glob("*.parquet"))
    return outcome, {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}


def question_of(body: Mapping[str, Any]) -> str:
    return str(body["messages"][0]["content"][-1]["text"])


def says_by_question(answers: Mapping[str, Answer]) -> Any:
    """What is said to each question; to the one that comes first, that about no picture of ours, yes."""
    return lambda body: answers.get(question_of(body), completion(likely(Yes=0.9, No=0.1)))


def test_verdicts_are_read_from_the_first_token(tmp_path: Path) -> None:
    told = completion(likely(Yes=0.75, No=0.125), prompt_tokens=50, completion_tokens=1)
    with judge_that(says_by_question({"red?": told, "blue?": completion(likely(Yes=0.1, No=0.6))})) as server:
        outcome, rows = labeled(tmp_path, server, {"a": ["red?", "blue?"]})
    assert rows["a"] == {
        "id": "a", "candidate": 0, "p_yes": pytest.approx([0.75, 0.1]), "p_no": pytest.approx([0.125, 0.6]),
        "accepted": [True, False],
    }  # fmt: skip
    assert outcome.counts == {
        "rows": 1, "rejected": 0, "api_requests": 2, "api_input_tokens": 50, "api_output_tokens": 1,
        "api_cost_micros": 108,
    }  # fmt: skip
    asked = next(body for body in server.bodies if question_of(body) == "red?")
    shown, text = asked["messages"][0]["content"]
    assert shown == {"type": "image_url", "image_url": {"url": data_url(picture(0))}}, "the picture comes first"
    assert text == {"type": "text", "text": "red?"}
    sent = {name: value for name, value in asked.items() if name != "messages"}
    assert sent == {
        "model": "sees", "max_completion_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer labelers"}


def test_rows_without_a_verdict_are_counted_by_what_was_wrong(tmp_path: Path) -> None:
    answers = {
        "refused?": completion({"refusal": "I will not."}),
        "held?": completion({"finish_reason": "content_filter"}),
        "moderated?": failure(400, "content_filter"),
        "long?": failure(400, "context_length_exceeded"),
        "other?": completion(likely(The=0.9)),
    }
    with judge_that(says_by_question(answers)) as server:
        outcome, _ = labeled(tmp_path, server, {name: [name, "good?"] for name in [*answers, "good?"]})
    counts = {name: number for name, number in outcome.counts.items() if not name.startswith("api_")}
    assert counts == {
        "rows": 1, "rejected": 5, "rejected_refused": 1, "rejected_moderated": 2, "rejected_refused-request": 1,
        "rejected_neither-yes-nor-no": 1,
    }  # fmt: skip


def test_votes_take_one_request_a_question_and_more_where_an_api_gives_one_at_a_time(tmp_path: Path) -> None:
    words = iter(["Yes.", "yes", "**YES**!"])

    def says(body: Mapping[str, Any]) -> Answer:
        if question_of(body) in ("all?", PROBE_QUESTION):
            return completion(*({"content": word} for word in ["yes", "no", "no"]), prompt_tokens=40)
        return completion({"content": next(words)})

    with judge_that(says) as server:
        votes = Votes(number=3, temperature=0.5, max_new_tokens=9)
        outcome, rows = labeled(tmp_path, server, {"a": ["all?"], "b": ["one?"]}, api={"votes": votes})
    assert rows["a"]["p_yes"] + rows["a"]["p_no"] == pytest.approx([1 / 3, 2 / 3])
    assert rows["b"]["p_yes"] == pytest.approx([1.0])
    of = {
        question: [body["n"] for body in server.bodies if question_of(body) == question]
        for question in ("all?", "one?")
    }
    assert of == {"all?": [3], "one?": [3, 2, 1]}
    assert {(body["temperature"], body["max_completion_tokens"]) for body in server.bodies} == {(0.5, 9)}
    assert outcome.counts["api_requests"] == 4


def test_another_stage_with_other_limits_pays_nothing(tmp_path: Path) -> None:
    """Replies lie beside all artifacts, by what was asked; here, where there is no address, in the machine's cache."""
    with judge_that(says_by_question({})) as server:
        first, rows = labeled(tmp_path, server, {"a": ["one?", "two?"]})
        sent = len(server.bodies)
        second, again = labeled(tmp_path, server, {"a": ["one?", "two?"]}, output="again")
    assert rows == again
    assert (first.counts["api_requests"], second.counts["api_requests"]) == (2, 0)
    assert len(server.bodies) == sent + 1, "the question that shows whether the API answers"


def test_a_limit_ends_the_stage_and_raised_it_goes_on(tmp_path: Path) -> None:
    told = completion(likely(Yes=0.9), prompt_tokens=99, completion_tokens=1)
    questions = {f"i{number}": [f"is it {number}?"] for number in range(6)}
    with judge_that(says_by_question({text: told for (text,) in questions.values()})) as server:
        tight = QUICK.model_copy(update={"max_tokens": 250, "concurrency": 1})
        with pytest.raises(BadInput, match=r"spec.labeling.api.limits.tokens is reached: 300 of 250 tokens are spent"):
            labeled(tmp_path, server, questions, requests=tight)
        outcome, rows = labeled(tmp_path, server, questions)
    assert len(rows) == 6
    assert outcome.counts["api_requests"] == 6, "three of each process"


# ── splitting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_splitter_behind_an_api(tmp_path: Path) -> None:
    """A list that was cut is asked for again; what it will never say is a rejected row."""
    lists = iter(
        [completion({"content": "- A cat", "finish_reason": "length"}), completion({"content": "- A cat sits."})]
    )

    def says(body: Mapping[str, Any]) -> Answer:
        text = body["messages"][0]["content"]
        if "A cat sits, says b." in text:
            return completion({"refusal": "no"})
        if "Statements:" in text:
            return "- Does a cat sit?"
        return next(lists) if "A cat sits, says a." in text else "fine"

    store = ArtifactStore(tmp_path / "cache")
    samples = [
        {
            "id": id, "candidate": 0, "question": "What?", "answer": f"A cat sits, says {id}.", "token_ids": [1],
            "logprobs": [0.0], "temperature": 1.0, "seed": 0, "finish_reason": "stop", "prompt_tokens": 1,
        }
        for id in ("a", "b")
    ]  # fmt: skip
    with judge_that(says) as server:
        config = SplittingConfig(
            output=str(tmp_path / "splitting"),
            samples=(artifact(store, tmp_path / "samples", SAMPLES, samples),),
            splitter=APISplitter(
                api=APIModel(url=server.address, model="writes", parameters={"reasoning_effort": "low"}),
                decoding=Decoding(temperature=0.25, top_p=0.5, max_new_tokens=77),
            ),
            requests=QUICK,
            max_rejected_fraction=0.5,
        )
        outcome = splitting.run(config, 0, store, Progress("splitting"))
    (row,) = pq.read_table(Path(shard_uri(config, 0)) / "part-00000.parquet").to_pylist()
    assert (row["id"], row["claims"], row["questions"]) == ("a", ["A cat sits."], [f"Does a cat sit? {REQUEST}"])
    assert outcome.counts["rejected_unparsable-claims"] == 1
    assert outcome.counts["api_requests"] == len(server.bodies) - 1 == 6
    last = {name: value for name, value in server.bodies[-1].items() if name != "messages"}
    assert last == {
        "model": "writes", "max_completion_tokens": 77, "temperature": 0.25, "top_p": 0.5, "reasoning_effort": "low",
    }  # fmt: skip
    assert server.headers[-1]["Authorization"] == "Bearer everyones"


# ── before anything is sampled ───────────────────────────────────────────────────────────────────────────────────────


def looked_at(server: AskedJudge | None, address: str = "") -> None:
    url = server.address if server else address
    source = Source(uri="s3://b/x")
    check_apis(
        SamplingConfig(
            output="s3://b/o", model=source, instructions=source, labeler_api=APILabeler(url=url, model="sees")
        )
    )


def test_all_pictures_come_before_the_question() -> None:
    judge = APIJudge(None, APILabeler(url="http://labels.example/v1", model="sees"))  # type: ignore[arg-type]
    (message,) = judge.about([picture(1), picture(2)])("Is it red?")
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    first, second = (part["image_url"]["url"] for part in message["content"][:2])
    assert first != second


def test_an_api_that_answers_is_asked_one_question() -> None:
    with judge_that(lambda _: completion(likely(Yes=0.5))) as server:
        looked_at(server)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            failure(401, "invalid_api_key"),
            r"spec.labeling.api http.* wants another key .*; set spec.labeling.api.key",
        ),
        (
            failure(404, "model_not_found"),
            r"refuses .*model_not.*; mend spec.labeling.api.model or spec.labeling",
        ),
        (failure(400, "no_pictures"), r"refuses \(HTTP 400: .*no_pictures"),
        (completion({"content": "Yes"}), r"does not tell how likely its answers are; give spec.labeling.api.votes"),
    ],
    ids=["a wrong key", "a wrong model", "no eyes", "no log-probabilities"],
)
def test_an_api_that_will_not_do_is_told_by_what_is_wrong(answer: Sent, message: str) -> None:
    with judge_that(lambda _: answer) as server, pytest.raises(BadInput, match=message):
        looked_at(server)


def test_a_wrong_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback_workloads.stages.preflight.PROBE", Requests(retries=0, timeout_seconds=5))
    with judge_that(lambda _: "") as gone:
        address = gone.address
    with pytest.raises(
        BadInput, match=rf"spec.labeling.api {address}.* cannot be reached .*; check spec.labeling.api.url"
    ):
        looked_at(None, address)


def test_an_api_that_is_busy_now_may_do_later(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("feedback_workloads.stages.preflight.PROBE", Requests(retries=0, timeout_seconds=5))
    with judge_that(lambda _: failure(429, "rate_limit")) as server:
        looked_at(server)
    assert "fails (HTTP 429" in capsys.readouterr().err


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "side", "kind", "same", "size"),
    [
        pytest.param(picture(9), None, "PNG", True, (40, 30), id="as it is"),
        pytest.param(picture(9, kind="JPEG"), 40, "JPEG", True, (40, 30), id="within the longest side"),
        pytest.param(picture(9, kind="BMP"), None, "PNG", False, (40, 30), id="in a format that APIs do not take"),
        pytest.param(picture(9, mode="L"), None, "PNG", False, (40, 30), id="as a gray one shows"),
        pytest.param(picture(9, (400, 10), "JPEG"), 100, "JPEG", False, (100, 2), id="smaller"),
    ],
)
def test_pictures_are_sent_as_they_are_seen_here(
    data: bytes, side: int | None, kind: str, same: bool, size: tuple[int, int]
) -> None:
    head, _, body = data_url(data, side).partition(",")
    sent = base64.b64decode(body)
    assert head == f"data:image/{kind.lower()};base64"
    assert (sent == data) == same
    shown = Image.open(BytesIO(sent))
    assert (shown.format, shown.size, shown.mode) == (kind, size, "RGB")
