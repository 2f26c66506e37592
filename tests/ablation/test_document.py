"""One report in two forms."""

import base64
import re
from html.parser import HTMLParser

from skeleton_llm.ablation.document import Figure, Heading, Listing, Table, Text, to_html, to_markdown, write_document

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><text>a &lt; b</text></svg>'
PARTS = [
    Heading("Ablations <of> a & b", 1),
    Text("A **strong** word, `code with <angles>` & more."),
    Table(["cell", "top-1"], [["`full`: a|b", "81.9"], ["<none>", ""]]),
    Figure("curve", "A curve & its <band>", SVG),
    Listing("seed 0", "first line\n  <second>"),
]


class Outline(HTMLParser):
    """Text by tag, and that every tag is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))


def test_the_page_is_well_formed_and_says_what_was_given():
    page = Outline()
    page.feed(to_html(PARTS))
    assert page.open == []
    said = dict(page.texts)
    assert said["title"] == said["h1"] == "Ablations <of> a & b"
    assert ("code", "code with <angles>") in page.texts
    assert ("strong", "strong") in page.texts
    assert ("td", "<none>") in page.texts
    assert said["pre"] == "first line\n  <second>"


def test_the_page_needs_no_other_file_and_no_network():
    text = to_html(PARTS)
    page = Outline()
    page.feed(text)
    links = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(links) == 1
    head, _, data = links[0].partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data).decode() == SVG
    assert not re.search(r"https?://|@import|<script|<link", text)


def test_markdown_keeps_tables_whole_and_names_its_figures(tmp_path):
    text = to_markdown(PARTS, "figures")
    assert "| `full`: a\\|b | 81.9 |" in text
    assert "| --- | ---: |" in text
    assert "<details><summary>seed 0</summary>\n\n    first line\n      <second>\n\n</details>" in text
    written = write_document(PARTS, tmp_path / "new")
    assert [path.name for path in written] == ["report.md", "report.html"]
    assert written[0].read_text() == text
    (named,) = re.findall(r"!\[.*\]\((.*)\)", text)
    assert (tmp_path / "new" / named).read_text() == SVG
    assert not list((tmp_path / "new").rglob(".*.tmp"))
