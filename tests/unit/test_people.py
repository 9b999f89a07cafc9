"""What people say: agreement against published examples, answers that survive, sheets that come back, and the page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from feedback_workloads.contract import Artifact, BadInput, Manifest
from feedback_workloads.people import sheets
from feedback_workloads.people.__main__ import main
from feedback_workloads.people.agreement import agreement, majority
from feedback_workloads.people.answers import Answers
from feedback_workloads.people.page import app, following
from feedback_workloads.people.tasks import CHOICES, TASKS, Task, Tasks, Wanted, make
from feedback_workloads.rows.schemas import CLAIMS, PAIRS, SAMPLES, VERDICTS
from feedback_workloads.storage.artifacts import ArtifactStore

# ── how far they agree ───────────────────────────────────────────────────────────────────────────────────────────────


def test_alpha_is_that_of_the_published_example() -> None:
    """Krippendorff's of three observers and missing values, as Wikipedia's article on it has it: 0.691 nominal."""
    rows = {
        "A": "*****3412113*3"[:5] + "3412113" + "3*3",
        "B": "1*21334" + "3*******",
        "C": "**213" + "44*21133*4",
    }
    said = {name: {str(unit): mark for unit, mark in enumerate(marks) if mark != "*"} for name, marks in rows.items()}
    units = {str(unit): "1" for unit in range(15)}
    assert {len(marks) for marks in rows.values()} == {15}
    assert agreement(said, units, ("1", "2", "3", "4")).alpha.value == pytest.approx(0.691, abs=5e-4)


def test_kappa_of_two_is_that_of_the_published_example() -> None:
    """Cohen's of fifty proposals, as Wikipedia's article on it has it: 20, 5, 10 and 15 of them, kappa 0.40."""
    counts = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    both = [answers for answers, number in counts.items() for _ in range(number)]
    said = {name: {str(task): answers[who] for task, answers in enumerate(both)} for who, name in enumerate("AB")}
    [two] = agreement(said, dict.fromkeys(said["A"], "yes"), CHOICES["claims"]).two
    assert two.who == "A and B"
    assert (two.tasks, two.share.value, two.kappa.value) == (50, pytest.approx(0.7), pytest.approx(0.4))
    assert two.kappa.low is not None
    assert two.kappa.high is not None
    assert two.kappa.low < 0.4 < two.kappa.high


def test_kappa_of_many_is_that_of_the_published_example() -> None:
    """Fleiss' of ten subjects and fourteen raters, as Wikipedia's article on it has it: 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    marks = [[str(choice) for choice, number in enumerate(row) for _ in range(number)] for row in table]
    said = {f"r{rater:02}": {str(task): row[rater] for task, row in enumerate(marks)} for rater in range(14)}
    together = agreement(said, dict.fromkeys(map(str, range(10)), "0"), ("0", "1", "2", "3", "4")).together
    assert together
    assert together.kappa.value == pytest.approx(0.210, abs=5e-4)


def test_the_labeler_is_compared_with_each_and_with_most() -> None:
    labeler = {"a": "first", "b": "second", "c": "first", "d": "first"}
    said = {
        "ada": {"a": "first", "b": "second", "c": "tie", "d": "second"},
        "bob": {"a": "first", "b": "first", "c": "first", "d": "second"},
        "cy": {"a": "tie", "b": "second"},
        "nobody": {},
    }
    found = agreement(said, labeler, CHOICES["pairs"])
    shares = {one.who: (one.tasks, one.share.value) for one in found.with_labeler}
    assert shares == {
        "ada and labeler": (3, pytest.approx(2 / 3)),
        "bob and labeler": (4, 0.5),
        "cy and labeler": (1, 1.0),
        "most people and labeler": (4, 0.75),
    }
    assert found.ties == {"ada": 1, "bob": 0, "cy": 1}
    assert [one.who for one in found.two] == ["ada and bob", "ada and cy", "bob and cy"]


def test_who_cannot_tell_has_said_nothing() -> None:
    said = {"ada": {"a": "yes", "b": "cannot tell"}, "bob": {"a": "yes", "b": "no"}}
    [two] = agreement(said, {"a": "yes", "b": "no"}, CHOICES["claims"]).two
    assert two.tasks == 1
    assert two.kappa.value is None  # one answer alone leaves nothing beyond chance


