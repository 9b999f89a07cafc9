"""The server's command line."""

from __future__ import annotations

import pytest

from feedback_workloads.contract import BadInput, Model, Ranking
from feedback_workloads.serving.protocol.drawing import Defaults
from feedback_workloads.serving.settings import read_settings

MODELS = ("--policy", "s3://bucket/policy/abc/aligned/", "--reference", "hf://owner/base")
DIGEST = "0" * 64


def test_defaults() -> None:
    settings = read_settings(MODELS)
    assert settings.policy == Model(uri="s3://bucket/policy/abc/aligned/")
    assert settings.reference == Model(uri="hf://owner/base")
    assert (settings.model_name, settings.host, settings.port) == ("aligned", "127.0.0.1", 8000)
    assert settings.defaults == Defaults(
        best_of=1, max_best_of=64, ranking=Ranking(), temperature=0.0, top_p=1.0, ranked_temperature=0.7,
        ranked_top_p=0.9, max_tokens=512,
    )  # fmt: skip
    assert settings.beta == 0.1
    assert not settings.picture_hosts.public
    assert settings.max_body_bytes > settings.max_picture_bytes * 4 / 3


def test_everything_said() -> None:
    words = (
        f"--policy-sha256 {DIGEST} --reference-revision v1 --best-of 4 --ranking Regularised --ranking-lambda 0.3 "
        "--picture-host a.example --picture-host b.example:8080 --private-picture-host minio:9000 "
        "--max-num-seqs 32 --gpu-memory-utilization 0.3"
    )
    settings = read_settings([*MODELS, *words.split()])
    assert settings.policy.sha256 == DIGEST
    assert settings.reference.revision == "v1"
    assert settings.defaults.best_of == 4
    assert settings.defaults.ranking == Ranking(rule="Regularised", weight=0.3)
    assert settings.picture_hosts.public == {("a.example", None), ("b.example", 8080)}
    assert settings.picture_hosts.private == {("minio", 9000)}
    assert (settings.engine.max_num_seqs, settings.engine.gpu_memory_utilization) == (32, 0.3)


def test_both_models_are_asked_alike() -> None:
    said = ("--system-prompt=Be brief.", "--chat-template={{ a }}\n", '--processor-kwargs={"max_pixels": 9}')
    settings = read_settings([*MODELS, *said])
    for model in (settings.policy, settings.reference):
        assert (model.system_prompt, model.chat_template) == ("Be brief.", "{{ a }}\n")
        assert model.processor_kwargs == {"max_pixels": 9}


def test_keys_come_from_flags_and_from_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(MODELS).api_keys == ()
    monkeypatch.setenv("FEEDBACK_API_KEY", "secret")
    assert read_settings([*MODELS, "--api-key=one"]).api_keys == ("one", "secret")
    monkeypatch.setenv("FEEDBACK_API_KEY", "se cret\n")
    with pytest.raises(BadInput, match="FEEDBACK_API_KEY is empty or has blanks"):
        read_settings(MODELS)


def test_a_policy_of_another_digest_or_name_has_another_fingerprint() -> None:
    one, other = (read_settings([*MODELS, "--policy-sha256", digit * 64]).fingerprint for digit in "01")
    assert (one, other) == (f"fp_{'0' * 12}", f"fp_{'1' * 12}")
    named = {read_settings([*MODELS, "--policy-revision", name]).fingerprint for name in ("v1", "v2")}
    assert len(named) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("--best-of 0", "--best-of is 0; give a value from 1 to 64", id="no candidates"),
        pytest.param("--max-best-of 65", "--max-best-of is 65", id="above the paper's curve"),
        pytest.param("--best-of 8 --max-best-of 4", "--best-of is 8; give at most --max-best-of", id="contradiction"),
        pytest.param("--ranked-temperature 0", "--ranked-temperature is 0", id="candidates that are all the same"),
        pytest.param("--ranking Regularised", "give --ranking-lambda", id="no weight"),
        pytest.param("--ranking-lambda 0.3", "no other rule", id="a weight of nothing"),
        pytest.param("--beta 0", "--beta is 0", id="no reward"),
        pytest.param("--port 70000", "--port is 70000", id="no such port"),
        pytest.param("--max-queue -1", "--max-queue is -1; give a value at least 0", id="below nothing"),
        pytest.param("--picture-host http://a/", "picture host", id="a URL for a host"),
        pytest.param("--cors-origin https://a/b", "--cors-origin is 'https://a/b'", id="a page for an origin"),
        pytest.param("--tls-key /nowhere", "belong together", id="a key without its certificate"),
        pytest.param("--tls-certificate /no --tls-key /no", "/no cannot be used: .*No such file", id="no such files"),
        pytest.param("--api-key=", "--api-key is empty", id="an empty key"),
        pytest.param("--processor-kwargs {", "--processor-kwargs is '{', which is no JSON", id="no JSON"),
        pytest.param("--processor-kwargs [9]", "give an object, such as", id="not an object"),
        pytest.param("--policy-sha256 abc", "--policy-sha256 is 'abc'", id="not a digest"),
    ],
)
def test_errors(words: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_settings([*MODELS, *words.split()])
