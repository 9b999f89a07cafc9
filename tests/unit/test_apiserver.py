"""Why a call failed, how long to wait before the next try, and patches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_operator.cluster.kubernetes.apiserver import (
    ApiServerError,
    ApiServerUnavailable,
    Conflict,
    Exists,
    Missing,
    Refused,
    Response,
    error_of,
    merge_patch,
    parsed,
    pause,
)

TERMINATING = {"reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"reason": "NotFound"}, Missing),
        (409, {"reason": "AlreadyExists"}, Exists),
        (409, {"reason": "Conflict"}, Conflict),
        (403, {"reason": "Forbidden"}, Refused),
        (403, TERMINATING, Missing),
        (422, {"reason": "Invalid"}, Refused),
        (401, {"reason": "Unauthorized"}, ApiServerUnavailable),
        (413, {"message": "too large"}, Refused),
    ],
)
def test_error_of(status: int, body: dict[str, Any], kind: type[ApiServerError]) -> None:
    assert type(error_of("POST /jobs", Response(status, {}, body))) is kind


@pytest.mark.parametrize(
    ("headers", "attempt", "chance", "seconds"),
    [
        pytest.param({}, 1, 1.0, 0.1, id="first"),
        pytest.param({}, 1, 0.0, 0.05, id="from half of it on, by chance"),
        pytest.param({}, 4, 1.0, 0.8, id="doubling"),
        pytest.param({}, 20, 1.0, 5.0, id="bounded"),
        pytest.param({"Retry-After": "2"}, 1, 0.0, 2.0, id="as the server says"),
        pytest.param({"Retry-After": "3600"}, 1, 0.0, 5.0, id="as the server says, bounded"),
        pytest.param({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1, 1.0, 0.1, id="a date is not looked at"),
    ],
)
def test_pause(headers: dict[str, str], attempt: int, chance: float, seconds: float) -> None:
    assert pause(Response(429, headers, {}), attempt, chance) == pytest.approx(seconds)


def test_what_stands_in_front_of_the_api_server_may_answer_with_anything() -> None:
    assert parsed(b"<html>bad gateway</html>") == {"message": "<html>bad gateway</html>"}
    assert parsed(b"[1]") == {"message": "[1]"}
    assert parsed(b'{"kind": "Status"}') == {"kind": "Status"}


scalars = st.one_of(st.booleans(), st.integers(), st.text(max_size=3))
values = st.recursive(
    st.one_of(scalars, st.lists(scalars, max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def apply(patch: Any, target: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(value, result.get(key))
    return result


@given(objects, objects)
def test_a_merge_patch_makes_the_one_out_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert apply(merge_patch(before, after), before) == after


@given(objects)
def test_a_merge_patch_of_equals_is_empty(same: dict[str, Any]) -> None:
    assert merge_patch(same, same) == {}
