"""Tables in Markdown, and documents in which a part between two markers is generated."""

import re
from collections.abc import Sequence
from pathlib import Path

from r2plus1d.system.files import write_text


def into_document(document: Path, name: str, content: str) -> None:
    """Replaces what stands between two markers of the file, as `between_markers` does."""
    before = document.read_text(encoding="utf-8")
    after = between_markers(before, name, content)
    if after != before:
        write_text(document, after)


def between_markers(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- name -->` and `<!-- /name -->` replaced. Raises ValueError without them."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the markers <!-- {name} --> and <!-- /{name} --> are missing")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text, count=1)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Cells may hold Markdown; only what would end a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", str(cell)) for cell in line) + " |" for line in lines
    )


def escaped(text: str) -> str:
    """A name, to be shown as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", text)
