"""The page: complete, linked, self-contained, and readable without a script."""

import copy
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance.cli.main import main
from conformance.report.tally import LOOK
from conformance.results.file import collection, text_of
from conformance.selftest.pages import NEWER, Page, loaded, needs_extra, page_of
from conformance.selftest.synthetic import AREAS, cell_at, results

FULL = results(12, 90, plots=True)


@pytest.fixture(scope="module")
def full() -> str:
    """Return the page of twelve implementations and ninety requirements, with every outcome."""
    return page_of(FULL)


def test_the_page_is_small_enough(full: str) -> None:
    assert len(full.encode()) < 1_500_000


def test_each_cell_has_its_place_word_and_link(full: str) -> None:
    """Rows are implementations, columns requirements."""
    found = Page(full)
    ids = found.ids()
    cells = {id: element for id, element in ids.items() if id.startswith("cell-")}
    assert len(cells) == 12 * 90
    looks = {str(outcome): look for outcome, look in LOOK.items()}
    for record in FULL["cells"][:90]:
        attributes, text = cells[f"cell-nnx.MyDense--{record['requirement'].replace('/', '-')}"]
        look = looks[record["outcome"]]
        assert text == f"{look.symbol}{look.word}"
        assert attributes["class"]
    assert [text for _, text in found.all("h3") if text in AREAS] == [*AREAS, *AREAS]


def test_must_stands_before_should_before_may(full: str) -> None:
    levels = re.findall(r'class="group level">(\w+)<', full)
    assert levels == ["MUST", "SHOULD", "MAY"] * len(AREAS)


@pytest.mark.parametrize("environments", [1, 2])
def test_every_link_resolves(environments: int) -> None:
    runs = [results(5, 40, wrong=0.4), results(5, 38, wrong=0.4, seed=1, **NEWER)]
    found = Page(page_of(*runs[:environments]))
    links = [str(attributes["href"]) for attributes, _ in found.all("a")]
    assert len(links) > 5 * 40
    assert {link[0] for link in links} == {"#"}
    ids = found.ids()
    assert not [link for link in links if link[1:] not in ids]
    labelled = [a["aria-labelledby"] for _, a, _ in found.elements if "aria-labelledby" in a]
    assert labelled
    assert not [id for id in labelled if id not in ids]


def test_nothing_outside_the_page_is_asked_for(full: str) -> None:
    found = Page(full)
    for tag, attributes, _ in found.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert str(attributes.get(name, "#")).startswith("#")
    outside = full.replace('<script type="application/json"', "")
    assert set(re.findall(r"url\((.)", outside)) <= {"#"}
    assert "://" not in full
    assert "@import" not in full
    policies = [a["content"] for a, _ in found.all("meta") if "http-equiv" in a]
    assert str(policies[0]).startswith("default-src 'none';")


def test_the_page_is_complete_without_a_script(full: str) -> None:
    """Scripts only show the copy buttons, which are hidden otherwise."""
    found = Page(full)
    assert len(found.all("script")) == 2
    buttons = found.all("button")
    codes = [text for a, text in found.all("div") if a.get("class") == "code"]
    assert len(buttons) == len(codes) > len(found.all("article"))
    assert all("hidden" in attributes for attributes, _ in buttons)
    assert {text.split()[0] for text in codes} == {"dense-conformance", "import"}


def test_what_other_people_name_is_text(full: str) -> None:
    found = Page(full)
    assert "<b>bold</b> & 'quoted' 0.12.8" in [text for _, text in found.all("h3")]
    assert "<script>alert" not in full
    assert "</script><script>alert(1)" in "".join(text for _, text in found.all("dd"))


def test_failures_say_all_that_is_known() -> None:
    found = results(1, 12, wrong=0.0)
    failed = results(1, 12, wrong=1.0)
    record = next(c for c in failed["cells"] if c["outcome"] == "failed")
    place = [c["requirement"] for c in found["cells"]].index(record["requirement"])
    found["cells"][place] = record
    found["exit_code"] = 1
    text = page_of(found)
    (article,) = Page(text).all("article")
    for expected in (
        "failed",
        record["requirement"],
        found["requirements"][place]["statement"],
        record["cause"],
        record["message"],
        record["accepted"],
        "ratio = 64.1",
        "in_features=4, out_features=2048, seed=0; any seed and any values will do",
        "assert 1 < 0, '</script>'",
        record["reproduction"],
    ):
        assert expected in article[1]
    assert text.index("<article") < text.index('id="matrix"')
    assert "Does not conform" in Page(text).all("strong")[0][1]


def test_what_is_blocked_is_counted_and_named() -> None:
    found = results(1, 12, wrong=0.0)
    first, *rest = found["cells"][:4]
    first.update(outcome="failed", message="it differs")
    for cell in rest:
        cell.update(outcome="blocked", blocked_by=first["requirement"])
    found["exit_code"] = 1
    (article,) = Page(page_of(found)).all("article")
    assert "3 more requirements could not be checked because of this" in article[1]
    assert all(cell["requirement"] in article[1] for cell in rest)


