"""The folder that `feedback run --out` leaves, for commands that go on from it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Final

import typer
from pydantic import ValidationError
from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cli.run import RunFacts

errors: Final = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


def finished(folder: Path) -> FeedbackIteration:
    """The iteration of a finished run. Ends the command where the folder has none, and says why."""
    file = folder / "iteration.json"
    try:
        data = json.loads(file.read_text())
    except OSError as error:
        errors.print(f"{file}: cannot be read: {error.strerror}; name the --out folder of a finished run")
        raise typer.Exit(ExitStatus.INVALID) from error
    facts = {field.name for field in fields(RunFacts)}
    try:
        return FeedbackIteration.model_validate({k: v for k, v in data.items() if k not in facts})
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        errors.print(f"{file}: {field}: {error.errors()[0]['msg']}; another version made it, so run it again with this")
        raise typer.Exit(ExitStatus.INVALID) from error
