"""Plans the cells of the zoo: all, or those that blame needs and a sample of the rest.

The zoo has tens of thousands of cells. Few of them decide whether a defect is killed and rightly
blamed: the requirement that it breaks, those on which that one rests directly, and its collateral.
A fixed share of the other cells is checked as well, chosen by a digest, so that all runs of a
version check the same cells.

This module is also the pytest plugin that drops the other cells, in each worker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance.contract.requirement import Requirement, requirement_of

if TYPE_CHECKING:
    from conformance.zoo.judge import Subject

PLUGIN = __name__
OPTION = "--conformance-zoo-plan"

# A defect has cells that matter most; the cells of a correct layer matter equally.
_SHARE_OF_DEFECT = 0.005
_SHARE_OF_CORRECT = 0.06


def plan(
    zoo: Iterable[Subject], rows: Sequence[Requirement], *, full: bool, without: str = ""
) -> dict[str, list[str]]:
    """Return for the spec of each layer the ids of the requirements that are checked on it.

    The requirement ``without`` is left out, as if the suite did not have it.
    """
    planned = {subject.spec: cells_of(subject, rows, full=full) for subject in zoo}
    return {spec: [id for id in ids if id != without] for spec, ids in planned.items()}


def cells_of(subject: Subject, rows: Sequence[Requirement], *, full: bool = False) -> list[str]:
    """Return the requirements that are checked on one layer, in the order of the contract."""
    if full:
        return [row.id for row in rows]
    declared = subject.defect
    share = _SHARE_OF_CORRECT if declared is None else _SHARE_OF_DEFECT
    wanted = {row.id for row in rows if _draw(subject.spec, row.id) < share}
    if declared is not None:
        broken = {declared.breaks, *declared.collateral}
        wanted |= broken.union(*(row.rests_on for row in rows if row.id in broken))
    return [row.id for row in rows if row.id in wanted]


def _draw(*names: str) -> float:
    """Return a number in [0, 1) that is the same in every process."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that gives workers the path of the plan."""
    parser.addoption(OPTION, dest="zoo_plan", default=None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the cells of the plan."""
    if config.option.zoo_plan is None:
        return
    planned = json.loads(Path(config.option.zoo_plan).read_text(encoding="utf-8"))
    wanted = {(spec, row) for spec, rows in planned.items() for row in rows}
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        (kept if _cell(item) in wanted else dropped).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def _cell(item: pytest.Item) -> tuple[str, str] | None:
    row = requirement_of(getattr(item, "function", None))
    call = getattr(item, "callspec", None)
    if row is None or call is None:
        return None
    return call.params["layer"].spec, row.id
