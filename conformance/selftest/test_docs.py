"""The documentation: its links lead somewhere, and its commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.cli import help as pages
from conformance.cli.main import main
from conformance.cli.main import parser as command_parser
from conformance.running.options import OPTIONS
from conformance.selftest.processes import RIGHT, command

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "conformance/docs").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
]
if not DOCUMENTS[0].exists():
    pytest.skip("the documents of the repository are not here", allow_module_level=True)


def blocks(document: Path, language: str) -> Iterator[tuple[str, str]]:
    """Yield each fenced block of a language with the remark before it."""
    text = document.read_text(encoding="utf-8")
    pattern = rf"(?:<!-- ([^\n]*) -->\n)?```{language}\n(.*?)```"
    yield from re.findall(pattern, text, re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist_and_take_their_options(document: Path) -> None:
    for remark, block in blocks(document, "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        named = [line for line in lines if re.match(r"(\S*/)?dense-conformance ", line)]
        for line in named:
            arguments = shlex.split(line, comments=True)[1:]
            command_parser().parse_args([part for part in arguments if part != "--"])
        runs = remark.startswith(("not run: ", "command: "))
        assert runs, f"say why it is not run, or run it:\n{block}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_toml_and_programs_compile(document: Path) -> None:
    for _, block in blocks(document, "toml"):
        tomllib.loads(block)
    for _, block in blocks(document, "python"):
        compile(block, str(document), "exec")


def test_help_lists_and_shows_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {topic} " in listed for topic in pages.topics())
    assert main(["help", "glossary"]) == 0
    assert capsys.readouterr().out.startswith("# Glossary\n")


def test_pytest_has_the_options_of_run_except_those_that_the_page_names() -> None:
    """The page on CI names the options of the command that the plugin does not have."""
    ours = {f"--{name}" for name in OPTIONS}
    command = {
        name
        for name in command_parser().subcommands["run"].spellings
        if name.startswith("--") and name not in ("--help", "--quiet", "--verbose")
    }
    page = (ROOT / "conformance/docs/ci.md").read_text(encoding="utf-8")
    exceptions = page.partition("The exceptions are")[2].partition("which only the command has")[0]
    assert command - ours == set(re.findall(r"`(--[a-z]+)`", exceptions))


UNSCALED = RIGHT.replace("kernel / in_features**0.5", "kernel")


def test_the_readme_shows_what_the_command_prints(tmp_path: Path) -> None:
    """Numbers are not compared, because they depend on the version of JAX."""
    ((call, shown),) = re.findall(
        r"<!-- output: dense-conformance ([^\n]*) -->\n```\n(.*?)```",
        DOCUMENTS[0].read_text(encoding="utf-8"),
        re.DOTALL,
    )
    (tmp_path / "mine.py").write_text(UNSCALED)
    done = command(tmp_path, *shlex.split(call), "-n1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert without_numbers(shown) in without_numbers(done.stdout)


def without_numbers(text: str) -> str:
    """Return a text with each number replaced and white space normalized."""
    return " ".join(re.sub(r"\d[\d .e-]*", "0 ", text).split())
