"""The Markdown summary and the badge are never better than the run."""

import json
import re
from xml.etree import ElementTree

from conformance.report.badge import endpoint, message, svg
from conformance.report.markdown import markdown
from conformance.selftest.pages import NEWER, loaded
from conformance.selftest.synthetic import AREAS, cell_at, results, settled


def badge(*changes: tuple[int, str], level: str | None = None) -> tuple[str, str]:
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
    """A success in one does not hide a failure in another."""
    runs = loaded(results(1, 10, wrong=0.0), results(1, 10, wrong=0.0, **NEWER))
    assert message(runs) == "MUST 12/12"


def test_markdown_shows_verdict_table_and_failures() -> None:
    """Each implementation has a line; markup in names is escaped."""
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
