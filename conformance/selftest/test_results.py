"""A results file is read as it was written, or rejected in one line with the reason."""

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.cli.main import main
from conformance.errors import ResultsError
from conformance.results.file import collection, read, read_all, save, text_of, text_of_runs
from conformance.results.schema import fault, results_schema
from conformance.selftest.pages import Page, needs_extra
from conformance.selftest.synthetic import cell_at, places, put, results

VALID = results(3, 10, wrong=0.3, plots=True)


def refused(path: Path, text: str | bytes) -> str:
    """Return the line with which a file of this content is rejected."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ResultsError) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message.removeprefix(f"{path}: ")


def test_what_is_written_is_read_and_written_again_the_same(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    save(path, text_of(VALID))
    found = read(path)
    assert text_of_runs([found]) == path.read_text()
    assert found.source == str(path)


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    save(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        save(path, "\ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert path.read_text() == "old\n"


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = text_of(VALID).encode()
    generator = random.Random(7)
    cuts = [0, 1, len(whole) - 2, len(whole) - 1, *generator.sample(range(len(whole)), 200)]
    for cut in cuts:
        message = refused(tmp_path / "cut.json", whole[:cut])
        expected = f"is truncated: it ends after {cut} bytes, without its footer"
        assert message == (expected if cut else "is empty")


def test_a_collection_cut_behind_its_first_run_is_refused(tmp_path: Path) -> None:
    """The footer of a run does not count as the collection's."""
    whole = text_of(collection([VALID, results(3, 10, jax="0.12.0.1")])).encode()
    first = whole.index(b"results end here")
    for cut in (first + 18, first + 20, len(whole) // 2, len(whole) - 1):
        assert "is truncated" in refused(tmp_path / "cut.json", whole[:cut])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "is not JSON: Expecting value"),
        (b"\xff\xfe", "is not JSON: byte 0 is not UTF-8"),
        ("[1, 2]\n", "is JSON, but not a results file of dense-conformance (it has no 'format')"),
        ('{"name": "x"}\n', "is JSON, but not a results file"),
        ('{"format": 1}\n', "is of format 1; this version reads format 2: run it again"),
        ('{"format": "2"}\n', "is of format '2'; this version reads format 2"),
        ('{"format": true}\n', "is of format True"),
        (
            '{"format": 2}\n',
            "does not match the schema of format 2: the document has no 'environment'",
        ),
        ("[" * 100_000 + "]" * 100_000 + "\n", "is not JSON: its values are nested too deeply"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in refused(tmp_path / "x.json", text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ResultsError, match=r"^[^\n]*: cannot be read: [^\n]*$"):
            read(path)


Change = Callable[[dict[str, Any]], object]

INCONSISTENT: list[tuple[Change, str]] = [
    (lambda d: d["cells"].pop(3), "1 of 30 cells are missing, the first of them "),
    (lambda d: d["cells"].append(d["cells"][0]), "the cell 'construction/zero-input on acme:"),
    (lambda d: d["cells"][0].update(implementation="x:y"), "is of an implementation not listed"),
    (lambda d: d["cells"][0].update(requirement="x/y"), "is of a requirement not listed"),
    (lambda d: d["cells"][0].update(level="MAY"), "is a MAY, the requirement a MUST"),
    (
        lambda d: d["implementations"].append(d["implementations"][0]),
        "the implementation 'acme:nnx.MyDense' comes twice",
    ),
    (
        lambda d: d["requirements"].append(d["requirements"][0]),
        "the requirement 'construction/zero-input' comes twice",
    ),
    (lambda d: d.update(complete=not d["complete"]), "it says complete: "),
    (lambda d: d.update(exit_code=0), "it says that all conforms, and its cells do not"),
]


@pytest.mark.parametrize(("change", "message"), INCONSISTENT)
def test_an_inconsistent_file_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    found = copy.deepcopy(VALID)
    change(found)
    said = refused(tmp_path / "x.json", text_of(found))
    assert said.startswith("is inconsistent: ")
    assert message in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seconds": 12.5', '"seconds": 1e999', "is not JSON: 1e999 is not a finite number"),
        ('"seconds": 12.5', '"seconds": NaN', "is not JSON: NaN is not a finite number"),
        ('"seconds": 12.5', '"seconds": 1, "seconds": 1', "the key 'seconds' comes twice"),
        ('"profile": "quick"', '"profile": "\\ud800"', "is not JSON: "),
        ('"seconds": 12.5', '"seconds": -1', "bigger than or equal to 0, found '-1'"),
        ('"seconds": 12.5', '"seconds": true', "seconds must be number, found true"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = text_of(VALID)
    assert old in text
    assert message in refused(tmp_path / "x.json", text.replace(old, new))


_RUN = {"$ref": "#/$defs/run"}
_WRONG: tuple[Any, ...] = ("text", 1.5, -1, True, None, [], {}, ["x"], {"x": []})


def test_reading_and_the_schema_agree_on_every_wrong_type() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    small = results(1, 3, wrong=0.9, seed=3, plots=True)
    cell_at(small, 0, 0)["plots"] = [{"kind": "kernel-variance", "value": [1.0]}]
    validator = jsonschema.Draft202012Validator({**results_schema(), "oneOf": [_RUN]})
    assert validator.is_valid(small)
    assert not fault(small, "run")
    disagreeing = []
    for path in places(small):
        for wrong in _WRONG:
            changed = put(small, path, wrong)
            ours = not fault(changed, "run")
            if ours != validator.is_valid(changed):
                disagreeing.append((path, wrong, ours))
    assert not disagreeing


def test_keys_that_a_later_suite_adds_are_accepted(tmp_path: Path) -> None:
    found = copy.deepcopy(VALID)
    found["added"] = found["environment"]["added"] = 1
    cell_at(found, 0, 0)["added"] = {"x": [1]}
    path = tmp_path / "x.json"
    path.write_text(text_of(found))
    assert len(read(path).verdict.cells) == 30


def test_a_collection_holds_a_run_for_each_environment(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = tmp_path / "x.json"
    save(path, text_of(collection([VALID, results(2, 5, jax="0.12.0.1")])))
    assert [run.environment["jax"] for run in read_all(path)] == ["0.10.2", "0.12.0.1"]
    jsonschema.validate(json.loads(path.read_text()), results_schema())
    with pytest.raises(ResultsError, match="holds the runs of 2 environments where one"):
        read(path)


def test_a_file_that_another_program_rewrote_is_changed(tmp_path: Path) -> None:
    """Only the last newline after the footer is missing."""
    assert "was changed by another program" in refused(tmp_path / "x.json", json.dumps(VALID))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(shard="1/x"), "shard must match pattern"),
        (lambda d: d.update(shard="\u00b2/\u00b2"), "shard must match pattern"),
        (lambda d: d.update(shard="1/100000000"), "shard must match pattern"),
        (lambda d: d.update(seconds=10**400), "an integer of 401 digits is out of range"),
        (
            lambda d: cell_at(d, 0, 0).update(
                plots=[{"kind": "error-over-bound", "in_features": [1], "ratio": []}]
            ),
            "has lists of the lengths 1, 0",
        ),
    ],
)
def test_what_no_run_writes_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    found = copy.deepcopy(VALID)
    change(found)
    assert message in refused(tmp_path / "x.json", text_of(found))


