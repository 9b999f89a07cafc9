"""Models that judge: what they are asked, what is kept of their replies, and what becomes of an API's trouble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback_workloads.apis.asking import ATTEMPTS, Request
from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.benchmarks.scripts import Script
from feedback_workloads.contract import BadInput, Temporary
from tests.unit.judges import failure, judge_that


def judge(address: str, folder: Path, waited: list[float] | None = None) -> Judge:
    seconds = waited if waited is not None else []
    return Judge(address, "judge", folder / "replies.jsonl", lambda _, wait: seconds.append(wait))


def test_replies_stand_in_the_order_of_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    requests = [Request.of(f"question {n}", system="be brief", temperature=0.0) for n in range(20)]
    with judge_that(lambda body: f"reply to {body['messages'][-1]['content']}") as server:
        found = judge(server.address, tmp_path).replies(requests)
    assert found == [f"reply to question {n}" for n in range(20)]
    assert {json.dumps(body | {"messages": body["messages"][:1]}, sort_keys=True) for body in server.bodies} == {
        '{"messages": [{"content": "be brief", "role": "system"}], "model": "judge", "temperature": 0.0}'
    }
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert "secret" not in (tmp_path / "replies.jsonl").read_text()


def test_a_key_that_is_not_taken_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand in logs and in the status otherwise."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with judge_that(lambda _: failure(401, "no sk-secret here")) as server, pytest.raises(BadInput) as refused:
        judge(server.address, tmp_path).replies([Request.of("?")])
    assert "it says no *** here" in str(refused.value)
    assert "sk-secret" not in str(refused.value)


def test_without_a_key_none_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with judge_that(lambda _: "yes") as server:
        judge(server.address, tmp_path).replies([Request.of("?")])
    assert "Authorization" not in server.headers[0]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    """Not what another command asked, nor what stands twice in one; but what is to be asked in several runs is."""
    with judge_that(lambda body: f"reply {len(body['messages'])}") as server:
        asked = judge(server.address, tmp_path)
        asked.replies([Request.of("one"), Request.of("one"), Request.of("two")])
        asked.replies([Request.of("two"), Request.of("one", run=2), Request.of("one", temperature=1.0)])
        assert sorted(server.texts) == ["one", "one", "one", "two"]
        assert asked.models() == ["judge-2026"]
        other = Judge(server.address, "another", asked.kept)
        other.replies([Request.of("one")])
    assert server.bodies[-1]["model"] == "another"


def test_an_interrupted_judge_goes_on(tmp_path: Path) -> None:
    """A line that was being written counts for nothing, and what came before trouble is kept."""

    def says(body: Any) -> str | int:
        return 400 if body["messages"][-1]["content"] == "bad" else "fine"

    with judge_that(says) as server:
        asked = judge(server.address, tmp_path)
        asked.replies([Request.of("one"), Request.of("two")])
        first, _ = asked.kept.read_text().splitlines(keepends=True)
        asked.kept.write_text(f'{first}{{"key": "0')
        with pytest.raises(BadInput, match=r"refuses"):
            asked.replies([Request.of("bad")])
        server.bodies.clear()
        assert asked.replies([Request.of("one"), Request.of("two")]) == ["fine", "fine"]
    assert len(server.bodies) == 1


@pytest.mark.parametrize("trouble", [429, 500, 503])
def test_what_may_pass_is_waited_out(trouble: int, tmp_path: Path) -> None:
    answers = iter([trouble, trouble, "fine"])
    waited: list[float] = []
    with judge_that(lambda _: next(answers)) as server:
        assert judge(server.address, tmp_path, waited).replies([Request.of("?")]) == ["fine"]
    assert waited == [1.0, 2.0]


@pytest.mark.parametrize(
    ("says", "error", "message"),
    [
        pytest.param(503, Temporary, r"after 6 attempts: .* fails \(HTTP 503: .*\); try later", id="down"),
        pytest.param(401, BadInput, r"wants another key \(HTTP 401: .*\); set OPENAI_API_KEY", id="key"),
        pytest.param(404, BadInput, r"refuses \(HTTP 404: .*\); mend --judge or --judge-api", id="no such model"),
        pytest.param(
            b"<html>", BadInput, r"after 6 attempts: .* is not JSON .* give an OpenAI-compatible API", id="no JSON"
        ),
        pytest.param(b"[1]", BadInput, "is no JSON object", id="a list"),
        pytest.param(b'{"choices": []}', BadInput, r'after 6 attempts: .*: \{"choices": \[\]\}; name', id="no text"),
    ],
)
def test_trouble_is_told(says: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with judge_that(lambda _: says) as server, pytest.raises(error, match=message):
        judge(server.address, tmp_path).replies([Request.of("?")])


def test_an_api_that_is_not_there(tmp_path: Path) -> None:
    with judge_that(lambda _: "") as gone:
        address = gone.address
    waited: list[float] = []
    with pytest.raises(Temporary, match=r"cannot be reached .*; check --judge-api"):
        judge(address, tmp_path, waited).replies([Request.of("?")])
    assert waited == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_replies_that_cannot_be_used_are_asked_for_again(tmp_path: Path) -> None:
    answers = iter(["hm", "[[A]]"])
    with judge_that(lambda _: next(answers)) as server:
        found = judge(server.address, tmp_path).replies([Request.of("?")], lambda reply: "[[" in reply)
    assert found == ["[[A]]"]
    with judge_that(lambda _: "hm") as server:
        with pytest.raises(
            BadInput, match=r'after 6 attempts: .* does not keep to the form .*"hm".*; name another model'
        ):
            judge(server.address, tmp_path).replies([Request.of("!")], lambda reply: "[[" in reply)
        assert len(server.bodies) == ATTEMPTS


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [
        (None, "", "https://api.openai.com/v1"),
        (None, "http://judge:8000/v1/", "http://judge:8000/v1"),
        ("http://other/v1", "http://judge:8000/v1", "http://other/v1"),
    ],
)
def test_where_a_judge_is(
    given: str | None, variable: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", variable)
    assert Judge.named("judge", given, tmp_path).api == address


@pytest.mark.parametrize("address", ["judge:8000", "file:///etc/passwd", "http://"])
def test_what_is_no_address(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is no address; give one such as http://localhost:8000/v1"):
        Judge.named("judge", address, tmp_path)


# ── what a judge is told stands in the authors' scripts ──────────────────────────────────────────────────────────────

SCRIPT = '''
import nowhere
raise SystemExit("scripts are never run")

template = """Judge {} by {}."""
RULES = "Be \\
fair.\\n"

def framed(answer, other):
    prompt = f"""
    {RULES}
    [{answer}] beats [{other}]?
    """
    return prompt

def ask(chat, text, tone="kind", limit=3):
    ask(chat, tone="", text="hello", manner="stern")
'''


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "judge.py").write_text(SCRIPT)
    return Script.at(tmp_path, "absent.py", "judge.py")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("template", "Judge {} by {}.", id="a variable"),
        pytest.param("RULES", "Be fair.\n", id="escapes are as Python reads them"),
        pytest.param("tone", "kind", id="a default goes before an argument"),
        pytest.param("manner", "stern", id="an argument"),
    ],
)
def test_texts_of_a_script(script: Script, name: str, text: str) -> None:
    assert script.text(name) == text


def test_f_strings_are_filled(script: Script) -> None:
    found = script.filled("framed", {"answer": "{other}", "other": "B"})
    assert found == "\n    Be fair.\n\n    [{other}] beats [B]?\n    "


def test_what_a_script_lacks(script: Script, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"judge.py: no text is named 'limit' in it"):
        script.text("limit")
    with pytest.raises(BadInput, match=r"judge.py: no text is named 'answer' in it"):
        script.filled("framed", {})
    with pytest.raises(BadInput, match=r"judge.py: there is no function ask with an f-string"):
        script.filled("ask", {})
    with pytest.raises(BadInput, match=r"there is no eval.py or other.py in it; give the folder"):
        Script.at(tmp_path, "eval.py", "other.py")
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(BadInput, match=r"broken.py is no script in Python"):
        Script.at(tmp_path / "broken.py")
