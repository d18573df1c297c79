"""The page in a real browser, if installed: no requests, and no findings of axe."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.selftest.pages import NEWER, Document, page_of
from conformance.selftest.synthetic import results, settled

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on the PATH")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    # The browser's own requests find no host either.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"),
)


def opened(page: Path, profile: Path, *flags: str) -> str:
    """Return the document of a page in Chromium after all scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_browser_shows_the_page_and_asks_for_nothing(tmp_path: Path) -> None:
    """Chromium's network log has no request of the page.

    A page with a request shows that the log would have it.
    """
    page, log = tmp_path / "page.html", tmp_path / "net.json"

    def requests() -> list[str]:
        # Each line is an event; the browser's own requests have no origin.
        started = [line for line in log.read_text().splitlines() if '"initiator":' in line]
        own = [line for line in started if '"initiator":"not an origin"' not in line]
        return [url for line in own for url in re.findall(r'"url":"([^"]*)"', line)]

    text = page_of(results(3, 40, wrong=0.4, plots=True))
    page.write_text(text)
    dom = opened(page, tmp_path / "profile", f"--log-net-log={log}")
    assert dom.count("<article ") == text.count("<article ")
    assert requests() == []
    page.write_text("<img src='http://127.0.0.1:9/asked'>")
    opened(page, tmp_path / "profile", f"--log-net-log={log}")
    assert requests() == ["http://127.0.0.1:9/asked"]


def in_environments(count: int) -> list[Document]:
    """Return the results of one or two environments, with many failures."""
    return [results(3, 40, wrong=0.4), results(3, 40, wrong=0.4, **NEWER)][:count]


@pytest.mark.parametrize("environments", [1, 2])
def test_the_page_fits_a_telephone(environments: int, tmp_path: Path) -> None:
    """At 420 pixels nothing reaches beyond the right edge, whatever the length of names."""
    runs = in_environments(environments)
    for run in runs:
        for i, layer in enumerate(run["implementations"]):
            layer["name"] = (
                f"path/to/a_file_of_a_long_name_{i}.py:ALayerWhoseNameIsLongerThanOthers"
            )
        for cell in run["cells"]:
            if cell["outcome"] == "failed":
                cell["message"] = "a" * 300
    scrolled, inner = _widths(page_of(*map(settled, runs)), tmp_path)
    assert scrolled <= inner == 420
    # A page that is too wide shows that the frame reports it.
    assert _widths("<!doctype html><p style='width: 500px'>x", tmp_path)[0] >= 500


def _widths(text: str, folder: Path) -> tuple[int, int]:
    """Return the widths of a page's contents and of a frame of 420 pixels around it."""
    (folder / "page.html").write_text(text)
    frame = folder / "frame.html"
    # A window has a smallest width; a frame has the width that it is given.
    frame.write_text(
        "<iframe src='page.html' width=420 height=900 style='border: 0'></iframe><pre></pre>"
        "<script>onload = () => { const its = frames[0]; document.querySelector('pre').textContent"
        " = its.document.documentElement.scrollWidth + ' of ' + its.innerWidth; }</script>"
    )
    dom = opened(frame, folder / "profile", "--allow-file-access-from-files")
    ((scrolled, inner),) = re.findall(r"<pre>(\d+) of (\d+)</pre>", dom)
    return int(scrolled), int(inner)


@pytest.mark.skipif(
    "DENSE_CONFORMANCE_AXE" not in os.environ,
    reason="DENSE_CONFORMANCE_AXE does not name axe-core's axe.min.js",
)
@pytest.mark.parametrize("environments", [1, 2])
def test_axe_finds_nothing(environments: int, tmp_path: Path) -> None:
    text = page_of(*in_environments(environments))
    axe = Path(os.environ["DENSE_CONFORMANCE_AXE"]).read_text()
    report = (
        "axe.run().then(r => { const p = document.createElement('pre'); p.id = 'axe'; "
        "p.textContent = JSON.stringify(r.violations.map(v => [v.impact, v.id, v.nodes[0].html]));"
        " document.body.append(p); });"
    )
    page = tmp_path / "page.html"
    page.write_text(
        text.replace("</body>", f"<script>{axe}</script><script>{report}</script></body>")
    )
    for scheme in (0, 1):
        flag = f"--blink-settings=preferredColorScheme={scheme}"
        dom = opened(page, tmp_path / f"profile{scheme}", flag)
        assert re.findall(r'<pre id="axe">(.*?)</pre>', dom) == ["[]"]
