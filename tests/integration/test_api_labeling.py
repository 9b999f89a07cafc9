"""A server of ours, asked by the client of APIs: as a labeler, beside the same weights in the stage; for rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback_workloads.contract import APILabeler, LabelingConfig, Requests
from feedback_workloads.data.score import score
from feedback_workloads.models.families import family_of
from feedback_workloads.models.pictures import data_url
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.schemas import CLAIMS
from feedback_workloads.stages import labeling
from tests.integration.models import picture, tiny_llava
from tests.integration.servers import Server
from tests.integration.test_generate_stages import ENGINE, World, stored

pytestmark = pytest.mark.long  # a server starts for it; what APIs do to a stage is in tests/unit/test_behind_apis.py

WORDS = ("red", "blue", "green", "round", "large", "there")
PICTURES = 8


def loud_labeler(folder: Path) -> Path:
    """A labeler of random weights that says yes or no rather than anything else, to each question as it comes."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from feedback_workloads.models.families import name_weights

    tiny_llava(folder, seed=5)
    family = family_of(folder)
    words = [*family.word_ids("yes"), *family.word_ids("no")]
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[words] *= 12.0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    name_weights(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    loud_labeler(folder / "model")
    return World(folder)


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    model, reference = str(world.folder / "model"), str(tiny_llava(world.folder / "reference", seed=6))
    running = Server(
        world.folder / "server.log", "--policy", model, "--reference", reference, "--max-model-len", "320",
        "--max-num-seqs", "16", "--cpu-kv-cache-gib", "1",
    )  # fmt: skip
    yield running
    running.stop()


def test_a_labeler_behind_an_api_gives_the_verdicts_of_the_same_weights_here(world: World, server: Server) -> None:
    """Row by row. What the API does not tell are tokens beyond the likeliest twenty, here next to nothing."""
    instructions = world.instructions("pictures", [(f"i{n}", picture(n), "What is it?") for n in range(PICTURES)])
    asked = [
        {"id": f"i{n}", "candidate": m, "claims": [word], "questions": [f"Is it {word}, {m}?"]}
        for n in range(PICTURES)
        for m, word in enumerate(WORDS)
    ]
    given = {
        "claims": (world.given("asked", CLAIMS, asked),),
        "instructions": instructions,
        "min_yes_no_mass": 0.0,
        "engine": ENGINE,
    }
    behind = LabelingConfig(
        output=str(world.folder / "behind"),
        api=APILabeler(url=server.base_url, model="tiny"),
        requests=Requests(concurrency=4),
        **given,
    )
    outcome = labeling.run(behind, 0, world.store, Progress("labeling"))
    here = LabelingConfig(output=str(world.folder / "here"), model=world.model, **given)
    labeling.run(here, 0, world.store, Progress("labeling"))
    rows = list(zip(stored(here), stored(behind), strict=True))
    assert len(rows) == PICTURES * len(WORDS)
    for one, other in rows:
        assert (one["id"], one["candidate"], one["accepted"]) == (other["id"], other["candidate"], other["accepted"])
        assert other["p_yes"] == pytest.approx(one["p_yes"], abs=0.02)
        assert other["p_no"] == pytest.approx(one["p_no"], abs=0.02)
    assert {accepted for one, _ in rows for accepted in one["accepted"]} == {True, False}
    assert outcome.counts["api_requests"] == len(rows)
    assert outcome.counts["api_input_tokens"] > 0


def test_a_table_of_answers_gets_the_rewards_that_the_server_tells(server: Server, tmp_path: Path) -> None:
    said = ("Red.", "Blue and round.", "word " * 200)
    (tmp_path / "a.png").write_bytes(picture(1))
    file, out = tmp_path / "answers.jsonl", tmp_path / "scored.jsonl"
    given = [{"image": "a.png", "question": "What is it?", "answer": answer} for answer in said]
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    assert score(file, out, api=server.base_url, model="tiny") == {"scored": 2, "not_scored": 1}
    found = [json.loads(line) for line in out.read_text().splitlines()]
    content = [
        {"type": "image_url", "image_url": {"url": data_url(picture(1))}},
        {"type": "text", "text": "What is it?"},
    ]
    told = server.client.post(
        "/score",
        cast_to=object,
        body={"model": "tiny", "queries": {"content": content}, "documents": list(said[:2])},
    )
    assert isinstance(told, dict)
    for row, one in zip(found[:2], told["data"], strict=True):
        assert row["tokens"] == one["tokens"]
        assert row["reward"] == pytest.approx(one["score"], abs=1e-4)
    assert found[0]["reward"] != found[1]["reward"]
    assert found[2]["reward"] is None
