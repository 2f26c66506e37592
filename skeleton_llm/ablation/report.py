"""The report of a table: from what is finished, at any time."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from skeleton_llm.ablation import details, drawings, sections
from skeleton_llm.ablation.document import Figure, Heading, Part, Text, write_document
from skeleton_llm.ablation.findings import collect
from skeleton_llm.ablation.matrix import Matrix
from skeleton_llm.ablation.runs import Planned, Setting
from skeleton_llm.ablation.surroundings import Surroundings


def write_report(matrix: Matrix, planned: Sequence[Planned], setting: Setting) -> list[Path]:
    """Write ``report.md`` and ``report.html`` into the table's folder.

    Args:
        matrix: the table.
        planned: its cells with all seeds that are wanted or there.
        setting: what its runs share.
    """
    return write_document(_parts(matrix, planned, setting), setting.folder)


def _parts(matrix: Matrix, planned: Sequence[Planned], setting: Setting) -> list[Part]:
    found, problems = collect(planned)
    title = Heading(f"Ablations on {setting.data}", 1)
    if not found:
        return [title, Text("No cell is finished yet."), *details.unfinished(planned, problems)]
    around = Surroundings.look(found)
    table, differences = sections.main_table(found, matrix)
    parts: list[Part] = [title]
    if setting.quick:
        parts.append(Text(sections.QUICK))
    parts += [Text(sections.summary(found, around)), *sections.what_differs(matrix, around)]
    parts += [Heading("Top-1"), table, Text(sections.HOW_TO_READ)]
    if differences:
        caption = "Differences with their intervals, in points"
        parts.append(_draw("differences", caption, drawings.draw_differences(differences)))
    parts += sections.without_repeated(found, matrix, around)
    parts += [*details.tokenizers(found), *details.other_measures(found)]
    parts += [Heading("Curves"), *(_draw(*drawn) for drawn in drawings.draw_curves(found))]
    parts += details.confusions(found)
    confusion = drawings.draw_confusion(found)
    if confusion is not None:
        parts.append(_draw("confusion", *confusion))
    return [*parts, *details.costs(found), *details.unfinished(planned, problems), *details.made_by(found, setting)]


def _draw(name: str, caption: str, drawing: Drawing) -> Figure:
    """As SVG, the same bytes for the same numbers."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        drawing.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return Figure(name, caption, text[text.index("<svg") :])
