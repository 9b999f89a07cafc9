"""The images on a node, as somebody without a name on a file system that cannot be written to."""

from __future__ import annotations

import json
import random
from typing import Final

import pytest

from tests.cluster.api import PODS, Object
from tests.node.team import Team

STARTS_KERNELS: Final = """
from triton.runtime.build import compile_module_from_src
source = '#include <Python.h>\\nstatic PyModuleDef it = {PyModuleDef_HEAD_INIT, "launcher"};\\n'
source += 'PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&it); }'
compile_module_from_src(source, "launcher")
"""
"""On GPUs Triton builds the like of this before it starts a kernel, of TRL or of vLLM."""
WORKS: Final = {
    "operator:0.1.0": "import feedback_operator.service.serve, kopf; assert not shutil.which('gcc')",
    "train:0.1.0": f"import deepspeed, trl, feedback_workloads.stages.training\n{STARTS_KERNELS}",
    "generate:0.1.0-cpu": f"import vllm, feedback_workloads.stages.sampling\n{STARTS_KERNELS}",
}
"""What each image is for, in short."""
NOTHING_TO_BUILD_WITH: Final = """
import importlib.util, pathlib, shutil
assert not [name for name in ("pip", "uv", "hatchling") if importlib.util.find_spec(name)]
assert not [name for name in ("c++", "make", "uv", "pip") if shutil.which(name)]
try:
    pathlib.Path("/opt/feedback/file").write_text("")
except OSError as error:
    assert error.errno == 30, error
else:
    raise AssertionError("the root file system can be written to")
"""


def pod(image: str, uid: int) -> Object:
    script = f"{NOTHING_TO_BUILD_WITH}\n{WORKS[image]}"
    container = {
        "name": "it",
        "image": f"feedback-operator/{image}",
        "command": ["python", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"image-{image.partition(':')[0]}"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": uid, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


@pytest.mark.parametrize("image", WORKS)
def test_any_user_can_run_an_image_that_has_nothing_to_build_with(team: Team, image: str) -> None:
    made = pod(image, uid=random.SystemRandom().randrange(100_000, 2**31))
    name = made["metadata"]["name"]
    team.apply(made)
    ended = team.wait(PODS, name, lambda item: item["status"]["phase"] in ("Succeeded", "Failed"), seconds=180)
    assert ended["status"]["phase"] == "Succeeded", json.dumps(made["spec"]["securityContext"]) + team.kubectl(
        "logs", name
    )
