"""`feedback serve DIR`: a finished run is served as it was scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feedback_operator.api import ServingSpec
from feedback_operator.cli.main import app, served_model, server_arguments
from feedback_operator.resources.deployment import model_arguments
from feedback_workloads.contract import Ranking
from feedback_workloads.serving.settings import read_settings
from tests.unit.worlds import Simulation, iteration, manifest, promoted


@pytest.mark.parametrize(
    ("spec", "expect"),
    [
        pytest.param({}, 4, id="as the evaluation chose"),
        pytest.param({"serving": {"endpoint": "chat"}}, 4, id="with an endpoint"),
        pytest.param({"serving": {"bestOf": 2}}, 2, id="a person's number wins"),
    ],
)
def test_how_many_answers_are_ranked(spec: dict[str, Any], expect: int) -> None:
    run = promoted("run", "u-1", **spec)
    model = served_model(run)
    assert model
    settings = read_settings(model_arguments(model, run.spec.serving or ServingSpec(), None))
    assert settings.defaults.best_of == expect


def test_answers_are_drawn_and_ranked_as_they_were_when_that_was_chosen() -> None:
    evaluation = {
        **manifest()["spec"]["evaluation"],
        "decoding": {"temperature": "0.2", "maxNewTokens": 77},
        "rankedDecoding": {"temperature": "0.4", "topP": "0.8"},
    }
    model = served_model(promoted("run", "u-1", evaluation=evaluation, precision="Float32"))
    assert model
    settings = read_settings(model_arguments(model, ServingSpec(), 256))
    given = settings.defaults
    assert (given.temperature, given.top_p, given.max_tokens) == (0.2, 1.0, 77)
    assert (given.ranked_temperature, given.ranked_top_p) == (0.4, 0.8)
    assert given.ranking == Ranking(rule="Regularised", weight=0.3)
    assert (settings.precision, settings.engine.max_model_len) == ("float32", 256)
    assert settings.policy.sha256 == "a" * 64


@pytest.mark.parametrize(
    ("serving", "expect"),
    [
        pytest.param({"serving": {"endpoint": "chat"}}, "chat", id="that of its endpoint"),
        pytest.param({}, "run", id="without one, its own"),
    ],
)
def test_the_name_that_clients_ask_for(serving: dict[str, Any], expect: str) -> None:
    run = promoted("run", "u-1", **serving)
    model = served_model(run)
    assert model
    assert read_settings(server_arguments(run, model)).model_name == expect


def test_the_servers_own_options_are_shown_without_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(app, ["serve", "--help-server"]).exit_code == 0
    assert "--max-queue N" in capfd.readouterr().out


def test_a_persons_rule_wins() -> None:
    run = promoted("run", "u-1", serving={"ranking": {"rule": "LogRatio"}})
    model = served_model(run)
    assert model
    assert run.spec.serving
    assert read_settings(model_arguments(model, run.spec.serving, None)).defaults.ranking == Ranking()


def test_a_run_whose_gate_failed_is_served_all_the_same() -> None:
    evaluation = {
        **manifest()["spec"]["evaluation"],
        "gate": [{"metric": "recall", "min": "1"}],
    }
    simulation = Simulation(iteration(evaluation=evaluation))
    simulation.run()
    assert simulation.iteration.status.promoted is None
    assert served_model(simulation.iteration)


def test_a_run_that_was_not_scored_has_nothing_to_serve() -> None:
    assert served_model(iteration()) is None


def test_a_run_of_another_version_is_not_served_and_its_field_is_named(tmp_path: Path) -> None:
    given = iteration().model_dump(mode="json", by_alias=True, exclude_none=True)
    given["spec"]["labeler"] = given["spec"].pop("labeling")
    (tmp_path / "iteration.json").write_text(json.dumps(given))
    ended = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert ended.exit_code == 2
    assert "spec.labeler: Extra inputs are not permitted; another version made it" in " ".join(ended.stderr.split())
