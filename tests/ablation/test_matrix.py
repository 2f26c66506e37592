import pytest
import yaml

from skeleton_llm.ablation import read_matrix

CELLS = {
    "full": {"title": "all parts", "runs": {"stage1": ["stage1"], "stage2": ["stage2"]}},
    "flat": {
        "title": "flat codebook",
        "runs": {"stage1": ["stage1", "ablation/euclidean"], "stage2": ["stage2"]},
        "paper": 89.7,
        "source": "Table 7",
    },
    "streams": {
        "title": "three",
        "runs": {"a": ["recognizer"], "b": ["recognizer", "ablation/night"]},
        "ensemble": ["a", "b"],
    },
}


@pytest.fixture
def write(tmp_path):
    for name in ("stage1", "stage2", "recognizer", "ablation/euclidean", "ablation/night"):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    def written(given):
        (tmp_path / "matrix.yaml").write_text(given if isinstance(given, str) else yaml.safe_dump(given))
        return read_matrix(tmp_path / "matrix.yaml", tmp_path / "configs")

    return written


def test_a_cell_answers_by_its_last_run_and_stands_against_full(write):
    cells = write({"cells": CELLS}).cells
    assert (cells["full"].answer, cells["full"].against, cells["full"].paper) == ("stage2", None, None)
    assert (cells["flat"].answer, cells["flat"].against, cells["flat"].paper) == ("stage2", "full", 89.7)
    assert cells["streams"].ensemble == ("a", "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flat": {**CELLS["flat"], "runz": {}}}, "unknown key cells.flat.runz; it may have title, runs"),
        ({"flat": {"runs": CELLS["flat"]["runs"]}}, "cells.flat needs a title and runs"),
        ({"flat": {"title": "x", "runs": {"a": []}}}, "cells.flat needs a title and runs"),
        ({"flat": {**CELLS["flat"], "source": ""}}, "cells.flat.paper is 89.7; say in cells.flat.source"),
        ({"flat": {**CELLS["flat"], "against": "fool"}}, "cells.flat.against names 'fool', which is no cell"),
        ({"flat": {**CELLS["flat"], "answer": "stage3"}}, "cells.flat answers by 'stage3', which is none of its runs"),
        ({"flat": {"title": "x", "runs": {"a": ["stage9"]}}}, "there is no config .*stage9.yaml"),
        ({"flat": {**CELLS["flat"], "rounds": ["stage2"]}}, "cells.flat has not the rounds of full, the cell it is"),
        (
            {"flat": {**CELLS["flat"], "paper": "high"}},
            "cells.flat.paper is the paper's top-1 in percent, a number, got 'hi",
        ),
        ({"flat": {**CELLS["flat"], "seeds": 0}}, "cells.flat.seeds is how many it has at most, at least 1, got 0"),
        (
            {"flat": {**CELLS["flat"], "seeds": True}},
            "cells.flat.seeds is how many it has at most, at least 1, got True",
        ),
        (
            {"flat": {**CELLS["flat"], "against": None, "rounds": ["a/x", "b/x"]}},
            "two of cells.flat.rounds have the same",
        ),
        ({"flat": "all"}, "cells.flat must be a mapping with keys of title, runs"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_file_and_key(write, change, said):
    with pytest.raises(ValueError, match=rf"matrix\.yaml: {said}"):
        write({"cells": {**CELLS, **change}})


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"cell": "fool", "top1": 95}, "goals.x names 'fool', which is no cell of it"),
        ({"top1": 95, "not_below": ["flat", "fool"]}, "goals.x names 'fool', which is no cell of it"),
        ({"not_below": ["flat"]}, "goals.x.top1 is missing"),
        ({"top1": 95, "not_below": "flat"}, "goals.x.not_below must be a list of cells, got 'flat'"),
        ({"top1": 95, "above": "flat"}, "unknown key goals.x.above; it may have cell, top1, not_below"),
    ],
)
def test_a_goal_names_cells_and_an_accuracy(write, goal, said):
    with pytest.raises(ValueError, match=rf"matrix\.yaml: {said}"):
        write({"cells": CELLS, "goals": {"x": goal}})


def test_other_keys_no_cells_and_no_yaml_are_told(write, tmp_path):
    with pytest.raises(ValueError, match=r"unknown key sells; it may have paper, goals, quick, cells"):
        write({"sells": CELLS})
    for empty in ({}, None):
        with pytest.raises(ValueError, match="cells is empty"):
            write({"cells": empty})
    with pytest.raises(ValueError, match=r"quick\.rounds is how many rounds quick runs have, at least 1, got 0"):
        write({"cells": CELLS, "quick": {"rounds": 0}})
    assert write({"cells": CELLS, "paper": {"recipe": None}}).paper == {"recipe": None}
    with pytest.raises(ValueError, match=r"matrix\.yaml: no YAML"):
        write("cells: [")
    with pytest.raises(ValueError, match="the file must be a mapping"):
        write("[]")
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml: no such matrix"):
        read_matrix(tmp_path / "nowhere.yaml", tmp_path)
