"""What the programs that `feedback` starts beside stages have in common: how they fail, and how they end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from feedback_workloads.contract import BadInput, ExitCode, Temporary
from feedback_workloads.process.ending import Terminated, end_with_parent


def run(program: Callable[[], int]) -> NoReturn:
    """Run a program as this process: SIGTERM unwinds it, so that what is temporary goes; it ends with `feedback`."""
    signal.signal(signal.SIGTERM, _terminate)
    end_with_parent()
    raise SystemExit(program())


def ended(name: str, work: Callable[[], None], *, extra: str = "", packages: Sequence[str] = ()) -> int:
    """Do the work; the exit code, with what is wrong as one line after `name` on standard error.

    `packages` are those of the extra of that name, which stages do without.
    """
    try:
        work()
    except BadInput as error:
        sys.stderr.write(f"{name}: {error}\n")
        return ExitCode.BAD_INPUT
    except Temporary as error:
        sys.stderr.write(f"{name}: {error}\n")
        return ExitCode.TEMPORARY
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in packages:
            raise
        sys.stderr.write(
            f"{name}: the package {package} is not installed; run `pip install 'feedback-operator[{extra}]'`\n"
        )
        return ExitCode.BAD_INPUT
    return ExitCode.DONE


def pairs(options: Sequence[str], name: str = "--option", form: str = "KEY=VALUE") -> dict[str, str]:
    """Values by their keys. Raises BadInput for an option without a value."""
    if bare := next((option for option in options if "=" not in option), None):
        raise BadInput(f"{name} {bare}: there is no value; write it as {form}")
    return dict(option.partition("=")[::2] for option in options)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated
