"""The changes that ``diff`` reports, and the files that ``merge`` joins or rejects."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.cli.main import main
from conformance.errors import ResultsError
from conformance.report.diff import NOT_COMPARABLE, SAME, WORSE, Difference, compare, text
from conformance.report.merge import merge
from conformance.results.file import Results, document, parse, text_of
from conformance.selftest.synthetic import cell_at, results, settled

Document = dict[str, Any]

BASE = results(2, 12, wrong=0.0, plots=True)


def loaded(found: Document, source: str = "x.json") -> Results:
    """Return the results as if they were read from a file."""
    (run,) = parse(text_of(found), source)
    return run


def changed(change: Callable[[Document], object], base: Document = BASE) -> Document:
    """Return a copy with a change, and with a consistent summary."""
    found = copy.deepcopy(base)
    change(found)
    return settled(found)


def become(
    outcome: str, implementation: int = 0, requirement: int = 1
) -> Callable[[Document], None]:
    """Give a cell another outcome."""

    def change(found: Document) -> None:
        cell_at(found, implementation, requirement).update(outcome=outcome, cause="the cause")

    return change


def difference(old: Document, new: Document) -> Difference:
    """Return the comparison of two documents."""
    return compare(loaded(old), loaded(new))


def test_the_same_file_is_the_same() -> None:
    found = difference(BASE, BASE)
    assert found.exit_code == SAME
    assert text(found) == "24 cells compared: nothing is worse\n"


def test_what_fails_now_is_worse_and_comes_with_its_cause() -> None:
    worse = changed(become("failed"))
    found = difference(BASE, worse)
    assert found.exit_code == WORSE
    assert text(found) == (
        "newly failing:\n"
        "  initialization/zero-input   nnx.MyDense 0.12.8: passed -> failed; the cause\n\n"
        "24 cells compared: worse in 1\n"
    )
    back = difference(worse, BASE)
    assert back.exit_code == SAME
    assert back.passing == ["initialization/zero-input   nnx.MyDense 0.12.8: failed -> passed"]


@pytest.mark.parametrize(
    ("before", "after", "kind", "code"),
    [
        ("passed", "not-run", "not_run", WORSE),
        ("failed", "not-run", "not_run", WORSE),
        ("passed", "blocked", "failing", WORSE),
        ("not-applicable", "failed", "failing", WORSE),
        ("passed", "expected-failure", "expected", SAME),
        ("not-run", "failed", "failing", WORSE),
        ("failed", "expected-failure", "expected", SAME),
        ("failed", "blocked", "other", SAME),
        ("passed", "not-applicable", "other", SAME),
        ("not-run", "passed", "passing", SAME),
        # A MAY is never worse.
        ("passed", "not-offered", "may", SAME),
    ],
)
def test_each_change_is_of_one_kind(before: str, after: str, kind: str, code: int) -> None:
    place = 4 if kind == "may" else 1
    old, new = (changed(become(each, requirement=place)) for each in (before, after))
    found = difference(old, new)
    assert found.exit_code == code
    lists = {name: value for name, value in vars(found).items() if isinstance(value, list)}
    assert {name for name, value in lists.items() if value} == {kind}


def test_a_layer_that_was_not_run_takes_one_line() -> None:
    def lost(found: Document) -> None:
        id = found["implementations"][0]["id"]
        for cell in found["cells"]:
            if cell["implementation"] == id:
                cell.update(outcome="not-run", reason="the run was stopped before: terminated")

    found = difference(BASE, changed(lost))
    assert found.exit_code == WORSE
    assert found.not_run == [
        "nnx.MyDense 0.12.8: none of its 12 cells has a result: "
        "the run was stopped before: terminated"
    ]


def test_what_somebody_declared_is_now_expected() -> None:
    shown = text(difference(BASE, changed(become("expected-failure"))))
    assert shown.startswith("now expected:\n  initialization/zero-input   nnx.MyDense 0.12.8: ")
    assert shown.endswith("24 cells compared: nothing is worse\n")


def test_what_the_new_run_lacks_did_not_run() -> None:
    def without_one(found: Document) -> None:
        gone = found["implementations"].pop()["id"]
        found["cells"] = [c for c in found["cells"] if c["implementation"] != gone]

    def without_row(found: Document) -> None:
        gone = found["requirements"].pop()["id"]
        found["cells"] = [c for c in found["cells"] if c["requirement"] != gone]

    found = difference(BASE, changed(without_one))
    assert found.exit_code == WORSE
    assert found.not_run == ["nnx.Linear 0.12.8: the new run does not have it; conforms: MUST 8/8"]
    assert len(difference(BASE, changed(without_row)).not_run) == 2
    assert difference(changed(without_one), BASE).exit_code == SAME


def test_other_bits_are_reported_and_are_not_worse() -> None:
    base = results(1, 30, wrong=0.0, plots=True)

    def measure(**new: str) -> Callable[[Document], None]:
        def change(found: Document) -> None:
            cell = next(c for c in found["cells"] if "fingerprint" in c.get("measured", {}))
            cell["measured"].update(fingerprint="other", **new)

        return change

    old = next(c["measured"] for c in base["cells"] if "measured" in c)["sample"]
    first, second = map(float.fromhex, old.split())
    ulp = 2.0**-19
    near = difference(base, changed(measure(sample=f"{(first + 2 * ulp).hex()} -0x1p-2"), base))
    said = "nnx.MyDense 0.12.8: same seed, other bits; "
    assert near.bits == [f"{said}the 2 recorded entries agree within 2 ulp"]
    assert near.exit_code == SAME
    far = difference(base, changed(measure(sample=f"{(first + 3 * ulp).hex()} -0x1p-2"), base))
    assert far.bits[0].startswith(f"{said}1 of 2 recorded entries differ by more than 2 ulp, the ")
    unknown = difference(base, changed(measure(sample="?"), base))
    assert unknown.bits == [f"{said}how far they are apart is not recorded"]
    assert second == -0.25

    other = results(1, 30, wrong=0.0, threefry_partitionable=False)
    found = difference(base, changed(measure(), other))
    assert found.bits[0].startswith(said)
    assert found.bits[1:] == ["kernels depend on threefry_partitionable True -> False"]
    assert not difference(base, other).bits


def test_versions_precision_and_laws_are_named() -> None:
    base = results(1, 30, wrong=0.0, plots=True)

    def change(found: Document) -> None:
        found["environment"].update(flax="0.12.12", matmul_precision="highest")
        found["implementations"][0].update(version="0.12.12", kernel_law="uniform")
        cell = next(c for c in found["cells"] if "plots" in c and "law" in c["plots"][0])
        cell["plots"][0]["law"] = "truncated-normal"

    assert difference(base, changed(change, base)).laws == [
        "environment: flax 0.12.8 -> 0.12.12",
        "precision: matmul_precision default -> highest",
        "nnx.MyDense: version 0.12.8 -> 0.12.12",
        "nnx.MyDense: kernel law normal or truncated normal, variance 1/fan_in -> uniform",
        "nnx.MyDense 0.12.12: the kernel's law normal -> truncated-normal",
    ]


def test_seconds_are_reported_beyond_the_spread_of_all_cells() -> None:
    """A slow machine changes all cells; a cell that is ten times slower is named."""

    def slower(factors: list[float]) -> Callable[[Document], None]:
        def change(found: Document) -> None:
            for i, cell in enumerate(found["cells"]):
                cell["seconds"] = 0.25 * factors[i % len(factors)]

        return change

    noisy = [1.9, 2.0, 2.1, 2.2]
    found = difference(BASE, changed(slower(noisy)))
    assert found.exit_code == SAME
    (line,) = found.seconds
    assert line.startswith("all cells: a factor of 2.05 in the median, ")
    assert not difference(BASE, changed(slower([0.9, 1.0, 1.1, 1.2]))).seconds

    def one(found: Document) -> None:
        slower(noisy)(found)
        cell_at(found, 1, 3)["seconds"] *= 10

    found = difference(BASE, changed(one))
    assert found.exit_code == SAME
    _, line = found.seconds
    assert line.startswith("numerics/zero-input   nnx.Linear 0.12.8: 0.25 s -> ")


def test_what_cannot_be_compared_says_why() -> None:

    def deeper(found: Document) -> None:
        found["profile"] = "thorough"

    def renamed(found: Document) -> None:
        for record in found["implementations"]:
            record["id"] += "2"
        for cell in found["cells"]:
            cell["implementation"] += "2"

    found = difference(BASE, changed(deeper))
    assert found.exit_code == NOT_COMPARABLE
    assert text(found) == (
        "not comparable: the profiles differ (quick, thorough): a deeper one finds more in the "
        "same layer\n"
    )
    found = difference(BASE, changed(renamed))
    assert found.exit_code == NOT_COMPARABLE
    assert "no requirement on an implementation in common" in found.incomparable


def test_the_command_gives_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(text_of(BASE))
    new.write_text(text_of(changed(become("failed"))))
    assert main(["diff", str(old), str(old)]) == SAME
    assert main(["diff", str(old), str(new)]) == WORSE
    new.write_text("{")
    capsys.readouterr()
    assert main(["diff", str(old), str(new)]) == NOT_COMPARABLE
    expected = (
        f"dense-conformance: {new}: is truncated: it ends after 1 bytes, without its footer\n"
    )
    assert capsys.readouterr().err == expected


def part(found: Document, implementations: slice, requirements: slice) -> Document:
    """Return a shard with some of the implementations and requirements."""
    entries = found["implementations"][implementations]
    rows = found["requirements"][requirements]
    ids = {entry["id"] for entry in entries}, {row["id"] for row in rows}
    cells = [
        c for c in found["cells"] if c["implementation"] in ids[0] and c["requirement"] in ids[1]
    ]
    return {**found, "implementations": entries, "requirements": rows, "cells": cells}


ALL = slice(None)


@pytest.mark.parametrize(
    "parts",
    [
        [(slice(0, 1), ALL), (slice(1, 2), ALL)],
        [(ALL, slice(0, 5)), (ALL, slice(5, 12))],
        [(ALL, slice(0, 5)), (ALL, slice(3, 12))],
    ],
)
def test_shards_make_up_the_whole(parts: list[tuple[slice, slice]]) -> None:
    (whole,) = merge([loaded(part(BASE, *shard)) for shard in parts])
    found = document(whole)
    for key in ("implementations", "requirements", "environment", "complete", "exit_code"):
        assert found[key] == BASE[key]
    assert sorted(map(str, found["cells"])) == sorted(map(str, BASE["cells"]))


def test_warnings_that_came_and_went_are_listed() -> None:
    def warn(*texts: str) -> Callable[[Document], object]:
        return lambda found: found["implementations"][0].update(warnings=list(texts))

    old, new = changed(warn("W: a", "W: b")), changed(warn("W: b", "W: c"))
    name = old["implementations"][0]["name"]
    assert difference(old, new).warnings == [f"{name}: new: W: c", f"{name}: gone: W: a"]
    assert difference(BASE, new).warnings == []


def test_a_cell_that_no_shard_has_did_not_run() -> None:
    shards = [part(BASE, slice(0, 1), slice(0, 5)), part(BASE, slice(1, 2), slice(5, 12))]
    (whole,) = merge([loaded(shard) for shard in shards])
    absent = [cell for cell in whole.verdict.cells if cell.outcome == "not-run"]
    assert len(absent) == 12
    assert not whole.verdict.complete
    assert whole.verdict.exit_code == 3


def test_a_failure_in_one_shard_blocks_what_rests_on_it_in_another() -> None:
    def fail_both(found: Document) -> None:
        become("failed", 0, 0)(found)
        become("failed", 0, 1)(found)
        found["requirements"][1]["rests_on"] = [found["requirements"][0]["id"]]

    found = changed(fail_both)
    (whole,) = merge([loaded(part(found, ALL, slice(i, i + 1))) for i in (0, 1)])
    outcomes = [(cell.requirement, str(cell.outcome)) for cell in whole.verdict.cells[:2]]
    assert outcomes == [
        ("construction/zero-input", "failed"),
        ("initialization/zero-input", "blocked"),
    ]


def test_a_decided_cell_wins_over_one_that_did_not_run() -> None:
    runs = [loaded(changed(become("not-run"))), loaded(BASE)]
    for pair in (runs, runs[::-1]):
        (whole,) = merge(pair)
        assert whole.verdict.exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (become("failed"), "initialization/zero-input on acme:nnx.MyDense differs: passed in a"),
        (lambda d: d.update(profile="thorough"), "the profile differs: quick in a"),
        (
            lambda d: d["implementations"][0].update(version="0.12.12"),
            "the version of acme:nnx.MyDense differs: 0.12.8 in a",
        ),
        (
            lambda d: d["implementations"][0].update(spec="x:Y"),
            "the place of acme:nnx.MyDense differs: acme.layers:Dense0 in a",
        ),
        (
            lambda d: d["requirements"][0].update(statement="Other."),
            "the text of construction/zero-input differs: ",
        ),
    ],
)
def test_what_contradicts_is_refused(change: Callable[[Document], object], message: str) -> None:
    runs = [loaded(BASE, "a"), loaded(changed(change), "b")]
    with pytest.raises(ResultsError, match=r"^[^\n]*; nothing was merged$") as refusal:
        merge(runs)
    assert message in str(refusal.value)
    assert " in b; " in str(refusal.value)


def test_environments_stay_apart(tmp_path: Path) -> None:
    paths = []
    for name, environment in (("a", {}), ("b", {"jax": "0.12.0.1"}), ("c", {"seed": 7})):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(text_of(results(2, 12, wrong=0.0, **environment)))
    target = tmp_path / "all.json"
    assert main(["merge", *map(str, paths), "-o", str(target)]) == 0
    runs = parse(target.read_text(), "all")
    assert [run.environment["jax"] for run in runs] == ["0.10.2", "0.12.0.1"]
    again = tmp_path / "again.json"
    assert main(["merge", str(target), "-o", str(again)]) == 0
    assert again.read_text() == target.read_text()
