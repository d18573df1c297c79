"""The folder of the suite, and the run of pytest's configuration; imports only pytest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conformance.running.run import Run

PACKAGE = Path(__file__).resolve().parents[1]
SUITE = PACKAGE / "suite"
SELFTEST = PACKAGE / "selftest"

RUN: pytest.StashKey[Run] = pytest.StashKey()
