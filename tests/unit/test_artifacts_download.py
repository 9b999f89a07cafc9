"""The hash that follows a file which is written in no order."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_workloads.storage.download import FollowingHash

CUTS = st.lists(st.integers(0, 5000), max_size=12)


@settings(deadline=None)
@given(cuts=CUTS, again=st.lists(st.integers(0, 12), max_size=4), order=st.randoms(use_true_random=False))
def test_it_is_the_digest_of_the_file_in_whatever_order_it_was_written(
    cuts: list[int], again: list[int], order: random.Random
) -> None:
    data = random.Random(0).randbytes(5000)
    edges = sorted({0, len(data), *cuts})
    pieces = list(pairwise(edges))
    pieces += [pieces[number] for number in again if number < len(pieces)]
    order.shuffle(pieces)
    with tempfile.TemporaryFile(buffering=0) as file, FollowingHash(file.fileno()) as following:
        for start, end in pieces:
            os.pwrite(file.fileno(), data[start:end], start)
            following.written(start, end - start)
        assert following.finish() == hashlib.sha256(data).hexdigest()


def test_an_empty_file_has_the_digest_of_nothing() -> None:
    with tempfile.TemporaryFile(buffering=0) as file, FollowingHash(file.fileno()) as following:
        assert following.finish() == hashlib.sha256().hexdigest()
