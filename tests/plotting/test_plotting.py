import numpy as np
from PIL import Image

from skeleton_llm.losses import zipf_target
from skeleton_llm.plotting import (
    draw_frames,
    draw_sheet,
    plot_confusion,
    plot_rank_frequency,
    plot_usage,
    save_gif,
)
from skeleton_llm.skeletons.synthetic import example_clip


def test_gif_moves_and_shows_the_skeleton(tmp_path):
    clip = example_clip()
    save_gif(tmp_path / "new" / "a.gif", clip.joints, clip.layout, "wave the right hand")
    with Image.open(tmp_path / "new" / "a.gif") as image:
        assert image.n_frames == len(clip.joints)
        first = np.asarray(image.convert("L"))
        image.seek(image.n_frames // 2)
        middle = np.asarray(image.convert("L"))
    assert (first < 128).sum() > 200
    assert (first != middle).sum() > 200


def test_gif_of_one_frame_and_of_nobody(tmp_path):
    save_gif(tmp_path / "a.gif", np.zeros((1, 1, 20, 3), dtype=np.float32), "kinect20")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 1


def test_rank_frequency_draws_the_sorted_shares_and_the_target():
    counts = np.array([0, 4, 1, 5])
    axes = plot_rank_frequency(counts, zipf_target(4).numpy(), 1.0).axes[0]
    target, usage = axes.lines
    np.testing.assert_allclose(usage.get_ydata(), [0.5, 0.4, 0.1])
    np.testing.assert_allclose(target.get_ydata(), zipf_target(4).numpy())
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_title() == "3 of 4 tokens in use"


def test_usage_histogram_counts_dead_tokens_apart():
    axes = plot_usage(np.array([0, 0, 4, 1, 5])).axes[0]
    assert axes.patches[0].get_height() == 2
    assert sum(patch.get_height() for patch in axes.patches[1:]) == 3


def test_confusion_names_rows_and_columns_and_normalises_rows():
    axes = plot_confusion(np.array([[3, 1], [0, 0]]), ["sit", "stand"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sit", "stand"]
    assert {text.get_text() for text in axes.texts} == {"75", "25"}


def colours(image):
    return {colour for _, colour in image.convert("RGB").getcolors(100_000)}


def test_two_persons_have_two_colours_and_an_absent_one_none():
    joints = np.random.default_rng(0).normal(size=(2, 2, 25, 3)).astype(np.float32)
    joints[1, 1] = 0
    both, alone = draw_frames(joints, "ntu25")
    blue, red = (31, 119, 180), (214, 39, 40)
    assert {blue, red} <= colours(both)
    assert blue in colours(alone)
    assert red not in colours(alone)


def test_every_bone_of_a_layout_is_drawn_where_its_joints_are():
    joints = np.zeros((1, 1, 17, 3), dtype=np.float32)
    joints[0, 0, :, 2] = 1
    joints[0, 0, 5], joints[0, 0, 7] = (1, 1, 1), (-1, -1, 1)  # one long bone across the picture, the rest a point
    image = np.asarray(draw_frames(joints, "coco17_2d")[0].convert("RGB"))
    blue = (image == (31, 119, 180)).all(-1)
    assert blue[80, 80]  # +x is on the left, +y above
    assert blue[240, 240]
    assert not blue[80, 240]


def test_a_contact_sheet_shows_eight_frames_from_first_to_last():
    clip = example_clip()
    assert draw_sheet(clip.joints, clip.layout, "x").size == (4 * 320, 2 * 320)
    assert draw_sheet(clip.joints[:3], clip.layout).size == (3 * 320, 320)
