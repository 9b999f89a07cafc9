"""What is found in the logs of stages."""

from __future__ import annotations

import re
from typing import Final

ACCOUNT: Final = re.compile(r"^\w+: (\d+) of \d+ done here, (\d+) before\n", re.MULTILINE)
"""What a stage that has something to show says when it ends: what it did, and what was there before it."""
