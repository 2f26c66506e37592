"""A report's parts, written as Markdown with figures beside it, or as one HTML page that holds all it shows."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skeleton_llm.whole import write_whole


@dataclass(frozen=True)
class Heading:
    """Of level 1 (the title) to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``**strong**`` and `` `code` `` are understood, nothing else."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, which understand what a paragraph does; all columns but the first ``left`` are numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Figure:
    """A drawing, under the name of its file."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Listing:
    """Lines to be read as they are, folded up under a title."""

    title: str
    lines: str


Part = Heading | Text | Table | Figure | Listing
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 14px; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #888; }
.left { text-align: left; }
figure { margin: 1.5em 0; } figure img { max-width: 100%; } figcaption { color: #555; }
pre { background: #f5f5f5; padding: .7em; overflow-x: auto; font-size: 12px; } code { background: #f5f5f5; }
.wide { overflow-x: auto; }
""".strip()


def to_markdown(parts: Sequence[Part], figures: str) -> str:
    """The report as Markdown, whose figures lie in the folder ``figures`` beside it."""
    return "\n\n".join(_markdown(part, figures) for part in parts) + "\n"


def _markdown(part: Part, figures: str) -> str:
    match part:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Table(heads, rows, left):
            ruler = ["---"] * left + ["---:"] * (len(heads) - left)
            lines = [heads, ruler, *rows]
            return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        case Figure(name, caption, _):
            return f"![{caption}]({figures}/{name}.svg)"
        case Listing(title, lines):
            indented = "\n".join(f"    {line}".rstrip() for line in lines.splitlines())
            return f"<details><summary>{_inline(title)}</summary>\n\n{indented}\n\n</details>"


def to_html(parts: Sequence[Part]) -> str:
    """The report as a page that needs no other file and no network."""
    title = next((part.text for part in parts if isinstance(part, Heading)), "report")
    body = "\n".join(_html(part) for part in parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(part: Part) -> str:
    match part:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Table(heads, rows, left):
            head = _row(heads, left, "th")
            lines = "\n".join(_row(row, left, "td") for row in rows)
            return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>'
        case Figure(_, caption, svg):
            # as an image, so that names inside one drawing cannot meet those of another
            data = base64.b64encode(svg.encode()).decode()
            shown = html.escape(caption)
            image = f'<img alt="{shown}" src="data:image/svg+xml;base64,{data}">'
            return f"<figure>{image}<figcaption>{shown}</figcaption></figure>"
        case Listing(title, lines):
            return f"<details><summary>{_inline(title)}</summary><pre>{html.escape(lines)}</pre></details>"


def _row(cells: Sequence[str], left: int, tag: str) -> str:
    marks = (' class="left"' if number < left else "" for number in range(len(cells)))
    return (
        "<tr>"
        + "".join(f"<{tag}{mark}>{_inline(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))
        + "</tr>"
    )


def _inline(text: str) -> str:
    safe = html.escape(text, quote=False)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)


def write_document(parts: Sequence[Part], folder: Path, name: str = "report") -> list[Path]:
    """Write ``name``.md with its folder of figures, and ``name``.html; each file is whole or as it was."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if isinstance(part, Figure):
            write_whole(figures / f"{part.name}.svg", part.svg)
    write_whole(folder / f"{name}.md", to_markdown(parts, "figures"))
    write_whole(folder / f"{name}.html", to_html(parts))
    return [folder / f"{name}.md", folder / f"{name}.html"]
