"""HypoFuzz collects the suite's properties."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.selftest.processes import python

pytest.importorskip("hypofuzz", reason="needs the extra 'fuzz'")

COLLECT = """
import sys
from hypofuzz.collection import collect_tests

found = collect_tests(sys.argv[1:])
for target in found.fuzz_targets:
    print("target", target.nodeid.rpartition("::")[2])
for id, why in found.not_collected.items():
    print("left out", id, why)
"""


def test_hypofuzz_collects_every_property(tmp_path: Path) -> None:
    arguments = ["--pyargs", "conformance.suite", "-p", "no:cacheprovider"]
    arguments += ["--conformance-impl=nnx.MyDense", "--conformance-requirement=forward"]
    done = python(tmp_path, "-c", COLLECT, *arguments, "--conformance-database=default")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out" not in done.stdout
    assert "target test_zero_input[nnx.MyDense]" in done.stdout
    assert done.stdout.count("target ") >= 10
