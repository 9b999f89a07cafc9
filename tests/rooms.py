"""The picture of rooms in docs/architecture.md, drawn from the imports: `python -m tests.rooms [--check]`.

An arrow is an import; one that follows from others (a longer way over other rooms) is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import grimp

PAGE: Final = Path("docs/architecture.md")
BEGIN: Final = "<!-- rooms: made from the imports by `make generate` -->\n"
END: Final = "<!-- end of rooms -->\n"
PACKAGES: Final = ("feedback_operator", "feedback_workloads")

Arrows = Mapping[str, frozenset[str]]
"""What each room imports."""


def rooms() -> Arrows:
    """Rooms (`package.room`) and what they import, entry points left out."""
    graph = grimp.build_graph(*PACKAGES)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        if here := _room(module):
            there = {_room(imported) for imported in graph.find_modules_directly_imported_by(module)}
            found.setdefault(here, set()).update(there - {here, ""})
    return {room: frozenset(imported) for room, imported in sorted(found.items())}


def _room(module: str) -> str:
    """The room of a module; empty for a package itself and for its entry point."""
    room = ".".join(module.split(".")[:2])
    return "" if room in PACKAGES or room.endswith("__main__") else room


def reduced(arrows: Arrows) -> Arrows:
    """Without the arrows that follow from others. The rooms must be free of circles."""

    def reachable(rooms: Iterable[str]) -> set[str]:
        return {far for room in rooms for far in (arrows[room] | reachable(arrows[room]))}

    return {room: frozenset(imported - reachable(imported)) for room, imported in arrows.items()}


def picture(arrows: Arrows) -> str:
    """The rooms as a Mermaid flowchart, one box a package."""
    lines = ["```mermaid", "flowchart TD"]
    for package in PACKAGES:
        inside = [room for room in arrows if room.startswith(f"{package}.")]
        lines += [f"  subgraph {package}", *(f"    {room}[{room.partition('.')[2]}]" for room in inside), "  end"]
    lines += [f"  {room} --> {imported}" for room in arrows for imported in sorted(arrows[room])]
    return "\n".join([*lines, "```", ""])


def main(check: bool) -> int:
    """Draw the picture anew, or say that it is out of date; 1 where it is."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    made = f"{before}{BEGIN}{picture(reduced(rooms()))}{END}{rest.split(END)[1]}"
    if check and made != text:
        sys.stderr.write(f"the rooms of {PAGE} are not those of the code; run `make generate` and commit the result\n")
        return 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
