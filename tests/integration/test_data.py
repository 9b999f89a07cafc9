"""`feedback data` from and to a real S3 server."""

from __future__ import annotations

import io
import json
import zipfile

from feedback_workloads.contract import Source
from feedback_workloads.data.convert import convert
from feedback_workloads.data.mix import Wanted, mix
from feedback_workloads.rows.instructions import Instruction
from tests.integration.conftest import S3
from tests.unit.test_data_mix import encoded, scene


def test_from_a_folder_and_an_archive_on_s3_to_s3_and_on_to_a_stage(s3: S3) -> None:
    rows = [{"id": number, "image": f"pictures/{number}.png", "question": "What?"} for number in range(4)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as pictures:
        for number in range(3):
            pictures.writestr(f"pictures/{number}.png", encoded(scene(number)))
    s3.store.put(json.dumps(rows).encode(), f"{s3.uri}/rows", "rows.json")
    s3.store.put(archive.getvalue(), f"{s3.uri}/archives", "pictures.zip")
    s3.client.put_object(**s3.key("rows/"), Body=b"")  # a console's folder
    given = [f"{s3.uri}/rows", f"{s3.uri}/archives/pictures.zip"]
    counts = convert(s3.store, "table", given=given, to=f"{s3.uri}/made", options={}, called="mine")
    assert counts == {"rows": 3, "rejected": 1, "rejected_missing-picture": 1}
    mix(s3.store, [f"{s3.uri}/made"], f"{s3.uri}/mix", Wanted(rows=1, iterations=3, seed=0), {})
    found = [
        row
        for number in (1, 2, 3)
        for row in s3.store.instructions(Source(uri=f"{s3.uri}/mix/iteration-{number}"))
        if isinstance(row, Instruction)
    ]
    assert sorted(row.id for row in found) == ["mine-0", "mine-1", "mine-2"]
    assert all(row.images == (encoded(scene(int(row.id[-1]))),) for row in found)
