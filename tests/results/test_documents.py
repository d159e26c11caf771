"""Every link inside the documents leads to something."""

import re
from pathlib import Path

import pytest

from tests.support.project import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]
INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)[^)]*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def without_code(text: str) -> str:
    fences = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", fences.sub("", text))


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub names them, and of HTML names and ids."""
    fences = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
    text, found = fences.sub("", text), set()
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*\s*$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = next(n for n in range(len(found) + 1) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{again}" if again else slug)
    return found | set(re.findall(r"<[^>]*\b(?:id|name)=\"([^\"]+)\"", text))


def broken(document: Path) -> list[str]:
    """The links of a document that lead nowhere."""
    text, found = without_code(document.read_text()), []
    for link in [*INLINE.findall(text), *REFERENCE.findall(text)]:
        if ELSEWHERE.match(link):
            continue
        place, _, anchor = link.partition("#")
        target = document if not place else (document.parent / place).resolve()
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text()))):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_to_files_and_headings_that_are_there(document):
    assert broken(document) == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "other.md").write_text(
        '# One `two`, three\n# Same\n# Same\n```\n# no heading\n```\n<a id="here"></a>\n'
    )
    good = (
        "[a](other.md#one-two-three) ![b](other.md) [c](https://x/#y) [d](other.md#same-1) [e][f] [h](#top) `[x](no)`"
    )
    bad = "[a](gone.md) [b](other.md#no-heading) [c](#gone) [d](other.md#same-2)"
    document = tmp_path / "a.md"
    document.write_text(f"# Top\n{good}\n\n[f]: other.md#here\n")
    assert broken(document) == []
    document.write_text(f"# Top\n{bad}\n\n[f]: gone.md\n")
    assert broken(document) == ["gone.md", "other.md#no-heading", "#gone", "other.md#same-2", "gone.md"]
