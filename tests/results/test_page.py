"""The report's page: it needs nothing else, and a browser shows all of it."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest

from r2plus1d.config import files
from r2plus1d.results import page, summary
from r2plus1d.system import paths
from tests.results.conftest import figured
from tests.support.figures import measured
from tests.support.project import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Appended to a copy of the page: what a person would miss stands in the title, which the browser prints.
CHECK = """<script>
const faults = [];
window.addEventListener("error", event => faults.push("script: " + event.message));
window.addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) faults.push("picture: " + image.alt);
  for (const drawing of document.querySelectorAll("svg"))
    if (drawing.getBoundingClientRect().height < 50) faults.push("drawing: " + drawing.getAttribute("aria-label"));
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) faults.push(wide + " pixels too wide");
  document.title = "checked: " + JSON.stringify([document.images.length, faults]);
});
</script>"""


@pytest.fixture(scope="module")
def html(published) -> str:
    rows = figured(files.read_params(ROOT / paths.PARAMS))
    return page.page(measured(rows, summary.short_names([row.config for row in rows], published)), published)


class Read(HTMLParser):
    """The tags with their attributes, and what is never closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_repeats_to_the_byte_and_is_small(rows, published, html):
    names = summary.short_names([row.config for row in rows], published)
    assert page.page(measured(rows, names), published) == html
    assert len(html.encode()) < 200_000


def test_page_needs_nothing_else(html):
    read = Read(html)
    assert read.open == []
    assert "script" not in {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        for key in ("src", "href", "xlink:href"):
            place = attributes.get(key) or ""
            if tag != "a" and place:
                assert place.startswith(("data:", "#")), (tag, place)
    assert not re.search(r"@import|url\((?!#)", html)


def test_page_is_for_everyone(html):
    read = Read(html)
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(pictures) == 5
    assert all(picture["alt"] for picture in pictures)
    assert all(a.get("aria-label") for tag, a in read.tags if tag == "svg")
    assert ("html", {"lang": "en"}) in read.tags
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in html


def test_page_shows_tables_classes_and_mistakes_as_text(html):
    assert html.count("a &lt;b&gt; &amp; c") > 5
    assert "a <b> & c" not in html
    assert "<td>70.00 (9.5-90.5)</td>" in html
    assert "<td>50.0</td><td>100.00 (20.7-100.0)</td>" in html  # precision, recall
    assert "67.30" in html
    assert 'taken for <span class="wrong">a &lt;b&gt; &amp; c</span> with 80.0%' in html


def test_page_says_what_made_the_weights(rows, published, html):
    assert html.count("<td><code>0123456789ab</code></td>") == len(rows)
    assert html.count("<td><code>fedcba987654</code></td>") == len(rows)
    unknown = [dataclasses.replace(row, record={}) for row in rows]
    names = summary.short_names([row.config for row in rows], published)
    assert page.page(measured(unknown, names), published).count("<td>unknown</td>") == len(rows)


def test_row_of_many_classes_lists_its_worst(rows, published):
    classes = pd.DataFrame(
        [[f"class {n}", 2, 50.0, 50.0, n / 4, ""] for n in range(400)],
        columns=["class", "videos", "precision", "recall", "f1", "taken_for"],
    )
    predictions = pd.DataFrame(
        [[f"{n}.mp4", f"class {n}", f"class {n}", 0.5, 1] for n in range(400)],
        columns=["path", "actual", "predicted", "probability", "rank"],
    )
    row = dataclasses.replace(rows[0], classes=classes, predictions=predictions, mistakes=[])
    names = summary.short_names([row.config], published)
    html = page.page(measured([row], names), published)
    assert "The 50 classes of lowest F1 out of 400" in html
    assert "class 49" in html
    assert "class 50" not in html
    assert '<table class="matrix">' not in html
    assert "Surest mistakes" not in html


def test_confusion_has_a_line_for_each_actual_class():
    table = pd.DataFrame([["a", "b"], ["a", "b"], ["b", "b"]], columns=["actual", "predicted"])
    assert page._matrix(table, ["a", "b"]) == [("a", [0, 100]), ("b", [0, 100])]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on the PATH")
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_browser_shows_all_of_the_page(html, tmp_path, width):
    file = tmp_path / "index.html"
    file.write_text(html + CHECK)
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    options = [*quiet, "--disable-component-update", "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [BROWSER, "--headless", *options, f"--window-size={width},1000", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (found,) = re.findall("<title>checked: (.*?)</title>", done.stdout)
    assert json.loads(found) == [5, []]
