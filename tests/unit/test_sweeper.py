"""Which of Kopf's requests are lists, and of what."""

from __future__ import annotations

import pytest

from feedback_operator.cluster.kubernetes.sweeper import scope_of


@pytest.mark.parametrize(
    ("path", "kind", "namespace"),
    [
        ("/api/v1/pods", "Pod", ""),
        ("/api/v1/namespaces/team-a/pods", "Pod", "team-a"),
        ("/apis/batch/v1/namespaces/team-a/jobs", "Job", "team-a"),
        ("/apis/feedback.rlaif.dev/v1alpha1/feedbackiterations", "FeedbackIteration", ""),
        ("/k8s/clusters/c-1/apis/apps/v1/deployments", "Deployment", ""),
    ],
)
def test_the_scope_of_a_list(path: str, kind: str, namespace: str) -> None:
    scope = scope_of(path)
    assert scope is not None
    assert (scope[0].name, scope[1]) == (kind, namespace)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/namespaces", "/apis/batch/v1", "/api/v1/namespaces/team-a/pods/p", "/api/v1/configmaps", "/version"],
)
def test_what_is_no_list_of_a_kind_that_is_watched(path: str) -> None:
    assert scope_of(path) is None
