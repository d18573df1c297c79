"""Output that is closed, full or of a narrow encoding, and output for other tools.

The Markdown summary and the badge are never better than the run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conformance.cli.main import main
from conformance.cli.output import for_other_tools_arguments
from conformance.errors import printable, safe_text
from conformance.report.badge import endpoint, message, svg
from conformance.report.github import workflow_commands
from conformance.report.junit import junit
from conformance.report.markdown import markdown
from conformance.results.file import text_of
from conformance.selftest.pages import NEWER, loaded
from conformance.selftest.processes import ended
from conformance.selftest.synthetic import AREAS, cell_at, results, settled

FOUND = results(2, 30, wrong=0.4)


def command(shell: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return a shell line in which ``$C`` is the command."""
    known = {**os.environ, "C": f"{sys.executable} -m conformance", **environment}
    return ended(["sh", "-c", shell], folder, known)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a results file that has characters outside of narrow encodings."""
    found = results(2, 30, wrong=0.4)
    cell_at(found, 0, 0).update(outcome="failed", message="≠ ✓ 名前 \U0001f600", cause="")
    (tmp_path / "r.json").write_text(text_of(settled(found)), encoding="utf-8")
    return tmp_path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("what", ["report r.json", "list", "diff r.json r.json", "expect r.json"])
def test_a_full_disk_is_reported_in_one_line(what: str, folder: Path) -> None:
    done = command(f"$C {what} > /dev/full", folder)
    said = "dense-conformance: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("what", ["report r.json", "list", "diff r.json r.json", "expect r.json"])
def test_a_closed_output_is_no_error(what: str, folder: Path) -> None:
    done = command(f"$C {what} >&-", folder)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_no_encoding_raises(environment: dict[str, str], folder: Path) -> None:
    for what in ("report r.json", "report r.json --format github", "expect r.json"):
        done = command(f"$C {what}", folder, **environment)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_dash_is_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "r.json"), "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("## Does not conform: MUST ")
    assert main(["merge", str(folder / "r.json"), "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == 2
    assert not (folder / "-").exists()


def test_results_on_standard_output_stand_there_alone(tmp_path: Path) -> None:
    run = "$C run nnx.Linear --requirement zero-input -n 0 --results - --junit j.xml"
    done = command(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    assert done.stderr.splitlines()[-1] == "conforms: MUST 1/1"
    (case,) = ElementTree.parse(tmp_path / "j.xml").iter("testcase")
    assert (case.get("name"), len(case)) == ("zero-input", 0)


def test_junit_counts_as_the_verdict_does() -> None:
    """A cell that has not passed is a failure, an error or a skip; recommendations skip."""
    (run,) = loaded(FOUND)
    root = ElementTree.fromstring(junit([run]).encode())
    cases = list(root.iter("testcase"))
    assert len(cases) == 60
    kinds = {(c.get("classname"), c.get("name")): [i.tag for i in c] for c in cases}
    names = {entry.id: f"{entry.name} 0.12.8" for entry in run.verdict.entries}
    for cell in run.verdict.cells:
        area, _, slug = cell.requirement.partition("/")
        (*kind,) = kinds[f"{names[cell.implementation]}.{area}", slug]
        failed = cell.outcome in ("failed", "unexpected-pass")
        spared = cell.outcome == "failed" and cell.level == "SHOULD"
        lost = cell.outcome.lost or cell.outcome == "error"
        expected = ["error"] if lost else ["failure"] if failed and not spared else ["skipped"]
        assert kind == ([] if cell.outcome == "passed" else expected)


def test_no_message_begins_a_command_of_its_own() -> None:
    found = results(1, 3, wrong=0.0)
    hostile = "a\n::error::b\r%0A, c: d"
    cell_at(found, 0, 0).update(outcome="failed", message=hostile, cause="")
    found["implementations"][0]["name"] = hostile
    (run,) = loaded(settled(found))
    lines = workflow_commands([run]).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("::error title=failed%3A construction/zero-input (MUST) on a")
    assert lines[1] == "::error title=dense-conformance::does not conform: MUST 1/2"


def test_markdown_of_a_strangers_words() -> None:
    found = results(1, 3, wrong=0.0)
    found["stopped"] = "<img src=x> [a](b)"
    found["requirements"][0]["id"] = found["cells"][0]["requirement"] = "<b>|x/y"
    text = markdown(loaded(settled(found)))
    assert "\\<img src=x\\> \\[a\\](b)" in text
    assert "\\<b\\>\\|x" in text


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\tb\nc\x1b[2J\x9b\u202e\ud800") == "a\tb\nc\\x1b[2J\\x9b\\u202e\\ud800"
    assert safe_text("a\nb\x07") == "a b\\x07"


@pytest.mark.parametrize(("value", "format"), [("true", "github"), ("", "text")])
def test_annotations_are_printed_by_themselves_in_github_actions(
    value: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", value)
    parser = argparse.ArgumentParser()
    for_other_tools_arguments(parser)
    assert parser.parse_args([]).format == format
    assert parser.parse_args(["--format=text"]).format == "text"


def badge(*changes: tuple[int, str]) -> tuple[str, str]:
    """Return message and colour of the badge of a run with some other outcomes."""
    found = results(1, 100, wrong=0.0)
    for place, outcome in changes:
        cell_at(found, 0, place)["outcome"] = outcome
    said = json.loads(endpoint(loaded(settled(found))))
    assert said["schemaVersion"] == 1
    picture = svg(loaded(found))
    ElementTree.fromstring(picture)
    assert f">{said['message']}</text>" in picture
    assert "href" not in picture
    return said["message"], said["color"]


def test_the_badge_never_rounds_up() -> None:
    """Requirements 0, 1 and 3 are MUST, 2 is a SHOULD, 4 a MAY."""
    assert badge() == ("MUST 60/60", "brightgreen")
    assert badge((0, "failed")) == ("MUST 59/60", "red")
    assert badge((0, "not-run")) == ("incomplete, MUST 59/60", "orange")
    assert badge((0, "expected-failure")) == ("MUST 59/60", "yellow")
    assert badge((0, "not-applicable")) == ("MUST 59/59", "brightgreen")
    assert badge((2, "failed")) == ("MUST 60/60, SHOULD 19/20", "brightgreen")
    assert badge((4, "not-offered")) == ("MUST 60/60", "brightgreen")
    nothing = [(i, "not-applicable") for i in range(100)]
    assert badge(*nothing) == ("nothing was checked", "lightgrey")


def test_the_badge_of_several_environments_counts_them_all() -> None:
    runs = loaded(results(1, 10, wrong=0.0), results(1, 10, wrong=0.0, **NEWER))
    assert message(runs) == "MUST 12/12"


def test_markdown_shows_verdict_table_and_failures() -> None:
    text = markdown(loaded(results(12, 90)))
    lines = text.splitlines()
    assert re.fullmatch(r"## Does not conform: MUST \d+/\d+; .*expected failures.*", lines[0])
    assert "1080 cells: " in text
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 13
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(AREAS) + 4}
    assert r"\<b\>bold\</b\> \& 'quoted' 0.12.8" in text
    assert "- **cause**: the kernel is not scaled: " in text
    assert "- **reproduce**: `dense-conformance run acme:nnx.Linear --requirement " in text
    assert max(map(len, lines)) < 1000


def test_markdown_of_code_in_a_requirement() -> None:
    found = results(1, 1, wrong=0.0)
    found["requirements"][0]["statement"] = "``jax.eval_shape`` <gives> it."
    found["cells"][0].update(outcome="failed", message="a `tick` | here")
    found["exit_code"] = 1
    text = markdown(loaded(found))
    assert "\n`jax.eval_shape` \\<gives\\> it.\n" in text
    assert r"- **found**: a \`tick\` \| here" in text
