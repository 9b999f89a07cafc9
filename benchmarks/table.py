"""One measured ratio, and how it is printed and kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Ours against the best alternative in the same run. `goal` says what the ratio must be, as `>= 0.95`."""

    name: str
    ours: float
    peer: float
    ratio: float
    goal: str

    def met(self) -> bool:
        sign, bound = self.goal.split()
        return self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)