def test_a_broken_registration_is_shown_once() -> None:
    found = results(1, 12, wrong=0.0)
    for cell in found["cells"]:
        cell.update(outcome="error", reason="ImportError: no module named acme")
    found["exit_code"] = 2
    page = Page(page_of(found))
    (article,) = page.all("article")
    links = {a["href"] for a, text in page.all("a") if text == "Eerror"}
    assert links == {f"#{article[0]['id']}"}


def test_a_page_gives_its_results_back(tmp_path: Path) -> None:
    needs_extra()
    runs = [results(3, 12, wrong=0.4), results(3, 12, wrong=0.4, **NEWER)]
    for documents in (runs[:1], runs):
        source, page, back = (tmp_path / name for name in ("a.json", "a.html", "b.json"))
        source.write_text(text_of(collection(documents)))
        assert main(["report", str(source), "-o", str(page)]) == 0
        assert main(["report", "--extract", str(page), "-o", str(back)]) == 0
        assert back.read_text() == source.read_text()


def test_the_same_results_give_the_same_page() -> None:
    found = results(1, 30, wrong=0.4, plots=True)
    assert page_of(found) == page_of(copy.deepcopy(found))


def test_several_environments_stand_side_by_side_with_their_differences_first() -> None:
    base = results(2, 30, wrong=0.0)
    other = results(2, 30, wrong=0.0, **NEWER)
    cell_at(other, 0, 0).update(outcome="failed", cause="the cause")
    other["exit_code"] = 1
    measured = next(c["measured"] for c in other["cells"] if "measured" in c)
    measured.update(fingerprint="other", sample=(0.25).hex())
    text = page_of(base, other)
    titles = ["flax 0.12.8, jax 0.10.2", "flax 0.12.12, jax 0.12.0.1"]
    groups = [t for a, t in Page(text).all("th") if a.get("class") == "group"]
    assert groups == titles
    differences = text[text.index('id="differences"') : text.index('id="failures"')]
    assert re.findall(r"[a-z]+/[a-z-]+(?=</a>)", differences) == ["construction/zero-input"]
    letters = re.findall(r'class="alone">([A-Z])</span>', differences)
    assert letters == ["B", "A", "A", "A"]
    assert text.index('id="differences"') < text.index('id="failures"') < text.index('id="matrix"')
    assert "environments differ: conforms, does not conform" in Page(text).all("title")[0][1]


def test_what_is_missing_is_shown_and_is_no_pass() -> None:
    needs_extra()
    from conformance.report.html import page

    text = page(loaded(results(2, 12, wrong=0.0)), ["py313-x: no results file"])
    assert "1 of 2 environments conform, 1 missing" in text
    assert '<section class="verdict lost"' in text
    assert "missing: no results file" in text


def test_plots_are_pictures_with_words(full: str) -> None:
    captions = [text for _, text in Page(full).all("figcaption")]
    assert len([c for c in captions if "weights against the law normal" in c]) == 12
    assert len([c for c in captions if "all inside the band" in c]) == 12
    assert any("at most 0.6 of the bound" in c or "beyond the bound for" in c for c in captions)
    pictures = re.findall(r"<svg.*?</svg>", full, flags=re.DOTALL)
    assert len(pictures) == len(captions)
    for picture in pictures:
        assert picture.startswith('<svg role="img" aria-label="')
        # A fixed colour would not follow the page's dark scheme.
        assert not re.findall(r"#0[1-7]0[1-7]0[1-7]|#[0-9a-f]{6}\b(?![\w-])", picture)


def test_a_page_without_plots_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2", reason="the page needs dense-conformance[report]")
    from conformance.report.html import page

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'id="plots"' not in page(loaded(results(2, 12, wrong=0.3)))


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs_extra()
    path = tmp_path / "x.json"
    path.write_text(text_of(results(1, 30, plots=True)))
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("html", "plots"):
        monkeypatch.delitem(sys.modules, f"conformance.report.{module}", raising=False)
    assert main(["report", str(path), "-o", str(tmp_path / "x.html")]) == 2
    expected = f"the HTML report needs {missing}: pip install 'dense-conformance[report]'"
    assert capsys.readouterr().err == f"dense-conformance: {expected}\n"
    assert main(["report", str(path), "-o", str(tmp_path / "x.md")]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "report: give results files, or --extract and a page"),
        (["x.json", "--extract", "y"], "report: give results files, or --extract and a page"),
        (
            ["x.json", "-o", "x.txt"],
            "report: the format of 'x.txt' is unknown; end it in .html, .htm, .md, .json, .svg, "
            ".xml, or give --format",
        ),
        (["none.json"], "none.json: cannot be read: No such file or directory"),
        (["--extract", "none.html"], "none.html: cannot be read: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: Sequence[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert capsys.readouterr().err == f"dense-conformance: {expected}\n"


def test_a_page_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.html"
    path.write_text("<html></html>")
    assert main(["report", "--extract", str(path)]) == 2
    assert "holds no results; was it made by dense-conformance report?" in capsys.readouterr().err
    path.write_text(page_of(results(1, 3))[:-200])
    assert main(["report", "--extract", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_code_in_a_requirement_looks_like_code() -> None:
    found = results(1, 1, wrong=0.0)
    found["requirements"][0]["statement"] = "``jax.eval_shape`` <gives> it."
    assert "<code>jax.eval_shape</code> &lt;gives&gt; it." in page_of(found)
