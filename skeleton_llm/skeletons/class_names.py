"""What the classes of each dataset are called: the dataset's own ids, and phrases that a person would say."""

import csv
from importlib.resources import files

_FOLDER = files("skeleton_llm.skeletons") / "resources" / "classes"


def class_names(dataset: str) -> dict[str, str]:
    """The phrase of each class by the dataset's own id, in label order.

    ``dataset`` is ntu (120 classes, the first 60 of which are NTU RGB+D 60's), nw_ucla, utd_mhad, smarthome, uav_human
    or pku_mmd.
    """
    rows = csv.DictReader((_FOLDER / f"{dataset}.tsv").read_text().splitlines(), delimiter="\t")
    return {row["id"]: row["name"] for row in rows}
