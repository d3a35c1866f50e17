"""Every merger and every network on eight devices: each does an eighth of the work, and nothing is sent for merging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.slow

LAYOUTS = ("data parallel", "FSDP", "tensor parallel", "explicit mesh")


@cache
def table(wanted: str) -> dict[str, Any]:
    program = Path(__file__).with_name("jax_sharding.py")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, str(program), wanted], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_a_merger_works_on_its_own_samples(kind: str) -> None:
    for name, row in table(kind).items():
        print(kind, name, row)
        assert abs(8 * row["share"] - 1) < 0.03, name
        assert row["collectives"] == {}, name
        assert row["outputs"] == ["data"], name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_is_shared_as_an_unmerged_one(layout: str) -> None:
    rows = table(layout)
    for name, row in rows.items():
        merger, way = name.split(", ")
        plain = rows[f"none, {way}"]
        print(layout, name, row)
        # every device of the axis "model" merges whole samples; of these products only those of LTM are many
        most = 0.15 if layout == "tensor parallel" and merger == "ltm" else 0.03
        assert abs(8 * row["share"] - 1) < most, name
        assert row["collectives"].keys() <= plain["collectives"].keys(), name
        assert row["outputs"] == plain["outputs"], name
        for kind, numbers in row["collectives"].items():  # a learned merger adds its few parameters
            assert numbers <= plain["collectives"][kind] + 8192, (name, kind)


def test_data_parallel_inference_sends_nothing() -> None:
    for layout in ("data parallel", "explicit mesh"):
        assert {name for name, row in table(layout).items() if row["collectives"] and "forward" in name} == set()


def test_shard_map_gives_what_one_device_gives() -> None:
    assert table("shard_map") == dict.fromkeys(("none", "tome", "ats", "patch_merger", "ltm"), True)
