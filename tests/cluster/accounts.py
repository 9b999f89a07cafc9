"""ServiceAccounts with the operator's own role, as deploy/ ships it, and their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from tests.cluster.api import SERVICE_ACCOUNTS, Api

MANIFESTS: Final = Path(__file__).parents[2] / "deploy/rbac-namespaced.yaml"
OPERATOR: Final = "feedback-operator"


async def operator_token(api: Api, namespace: str, account: str = OPERATOR) -> str:
    """Make a ServiceAccount that may do what the operator may do in this namespace, and return a token of it."""
    for manifest in yaml.safe_load_all(MANIFESTS.read_text()):
        kind, meta = manifest["kind"], manifest["metadata"]
        meta["namespace"] = namespace
        if kind in ("ServiceAccount", "RoleBinding"):
            meta["name"] = account
        for subject in manifest.get("subjects", []):
            subject.update(name=account, namespace=namespace)
        await api.apply(manifest)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
    answer = await api.create(SERVICE_ACCOUNTS, namespace, request, name=account, subresource="token")
    return str(answer["status"]["token"])