def test_sheets_of_mhumaneval_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "row,picture,question,answer,hallucinated,object,position,number,other\n"
    row = "{},p,Q?,A dog and a cat.,{},{},,,\n"
    files = {"ada": [("yes", "a dog"), ("no", ""), ("no", "")], "bob": [("yes", "a cat"), ("yes", "a dog"), ("no", "")]}
    for name, marks in files.items():
        lines = (row.format(number, *mark) for number, mark in enumerate(marks, 1))
        (tmp_path / f"{name}.csv").write_text(head + "".join(lines))
    assert main(["agreement", *(str(tmp_path / f"{name}.csv") for name in files)]) == 0
    assert "| ada and bob | 3 | 66.7% " in capsys.readouterr().out


def test_the_command_measures_a_folder(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agreement", str(tasks.folder)]) == 2
    assert "nobody has said anything yet" in capsys.readouterr().err
    for name in ("ada", "bob"):
        Answers(tasks.folder).say(name, "i/0/0", "yes")
        Answers(tasks.folder).say(name, "i/0/1", "no")
    assert main(["agreement", str(tasks.folder), "--out", str(tasks.folder / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "| ada and bob | 2 | 100.0% (100.0% to 100.0%) | 1.000 (1.000 to 1.000) |" in said
    assert "| most people and labeler | 2 | 50.0% " in said
    assert json.loads((tasks.folder / "found.json").read_text())["alpha"]["value"] == 1.0


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["yes", "no"])), max_size=5))
def test_most_are_more_than_half(said: list[dict[str, str]]) -> None:
    for task, answer in majority(said).items():
        votes = [answers[task] for answers in said if task in answers]
        assert 2 * votes.count(answer) > len(votes)


# ── answers, sheets and the page, on a folder of tasks ───────────────────────────────────────────────────────────────


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    """Three claims, without a run behind them."""
    folder = tmp_path / "claims"
    (folder / "pictures").mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (folder / "pictures/red").write_bytes(buffer.getvalue())
    made = [Task(f"i/0/{n}", ("red",), "What is it?", ("A <b>. A.", f"claim {n}"), "yes") for n in range(3)]
    content = {"kind": "claims", "seed": 0, "tasks": [{**vars(one)} for one in made]}
    (folder / TASKS).write_text(json.dumps(content))
    return Tasks.read(folder)


