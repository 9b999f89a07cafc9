"""What a labeler is asked: one question behind all pictures of an instruction, answered by its first token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedback_workloads.models.family import Family, Prompt
from feedback_workloads.rows.conversations import asked


def about(family: Family, images: Sequence[bytes]) -> Callable[[str], Prompt]:
    """What makes prompts of questions about encoded pictures, which are prepared once. Both raise BadRow."""
    shown = family.show(images)
    return lambda question: Prompt(family.conversation_ids(asked(question, len(shown)), "verdict"), shown)
