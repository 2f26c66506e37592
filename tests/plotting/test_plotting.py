import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from skeleton_llm.geometry import expmap0
from skeleton_llm.losses import zipf_target
from skeleton_llm.plotting import (
    Pose,
    disk_positions,
    draw_frames,
    draw_poses,
    draw_sheet,
    plot_class_heat_map,
    plot_confusion,
    plot_poincare_disk,
    plot_rank_frequency,
    plot_reliability,
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


def test_the_confusion_figure_leaves_every_name_its_room():
    names = [f"a rather long name of an action, number {number}" for number in range(120)]
    figure = plot_confusion(np.eye(120, dtype=int), names)
    canvas = FigureCanvasAgg(figure)
    axes, renderer = figure.axes[0], canvas.get_renderer()
    canvas.draw()
    for labels, side in ((axes.get_yticklabels(), 1), (axes.get_xticklabels(), 0)):
        boxes = [label.get_window_extent(renderer) for label in labels]
        sizes = [(box.width, box.height)[side] for box in boxes]
        steps = np.abs(np.diff([(box.x0, box.y0)[side] for box in boxes]))
        assert max(sizes) < steps.min() + 1  # pixels: no name touches the next
        assert min(min(box.x0, box.y0) for box in boxes) >= 0  # nor is cut off


def test_reliability_bars_stand_where_clips_are():
    clips, share = np.array([0, 3, 1]), np.array([0, 0.5, 1.0])
    figure = plot_reliability({"before": (clips, np.array([0, 0.6, 0.9]), share), "after": (clips, share, share)})
    assert [axes.get_title() for axes in figure.axes] == ["before", "", "after", ""]
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.5, 1.0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([0.5, 5 / 6])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.75, 0.25]


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


def test_rank_frequency_tells_the_divergence():
    axes = plot_rank_frequency(np.array([0, 4, 1, 5]), zipf_target(4).numpy(), 1.0, 0.25).axes[0]
    assert "JS 0.250 nats" in axes.get_legend().get_texts()[1].get_text()


def test_heat_map_shows_used_tokens_by_their_commonest_class():
    table = np.array([[0, 9, 1, 0, 0], [0, 1, 3, 0, 5]])
    axes = plot_class_heat_map(table, ["sit", "stand"], num_tokens=4).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sit", "stand"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "2"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.9, 0, 0.25], [0.1, 1, 0.75]])


def test_vectors_of_a_plane_lie_in_the_disk_as_in_the_ball(rng):
    flat = rng.normal(size=(30, 2)) * [2, 1] * 0.3
    flat = np.concatenate([flat, -flat])  # centred
    turned = flat @ np.linalg.qr(rng.normal(size=(16, 2)))[0].T
    across = np.zeros((2, 16))
    across[0] = 1e-3 * np.linalg.svd(turned)[2][-1]  # has nothing in the plane
    across[1] = -across[0]
    assert np.abs(disk_positions(np.concatenate([turned, across]), 2.0)[-2:]).max() < 1e-9
    places = disk_positions(turned, 2.0)
    ball = expmap0(torch.from_numpy(turned), 2.0).norm(dim=-1).numpy()
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), ball, rtol=1e-9)

    def angles(points):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit @ unit.T

    np.testing.assert_allclose(angles(places), angles(flat), atol=1e-9)  # the plane, up to a turn or a reflection
    np.testing.assert_allclose(disk_positions(turned[:, ::-1], 2.0), places, atol=1e-9)  # whatever the basis


def test_disk_marks_dead_tokens_and_writes_any_word(rng):
    codebook, counts = rng.normal(size=(6, 4)), np.array([3, 0, 1, 0, 0, 9])
    figure = plot_poincare_disk(codebook, counts, 1.0, {5: "$w\u00f6rd_"})
    axes = figure.axes[0]
    used, dead = axes.collections
    assert (len(used.get_offsets()), len(dead.get_offsets())) == (3, 3)
    assert used.get_sizes().argmax() == 2
    assert [text.get_text() for text in axes.texts] == ["$w\\xf6rd_"]
    np.testing.assert_allclose(np.hypot(*axes.lines[0].get_data()), 1)
    figure.savefig(io.BytesIO())  # "$" opens no formula


def test_a_sheet_of_poses_has_a_caption_below_each():
    clip = example_clip()
    sheet = draw_poses([Pose(clip.joints[frame], f"wave\nframe {frame}") for frame in range(4)], clip.layout)
    assert sheet.size == (480, 384)
    pixels = np.asarray(sheet.convert("L"))
    for x, y in ((0, 0), (160, 0), (320, 0), (0, 192)):
        assert (pixels[y : y + 160, x : x + 160] < 200).sum() > 100
        assert (pixels[y + 160 : y + 192, x : x + 160] < 200).sum() > 20
    assert (pixels[192:, 160:] == 255).all()
    assert colours(sheet) >= {(31, 119, 180), (0, 0, 0)}


def test_any_class_name_can_be_drawn():
    names = ["pay $5_$", "$^$", "\u5750\u4e0b"]
    for figure in (plot_class_heat_map(np.eye(3), names), plot_confusion(np.eye(3), names)):
        FigureCanvasAgg(figure).draw()


def test_two_clips_side_by_side_share_place_and_size():
    body = np.random.default_rng(0).normal(size=(4, 1, 25, 3)).astype(np.float32)
    small = 0.5 * body + 1.0
    alone = [draw_frames(clip, "ntu25")[0] for clip in (body, small)]
    assert np.array_equal(*(np.array(frame) for frame in alone))  # each fitted to its own extent
    left, right = draw_frames(body, "ntu25", beside=small)[0], draw_frames(small, "ntu25", beside=body)[0]
    height = [np.ptp(np.nonzero(np.array(frame)[:-20] > 1)[0]) for frame in (left, right)]
    assert height[1] / height[0] == pytest.approx(0.5, abs=0.05)