def test_values_nested_deeply_are_refused(tmp_path: Path) -> None:
    text = text_of(VALID).replace(
        '"profile": "quick"', f'"x": {"[" * 600}{"]" * 600}, "profile": "q"'
    )
    assert "its values are nested too deeply" in refused(tmp_path / "x.json", text)


def test_what_a_terminal_would_obey_is_escaped_when_it_is_read(tmp_path: Path) -> None:
    found = copy.deepcopy(VALID)
    hostile = "\x1b[2J\x9b1m\u202eevil\u2066\r\x07"
    found["implementations"][0]["name"] = hostile
    cell_at(found, 0, 0)["message"] = hostile
    path = tmp_path / "x.json"
    path.write_text(text_of(found), encoding="utf-8")
    run = read(path)
    shown = "\\x1b[2J\\x9b1m\\u202eevil\\u2066\\r\\x07"
    assert run.verdict.entries[0].name == shown
    assert run.verdict.cells[0].message == shown


def test_devices_pipes_and_links_are_written_through(tmp_path: Path) -> None:
    link, target, pipe = (tmp_path / name for name in ("link", "target", "pipe"))
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    save(link, "new")
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    save(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    save(Path(os.devnull), "x")
    assert not Path(os.devnull).is_file()
    before = os.umask(0o027)
    try:
        save(tmp_path / "fresh", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "link", "pipe", "target"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        save(Path("/dev/full"), "x")


HOSTILE: tuple[Any, ...] = (
    *(10**400, -1, 1e300, 1e-320, "", "\x1b[2J\x9b\u202e", "<img src=x onerror=alert(1)>"),
    *("\n\n# heading\n::error::x", None, True, [], {}, [[[]]], "x" * 5000, "1/x", "passed"),
    *("MAY", [1e308, -1e308]),
)


def mutated(count: int, seed: int) -> Iterator[str]:
    """Draw the text of a results file with one value changed."""
    generator = random.Random(seed)
    whole = results(2, 12, wrong=0.6, seed=seed, plots=True)
    known = list(places(whole))
    for _ in range(count):
        found = put(whole, generator.choice(known), generator.choice(HOSTILE))
        yield json.dumps(found, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["markdown", "junit", "github", "badge-svg"])
def test_no_mutation_gets_through(
    form: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, good = tmp_path / "x.json", tmp_path / "good.json"
    good.write_text(text_of(results(2, 12, wrong=0.3)), encoding="utf-8")
    for text in mutated(count, seed=3):
        path.write_text(text, encoding="utf-8")
        for arguments in (
            ["report", str(path), "--format", form],
            ["diff", str(good), str(path)],
            ["expect", str(path)],
        ):
            code = main(arguments)
            said = capsys.readouterr()
            assert code in (0, 1, 2)
            assert not {"\x1b", "\x9b", "\u202e"} & set(said.out + said.err)
            assert said.err.count("\n") <= 1


def test_no_mutation_adds_an_element_to_the_page(tmp_path: Path) -> None:
    needs_extra()
    path, page = tmp_path / "x.json", tmp_path / "x.html"
    for text in mutated(12, seed=4):
        path.write_text(text, encoding="utf-8")
        if main(["report", str(path), "-o", str(page)]) == 0:
            assert "img" not in {tag for tag, _, _ in Page(page.read_text()).elements}
