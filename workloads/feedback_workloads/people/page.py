"""The page on which people judge: one task at a time, each answer kept before the next is shown.

It works without scripts; with them, keys answer as well. Nothing on it says who made an answer, or what the labeler
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from feedback_workloads.contract import BadInput
from feedback_workloads.people.answers import Answer, Answers
from feedback_workloads.people.tasks import CHOICES, Task, Tasks
from feedback_workloads.report.page import picture, template

MOST_BYTES: Final = 64_000
"""Of one request's body: an answer and a note."""


def app(tasks: Tasks) -> FastAPI:
    """The application: `/` asks for a name, `/NAME` leads to what that person has not answered yet."""
    answers = Answers(tasks.folder)
    server = FastAPI(title="feedback annotate", docs_url=None, redoc_url=None, openapi_url=None)

    @server.middleware("http")
    async def from_this_page(request: Request, go_on):  # type: ignore[no-untyped-def]
        """No other site's page answers in a person's name."""
        other = request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if request.method == "POST" and other:
            return PlainTextResponse("answers are only taken from this page", 403)
        if int(request.headers.get("content-length", 0)) > MOST_BYTES:
            return PlainTextResponse(f"an answer has at most {MOST_BYTES} bytes", 413)
        return await go_on(request)

    @server.exception_handler(BadInput)
    def refused(_request: Request, error: BadInput) -> Response:
        return PlainTextResponse(str(error), 400)

    def render(page: str, /, **given: object) -> HTMLResponse:
        found = template(page, "feedback_workloads.people")
        return HTMLResponse(found.render(kind=tasks.kind, total=len(tasks.tasks), **given))

    def go(name: str, number: int | None) -> Response:
        """To a task of a person; without a number, to the page that says that all is answered."""
        return RedirectResponse(f"/{quote(name)}/{'done' if number is None else number + 1}", 303)

    @server.get("/")
    def start(name: str = "") -> Response:
        if name.strip():
            return RedirectResponse(f"/{quote(name.strip(), safe='')}", 303)
        return render("start.html", people={one: len(said) for one, said in answers.all().items()})

    @server.get("/{name}")
    def person(name: str) -> Response:
        return go(name, following(tasks, answers.of(name), -1))

    @server.get("/{name}/done")
    def done(name: str) -> Response:
        return render("done.html", name=name, said=len(answers.of(name)))

    @server.get("/{name}/{number}")
    def show(name: str, number: int) -> Response:
        said = answers.of(name)
        task = one_of(tasks, number)
        return render(
            "task.html",
            name=name,
            number=number,
            task=task,
            pictures=[picture(one) for one in tasks.pictures(task)],
            choices=CHOICES[tasks.kind],
            answered=said.get(task.id),
            said=len(said),
        )

    @server.post("/{name}/undo")
    def undo(name: str) -> Response:
        said = answers.of(name)
        if not said:
            return go(name, 0)
        last = next(reversed(said))
        answers.say(name, last, None)
        return go(name, tasks.number(last))

    @server.post("/{name}/{number}")
    async def say(name: str, number: int, request: Request) -> Response:
        task = one_of(tasks, number)
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode("utf-8", "replace")).items()}
        if form.get("answer") not in CHOICES[tasks.kind]:
            raise BadInput(f"the answer is {form.get('answer')!r}; give one of {', '.join(CHOICES[tasks.kind])}")
        answers.say(name, task.id, form["answer"], form.get("note", "").strip())
        return go(name, following(tasks, answers.of(name), number - 1))

    return server


def one_of(tasks: Tasks, number: int) -> Task:
    """The task of a page's number, from 1."""
    if not 1 <= number <= len(tasks.tasks):
        raise HTTPException(404, f"there is no task {number}; there are {len(tasks.tasks)}")
    return tasks.tasks[number - 1]


def following(tasks: Tasks, said: Mapping[str, Answer], after: int) -> int | None:
    """Where the next task stands that has no answer yet, from 0; the first such one where none comes after."""
    open_ones = [number for number, task in enumerate(tasks.tasks) if task.id not in said]
    return next((number for number in open_ones if number > after), open_ones[0] if open_ones else None)
