"""The report of a table: from what is finished, at any time."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from skeleton_llm.ablation import details, drawings, provenance, sections
from skeleton_llm.ablation.by_length import by_length
from skeleton_llm.ablation.document import Figure, Heading, Part, Text, write_document
from skeleton_llm.ablation.findings import collect
from skeleton_llm.ablation.matrix import FULL, Matrix
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
        return [title, Text("No cell is finished yet."), *provenance.unfinished(planned, problems)]
    around = Surroundings.look(found)
    table, differences = sections.main_table(found, matrix)
    parts: list[Part] = [title]
    if setting.quick:
        parts.append(Text(sections.QUICK))
    parts.append(Text(sections.summary(found, around)))
    otherwise = provenance.made_otherwise(found)
    if otherwise:
        said = "Made by other options than this report was asked with (their runs' commands stand below)"
        parts.append(Text(f"**{said}: `{'`, `'.join(otherwise)}`.**"))
    if not setting.quick:
        parts += sections.goals(found, matrix.goals.get(setting.data))
    parts += sections.what_differs(matrix, around)
    recipes = {kind: setting.shipped / f"{preset}.yaml" for kind, preset in (matrix.paper.get("recipe") or {}).items()}
    parts += provenance.recipe_differs(found.get(FULL), recipes)
    parts += [Heading("Top-1"), table, *sections.notes(found), Text(sections.HOW_TO_READ)]
    if differences:
        caption = "Differences with their intervals, in points"
        parts.append(_draw("differences", caption, drawings.draw_differences(differences)))
    parts += sections.draw_by_draw(found)
    parts += sections.answers_by_length(by_length(found), found, matrix)
    parts += sections.without_repeated(found, matrix, around)
    parts += [*details.tokenizers(found), *details.other_measures(found)]
    parts += [Heading("Curves"), *(_draw(*drawn) for drawn in drawings.draw_curves(found))]
    parts += details.confusions(found)
    confusion = drawings.draw_confusion(found)
    if confusion is not None:
        parts.append(_draw("confusion", *confusion))
    return [
        *parts,
        *details.costs(found),
        *provenance.unfinished(planned, problems),
        *provenance.made_by(found, setting, otherwise),
    ]


def _draw(name: str, caption: str, drawing: Drawing) -> Figure:
    """As SVG, the same bytes for the same numbers."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        drawing.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return Figure(name, caption, text[text.index("<svg") :])
