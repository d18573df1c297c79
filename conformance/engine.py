"""Calls pytest, which runs everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from conformance.plugin import RUN
from conformance.verdict import USAGE

__all__ = ["run"]


class _Reporter:
    """Registered with pytest for one run: shows progress, then the verdict."""

    def __init__(
        self, progress: Callable[[int, Mapping[str, str], Mapping[str, str]], Any]
    ) -> None:
        self.progress = progress
        self.ended = False

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        found = config.stash.get(RUN, None)
        if found is not None and found.controls:
            total = len(found.entries) * len(found.rows)
            names = {entry.id: entry.name for entry in found.entries}
            statements = {row.id: row.statement for row in found.rows}
            config.pluginmanager.register(self.progress(total, names, statements))

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        import sys

        from conformance.console import write_verdict

        found = config.stash.get(RUN, None)
        if found is not None and found.controls and found.verdict is not None:
            self.ended = True
            write_verdict(found.verdict, found.facts(), sys.stdout)


def run(
    arguments: Sequence[str],
    progress: Callable[[int, Mapping[str, str], Mapping[str, str]], Any],
) -> int:
    """Run pytest with these arguments; the exit code of the verdict.

    Where pytest ends before there is a verdict, the exit code is that of a wrong usage.
    """
    reporter = _Reporter(progress)
    status = int(pytest.main(list(arguments), plugins=[reporter]))
    return status if reporter.ended else USAGE
