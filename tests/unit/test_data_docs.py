"""docs/data.md says of each source where it is, under which licence, and with which command it is converted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from feedback_operator.cli.data import app
from feedback_workloads.data.sources import SOURCES

PAGE = Path("docs/data.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.replace("\\\n", ""), re.DOTALL)[1:]
    for line in block.splitlines()
]


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_is_there(name: str) -> None:
    assert any(line.startswith(f"feedback data convert {name} ") for line in COMMANDS)
    assert SOURCES[name].home in PAGE
    if SOURCES[name].licence.startswith("cc-by-nc"):
        assert "CC BY-NC 4.0" in SOURCES[name].terms


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_is_one(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "feedback"
    command = typer.main.get_command(app)
    name, *arguments = words[1:]
    context = command.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    if name == "convert":
        known = SOURCES[context.params["source"]].options
        assert {option.partition("=")[0] for option in context.params["option"] or []} <= set(known)
