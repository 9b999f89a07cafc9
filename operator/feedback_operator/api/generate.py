"""Files that are made from the sources: the custom resource definition, its reference, the RBAC manifests and
the chart's copies of them.

    python -m feedback_operator.api.generate [--check]

writes them below the working directory, or says with --check which of them is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feedback_operator.api import GROUP, rbac
from feedback_operator.api.reference import reference
from feedback_operator.api.schema import PLURAL, crd_text

CHART_FILES: Final = Path("charts/feedback-operator/files")


def files() -> dict[Path, str]:
    """Every generated file: its path below the repository, and its content."""
    return {
        Path(f"crds/{GROUP}_{PLURAL}.yaml"): crd_text(),
        Path("docs/reference.md"): reference(),
        Path("deploy/rbac-namespaced.yaml"): rbac.text(rbac.NAMESPACED_HEADER, rbac.namespaced()),
        Path("deploy/rbac-cluster.yaml"): rbac.text(rbac.CLUSTER_HEADER, rbac.cluster()),
        Path("deploy/rbac-routes.yaml"): rbac.text(rbac.ROUTES_HEADER, rbac.routes()),
        CHART_FILES / "crd.yaml": crd_text(),
        CHART_FILES / "rules.yaml": rbac.chart_text(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check that they are as they would be written; 1 where one is not."""
    parser = argparse.ArgumentParser(prog="python -m feedback_operator.api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which files are out of date")
    check = parser.parse_args(arguments).check
    stale = {file: text for file, text in files().items() if not file.exists() or file.read_text() != text}
    for file, text in stale.items():
        if check:
            sys.stderr.write(f"{file} is not what the sources make of it; run `make generate` and commit the result\n")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
