import pytest
from PIL import Image

import raw_clips
from skeleton_llm.cli.main import main


def test_any_raw_or_prepared_clip_is_drawn(tmp_path, small_data, capsys):
    gif, png = tmp_path / "new" / "a.gif", tmp_path / "b.png"
    (tmp_path / "ntu60_hrnet.pkl").write_bytes(raw_clips.pyskl(flat=True))
    (tmp_path / f"{raw_clips.UAV_NAME}.txt").write_text(raw_clips.uav_text())
    for place, said in (
        (f"{small_data}#0", "wave the right hand"),
        (f"{small_data}#s01_a01_r1_c2", "s01_a01_r1_c2: wave the right hand"),
        (f"{tmp_path / 'ntu60_hrnet.pkl'}#S001C002P001R001A002", "4 frames, 2 of 2 persons, coco17_2d"),
        (f"{tmp_path / raw_clips.UAV_NAME}.txt", "3 frames, 1 of 2 persons, coco17"),
    ):
        assert main(["show", place, "--gif", str(gif), "--png", str(png)]) == 0
        assert said in capsys.readouterr().out
        with Image.open(gif) as image:
            assert image.n_frames > 1
        with Image.open(png) as image:
            assert image.size[0] >= 320


@pytest.mark.parametrize(
    ("place", "reason"),
    [("{data}", "say which clip"), ("{data}#99999", "say which clip"), ("{none}", "no such file")],
)
def test_what_cannot_be_shown_says_why(tmp_path, small_data, capsys, place, reason):
    assert main(["show", place.format(data=small_data, none=tmp_path / "none.npy"), "--png", "x.png"]) == 1
    assert reason in capsys.readouterr().err