def test_an_answer_that_a_crash_has_cut_short_is_no_answer(tasks: Tasks) -> None:
    answers = Answers(tasks.folder)
    answers.say("ada", "i/0/0", "yes")
    file = tasks.folder / "answers/ada.jsonl"
    file.write_bytes(file.read_bytes() + b'{"task": "i/0/1", "answ')
    assert list(answers.of("ada")) == ["i/0/0"]
    answers.say("ada", "i/0/2", "no")
    assert {task: one.answer for task, one in answers.of("ada").items()} == {"i/0/0": "yes", "i/0/2": "no"}


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 41, ".hidden"])
def test_a_name_is_no_path(tasks: Tasks, name: str) -> None:
    with pytest.raises(BadInput, match="is no name"):
        Answers(tasks.folder).say(name, "i/0/0", "yes")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_sheet_comes_back(tasks: Tasks, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"sheet.{suffix}"
    Answers(tasks.folder).say("ada", "i/0/0", "no", 'a "note", here')
    sheets.write(tasks, file)
    assert sheets.read(tasks, file) == 0
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace("i/0/1,,,", "i/0/1,bob, Yes ,").replace(
            '"i/0/1", "person": "", "answer": ""', '"i/0/1", "person": "bob", "answer": "yes"'
        )
    )
    assert sheets.read(tasks, file) == 1
    assert Answers(tasks.folder).of("bob")["i/0/1"].answer == "yes"
    assert Answers(tasks.folder).of("ada")["i/0/0"].note == 'a "note", here'


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("i/9/9,ada,yes,", "has no task 'i/9/9'"),
        ("i/0/0,ada,perhaps,", "the answer is 'perhaps'; give one of yes, no, cannot tell"),
        ("i/0/0,,yes,", "nobody is named"),
        ("i/0/0,../ada,yes,", "is no name"),
    ],
)
def test_a_wrong_sheet_is_refused_whole(tasks: Tasks, tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "sheet.csv"
    file.write_text(f"task,person,answer,note\ni/0/1,ada,no,\n{row}\n")
    with pytest.raises(BadInput, match=said):
        sheets.read(tasks, file)
    assert Answers(tasks.folder).names() == []


def test_label_studio_takes_tasks_and_its_answers_come_back(tasks: Tasks, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    sheets.write(tasks, file)
    exported = json.loads(file.read_text())
    assert exported[0]["data"]["claim"] == "claim 0"
    assert exported[0]["data"]["image"].startswith("data:image/png;base64,")
    choice = {"type": "choices", "from_name": "answer", "to_name": "claim", "value": {"choices": ["No"]}}
    exported[0]["annotations"] = [{"completed_by": {"email": "ada@example.org"}, "result": [choice]}]
    exported[1]["annotations"] = [{"completed_by": 7, "result": [choice]}, {"was_cancelled": True, "result": []}]
    file.write_text(json.dumps(exported))
    assert sheets.read(tasks, file) == 2
    assert {name: list(said) for name, said in Answers(tasks.folder).all().items()} == {
        "ada": ["i/0/0"], "user 7": ["i/0/1"],
    }  # fmt: skip


def test_a_person_answers_page_by_page_and_takes_back(tasks: Tasks) -> None:
    client = TestClient(app(tasks), follow_redirects=False)
    assert client.get("/?name=ada b").headers["location"] == "/ada%20b"
    assert client.get("/ada b").headers["location"] == "/ada%20b/1"
    page = client.get("/ada b/1").text
    assert "A &lt;b&gt;. A." in page
    assert "labeler" not in page
    assert client.post("/ada b/2", data={"answer": "no", "note": "so"}).headers["location"] == "/ada%20b/3"
    assert 'aria-pressed="true">no' in client.get("/ada b/2").text
    assert client.post("/ada b/3", data={"answer": "yes"}).headers["location"] == "/ada%20b/1"
    assert client.post("/ada b/1", data={"answer": "yes"}).headers["location"] == "/ada%20b/done"
    assert client.post("/ada b/undo").headers["location"] == "/ada%20b/1"
    assert list(Answers(tasks.folder).of("ada b")) == ["i/0/1", "i/0/2"]


def test_what_is_no_answer_is_refused(tasks: Tasks) -> None:
    client = TestClient(app(tasks), follow_redirects=False)
    assert client.post("/ada/1", data={"answer": "maybe"}).status_code == 400
    assert client.post("/ada/9", data={"answer": "yes"}).status_code == 404
    assert client.post("/.ada/1", data={"answer": "yes"}).status_code == 400
    other = client.post("/ada/1", data={"answer": "yes"}, headers={"sec-fetch-site": "cross-site"})
    assert (other.status_code, other.text) == (403, "answers are only taken from this page")
    assert client.post("/ada/1", content=b"answer=yes&note=" + b"x" * 70_000).status_code == 413
    assert Answers(tasks.folder).names() == []


def test_the_next_one_is_the_next_without_an_answer(tasks: Tasks) -> None:
    said = dict.fromkeys(["i/0/1"], None)
    assert [following(tasks, said, after) for after in (-1, 0, 2)] == [0, 2, 0]  # type: ignore[arg-type]
    assert following(tasks, dict.fromkeys(["i/0/0", "i/0/1", "i/0/2"], None), 0) is None  # type: ignore[arg-type]


# ── tasks of a run ───────────────────────────────────────────────────────────────────────────────────────────────────


class Run:
    """A finished run of two instructions with two answers each, of two claims, the second of which is rejected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "cache")
        self.ids = ["a", "b"]
        self.write_instructions()
        keys = [(id, candidate) for id in self.ids for candidate in (0, 1)]
        none = {"token_ids": [1], "logprobs": [0.0], "temperature": 1.0, "seed": 0, "finish_reason": "stop"}
        samples = [
            {"id": id, "candidate": n, "question": "What?", "answer": f"answer {n} to {id}", "prompt_tokens": 1, **none}
            for id, n in keys
        ]
        claims = [{"id": id, "candidate": n, "claims": ["one", "two"], "questions": ["?", "?"]} for id, n in keys]
        verdicts = [
            {"id": id, "candidate": n, "p_yes": [0.9, 0.1], "p_no": [0.1, 0.9], "accepted": [True, False]}
            for id, n in keys
        ]
        pairs = [{"id": id, "question": "What?", "image": {"bytes": self.png(), "path": None}} for id in self.ids]
        for row in pairs:
            for number, side in enumerate(("chosen", "rejected")):
                row |= {
                    side: f"{side} of {row['id']}", f"{side}_token_ids": [1], f"{side}_logps": [0.0],
                    f"{side}_candidate": number, f"{side}_score": 0,
                    f"{side}_claims": ["c"], f"{side}_accepted": [True],
                }  # fmt: skip
        source = {"instructions": {"uri": str(folder / "instructions"), "revision": None, "sha256": None}}
        made = {
            "sampling": self.publish("sampling", SAMPLES, samples, {}),
            "splitting": self.publish("splitting", CLAIMS, claims, {}),
            "labeling": self.publish("labeling", VERDICTS, verdicts, source),
            "pairing": self.publish("pairing", PAIRS, pairs, {}),
        }
        stages = [{"name": name, "state": "Done", "shards": [ref.model_dump()]} for name, ref in made.items()]
        (folder / "iteration.json").write_text(json.dumps({"metadata": {"name": "it"}, "status": {"stages": stages}}))

    def publish(self, name: str, schema: object, rows: list[dict[str, object]], config: dict[str, object]) -> Artifact:
        uri = str(self.folder / name)
        with self.store.append(uri, schema) as parts:
            parts.write(rows)
            manifest = Manifest(stage=name, config=config, config_hash="", files=parts.files(), counts=parts.counts())
        return self.store.publish(uri, manifest)

    def write_instructions(self) -> None:
        (self.folder / "instructions").mkdir(exist_ok=True)
        with (self.folder / "instructions/rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "image", "question"])
            writer.writerows([id, f"{id}.png", "What?"] for id in self.ids)
        for id in self.ids:
            (self.folder / f"instructions/{id}.png").write_bytes(self.png())

    def png(self) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "blue").save(buffer, "PNG")
        return buffer.getvalue()


def test_claims_of_a_run_with_what_the_labeler_says(tmp_path: Path) -> None:
    run = Run(tmp_path)
    tasks = make(tmp_path, Wanted("claims", 99, 0), tmp_path / "out", run.store)
    assert {(one.id, one.texts, one.labeler) for one in tasks.tasks} == {
        (f"{id}/{n}/{place}", (f"answer {n} to {id}", text), said)
        for id in "ab"
        for n in (0, 1)
        for place, (text, said) in enumerate([("one", "yes"), ("two", "no")])
    }
    assert [tasks.pictures(one) for one in tasks.tasks] == [[run.png()]] * 8
    some = make(tmp_path, Wanted("claims", 3, 0), tmp_path / "some", run.store)
    assert [one.id for one in some.tasks] == [one.id for one in tasks.tasks][:3]
    assert Tasks.read(tmp_path / "out") == tasks
    with pytest.raises(BadInput, match="has claims, and pairs were asked for"):
        make(tmp_path, Wanted("pairs", 9, 0), tmp_path / "out", run.store)


def test_pairs_of_a_run_stand_in_either_order(tmp_path: Path) -> None:
    run = Run(tmp_path)
    seen = set[tuple[str, str]]()
    for seed in range(8):
        for one in make(tmp_path, Wanted("pairs", 9, seed), tmp_path / f"out{seed}", run.store).tasks:
            better = one.texts[("first", "second").index(one.labeler)]
            assert better.startswith("chosen of")
            seen.add((one.id, one.labeler))
    assert seen == {(f"{id}/0-1", said) for id in "ab" for said in ("first", "second")}


def test_a_run_without_what_is_asked_for_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "iteration.json").write_text(json.dumps({"metadata": {"name": "it"}}))
    for kind in CHOICES:
        with pytest.raises(BadInput, match=f"the run has no {kind} to be judged"):
            make(tmp_path, Wanted(kind, 9, 0), tmp_path / "out", run.store)
    assert not (tmp_path / "out").exists()


def test_an_instruction_that_is_gone_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ids = ["a"]
    (tmp_path / "instructions/b.png").unlink()
    run.write_instructions()
    with pytest.raises(BadInput, match="the instruction 'b' is no longer in the data set"):
        make(tmp_path, Wanted("claims", 99, 0), tmp_path / "out", run.store)
