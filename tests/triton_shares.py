"""A plugin that runs one share of the tests it is given, so that several workers can take a file together.

`TRITON_CASES_SHARE=2/6` runs every sixth test, from the third: neighbours, which take as long as each other, go to
different shares.
"""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share, shares = map(int, os.environ["TRITON_CASES_SHARE"].split("/"))
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % shares != share])
    items[:] = items[share::shares]
