import itertools
import multiprocessing
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from torch.utils.data import DataLoader

import raw_clips
from datamodules import SkeletonDataModule
from datamodules.skeleton import _end_workers, _whole_batch
from datamodules.stream import Shard, Stream
from skeleton_llm.cli.main import main
from skeleton_llm.skeletons import Augmentation, Clip, Preprocess, find_layout, unseen_classes, write_dataset
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips
from skeleton_llm.skeletons.transforms import interpolate, mirror, place, valid_positions


def module(folder, **options) -> SkeletonDataModule:
    return SkeletonDataModule(
        str(folder), "synthetic_xsub", augmentation=Augmentation(noise=0.02, mirror=0.5), **options
    )


def test_splits_are_apart_by_subject_and_validation_comes_from_training(small_data):
    data = module(small_data)
    subjects = {split: set(data.data.table["subject"][rows]) for split, rows in data.rows.items()}
    assert subjects["test"] == {3}
    assert not subjects["train"] & subjects["val"]
    assert sum(map(len, data.rows.values())) == len(data.data)


def test_an_item_gets_the_same_augmentation_whatever_the_workers_and_the_batch(small_data):
    clips = module(small_data).batches("train", Augmentation(noise=0.02, mirror=0.5))
    keys = list(itertools.islice(Stream(len(clips), 8, seed=1, start=0, horizon=6), 6))
    batches = {
        workers: list(DataLoader(clips, batch_sampler=keys, collate_fn=_whole_batch, num_workers=workers))
        for workers in (0, 2)
    }
    for one, two in zip(batches[0], batches[2], strict=True):
        assert all(one[name].equal(two[name]) for name in one)
    alone = clips[keys[3][5]]
    torch.testing.assert_close(alone["joints"][0], batches[0][3]["joints"][5])
    other_pass = clips[(keys[3][5][0] + 1, keys[3][5][1])]
    assert not other_pass["joints"].equal(alone["joints"])


def test_a_stream_that_starts_later_goes_on_as_if_it_had_run_from_the_start():
    whole = list(Stream(50, 8, seed=3, start=0, horizon=20))
    assert list(Stream(50, 8, seed=3, start=13, horizon=20)) == whole[13:]
    first_pass = [index for batch in whole[:6] for _, index in batch]
    assert len(set(first_pass)) == 48
    assert whole[0] != whole[6]


def test_ranks_part_each_batch_between_them():
    whole = list(Stream(50, 8, seed=3, start=0, horizon=9))
    halves = [list(Stream(50, 4, seed=3, start=0, horizon=9, rank=rank, world=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_evaluation_takes_every_clip_once_over_all_ranks():
    seen = [index for rank in range(3) for batch in Shard(10, 4, rank=rank, world=3) for _, index in batch]
    assert sorted(seen) == list(range(10))
    assert [len(Shard(10, 4, rank=rank, world=3)) for rank in range(3)] == [1, 1, 1]
    assert list(Shard(1, 4, rank=1, world=2)) == [[]]  # without a batch it would never reach the metrics
    assert [len(list(Shard(9, 4, rank=rank, world=2))) for rank in range(2)] == [2, 2]  # nor here, without a second


@pytest.mark.parametrize(("accelerator", "pinned"), [(CUDAAccelerator, True), (CPUAccelerator, False)])
def test_batches_lie_in_pinned_memory_where_a_gpu_fetches_them(small_data, accelerator, pinned):
    data = SkeletonDataModule(str(small_data), "synthetic_xsub")
    assert data.val_dataloader().pin_memory is False  # nobody trains
    loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
    )
    data.trainer = SimpleNamespace(
        accelerator=accelerator(), global_rank=0, world_size=1, max_steps=3, accumulate_grad_batches=1, fit_loop=loop
    )
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert loader.pin_memory is pinned


def test_evaluation_is_not_augmented(small_data):
    data = module(small_data)
    assert "clean" not in next(iter(data.val_dataloader()))
    data.clean = True
    batch = next(iter(data.val_dataloader()))
    assert batch["joints"].equal(batch["clean"])
    clip = data.data.clip(int(batch["index"][0]))
    torch.testing.assert_close(batch["joints"][0], data.preprocess.apply(clip)[0][0], rtol=1e-4, atol=1e-4)


def test_training_keeps_the_clean_clip_beside_the_augmented_one(small_data):
    data = module(small_data)
    data.clean = True
    clips = data.batches("train", Augmentation(rotation=0.5, noise=0.02))
    batch = clips.__getitems__([(0, i) for i in range(16)])
    gap = (batch["joints"] - batch["clean"]).norm(dim=-1)[:, :, 0].mean()
    assert 0.02 < gap < 1
    absent = ~batch["persons"][:, 1]
    assert not batch["joints"][absent][:, :, 1].any()


def test_training_sample_is_the_same_every_time_and_no_larger_than_the_split(small_data):
    data = module(small_data)
    one, two = data.training_sample(10), data.training_sample(10)
    assert one["joints"].equal(two["joints"])
    assert len(data.training_sample(10**6)["labels"]) == len(data.rows["train"])


def test_too_large_a_batch_is_refused_with_both_numbers():
    with pytest.raises(
        ValueError, match="a batch of 64 clips on 2 ranks is larger than the training split of 100 clips"
    ):
        Stream(100, 64, seed=0, start=0, horizon=1, world=2)


def test_a_partial_published_dataset_needs_the_users_word(tmp_path):
    folder = tmp_path / "nw"
    clips = [clip for clip in synthetic_clips(subjects=2, replications=1) if clip.label < 10]
    write_dataset(
        folder,
        clips,
        name="nw_ucla",
        layout="ntu25",
        class_names=CLASS_NAMES[:10],
        num_persons=2,
        source="test",
    )
    with pytest.raises(
        ValueError, match=r"nw_ucla_xview must have 1,020 / 464 .* --partial \(data\.init_args\.partial: true\)"
    ):
        SkeletonDataModule(str(folder), "nw_ucla_xview")
    assert len(SkeletonDataModule(str(folder), "nw_ucla_xview", partial=True).rows["test"]) == 20


def test_missing_dataset_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make prepare DATA=absent"):
        SkeletonDataModule(str(tmp_path / "absent"), "synthetic_xsub")


def test_real_nw_ucla_batches(shared, tmp_path):
    from skeleton_llm.cli.main import main

    folder = tmp_path / "nw_ucla"
    assert main(["prepare", "nw_ucla", "--raw", str(shared / "data/nw-ucla/all_sqe"), "--out", str(folder)]) == 0
    data = SkeletonDataModule(str(folder), "nw_ucla_xview")
    assert len(data.rows["train"]) + len(data.rows["val"]) == 1020
    assert len(data.rows["test"]) == 464
    batch = next(iter(data.test_dataloader()))
    assert np.isfinite(batch["joints"].numpy()).all()


def smarthome(folder):
    """Three subjects, cameras 1 and 2, every activity."""
    names = class_names("smarthome")
    random = np.random.default_rng(0)
    clips = [
        Clip(
            random.uniform(0.2, 0.8, (5, 1, 17, 3)).astype(np.float32), "lcr17_2d", label, subject, view, source=f"{i}"
        )
        for i, (label, subject, view) in enumerate((a, b, c) for a in range(31) for b in (3, 4, 5) for c in (1, 2))
    ]
    options = {"name": "smarthome", "layout": "lcr17_2d", "class_names": list(names.values()), "num_persons": 2}
    write_dataset(folder, clips, source="x", **options)
    return str(folder)


def test_a_protocol_of_19_classes_has_19_names_and_labels(tmp_path):
    data = SkeletonDataModule(smarthome(tmp_path / "d"), "smarthome_cv1", Preprocess(align="none"), partial=True)
    assert len(data.class_names) == 19
    assert data.class_names[16] == "use a tablet"
    batch = data.batches("test").__getitems__([(-1, i) for i in range(len(data.rows["test"]))])
    assert set(batch["labels"].tolist()) == set(range(19))
    names = [data.info["class_names"][data.data.table["label"][row]] for row in batch["index"]]
    assert [data.class_names[label] for label in batch["labels"]] == names


def test_2d_poses_are_neither_aligned_nor_turned_and_keep_their_confidence(tmp_path):
    folder = smarthome(tmp_path / "d")
    with pytest.raises(ValueError, match=r"lcr17_2d is a 2D layout.*preprocess\.align to none"):
        SkeletonDataModule(folder, "smarthome_cs", partial=True)
    flat = Preprocess(align="none")
    with pytest.raises(ValueError, match="2D layout, which cannot be turned: set rotation and tilt"):
        SkeletonDataModule(folder, "smarthome_cs", flat, Augmentation(), partial=True)
    with pytest.raises(ValueError, match=r"cannot be turned: set data.init_args.preprocess.turns to \[\]"):
        SkeletonDataModule(folder, "smarthome_cs", Preprocess(align="none", turns=[0.4]), partial=True)
    augmentation = Augmentation(rotation=0.0, tilt=0.0, scale=0.3, noise=0.1, crop=1.0, shear=0.3)
    data = SkeletonDataModule(folder, "smarthome_cs", flat, augmentation, partial=True)
    data.clean = True
    batch = data.batches("train", augmentation).__getitems__([(0, 0), (0, 5)])
    torch.testing.assert_close(batch["joints"][..., 2], batch["clean"][..., 2])
    assert not batch["joints"][..., :2].equal(batch["clean"][..., :2])
    rows = data.rows["train"][[0, 5]]
    np.testing.assert_allclose(
        batch["clean"][:, 0, 0, :, 2], [data.data.clip(int(row)).joints[0, 0, :, 2] for row in rows]
    )


def test_a_mirrored_clip_is_the_mirror_image_of_the_aligned_one(small_data):
    data = module(small_data)
    data.clean = True
    plain, mirrored = (Augmentation(0.3, 0.2, 0.1, 1.0, mirror=chance, shear=0.2) for chance in (0.0, 1.0))
    keys = [(0, i) for i in range(8)]
    seen, image = data.batches("train", plain).__getitems__(keys), data.batches("train", mirrored).__getitems__(keys)
    layout = find_layout("ntu25")
    torch.testing.assert_close(image["clean"], mirror(seen["clean"], layout), atol=1e-5, rtol=1e-4)
    rotation = plain.draw(0, keys).change[:, None, None]
    torch.testing.assert_close(image["joints"], mirror(seen["clean"], layout) @ rotation, atol=1e-4, rtol=1e-4)


def test_unseen_classes_are_tested_and_never_trained_or_validated(small_data):
    data = module(small_data, unseen="draw1")
    held = set(unseen_classes("draw1", "synthetic", 20))
    labels = {split: set(data.labels[rows].tolist()) for split, rows in data.rows.items()}
    assert labels["test"] == held == set(data.unseen)
    assert not held & (labels["train"] | labels["val"])
    assert module(small_data).unseen == []


def test_data_of_ones_own_train_under_the_protocol_own(tmp_path):
    raw, out = raw_clips.own_folder(tmp_path / "raw"), tmp_path / "out"
    assert main(["prepare", "own", "--raw", str(raw), "--out", str(out)]) == 0
    data = SkeletonDataModule(str(out), "own", val_fraction=0.0)
    assert data.class_names == ["wave", "sit down"]
    assert {data.data.clip(int(row)).subject for row in data.rows["test"]} == {2}
    assert {data.data.clip(int(row)).subject for row in data.rows["train"]} == {1}


def test_the_batched_feeder_stays_on_the_device_of_its_tensors():
    device = torch.device("meta")  # any tensor made elsewhere on the way raises
    frames, seen = torch.zeros(40, 2, 25, 3, device=device), torch.ones(40, 2, dtype=torch.bool, device=device)
    length = torch.tensor([10, 30], device=device)
    start, share = torch.zeros(2, device=device), torch.ones(2, device=device)
    position = valid_positions(start, share, length, 16)
    joints, present = interpolate(frames, seen, torch.tensor([0, 10], device=device), length, position)
    turned = place(joints, present, torch.zeros(2, 3, device=device), torch.zeros(2, 3, 3, device=device))
    assert turned.shape == (2, 16, 2, 25, 3)
    assert turned.device.type == "meta"


@pytest.mark.parametrize("length", ["whole", "window"])
def test_clips_keep_their_own_length_and_windows_are_consecutive_frames(small_data, length):
    data = SkeletonDataModule(
        str(small_data), "synthetic_xsub", preprocess=Preprocess(frames=24, align="none", length=length)
    )
    clips = data.batches("train")
    lengths = data.data.table["length"][clips.rows[:6]]
    whole = clips.__getitems__([(-1, i) for i in range(6)])
    assert whole["lengths"].tolist() == lengths.tolist()
    for row, count in enumerate(lengths):
        first = data.data.table["offset"][clips.rows[row]]
        raw = torch.from_numpy(np.array(data.data.frames[first : first + count]))
        expected = (raw - raw[0, 0, find_layout("ntu25").root]) * whole["persons"][row][:, None, None]
        torch.testing.assert_close(whole["joints"][row, :count], expected, rtol=1e-4, atol=1e-5)
    training = [clips.__getitems__([(turn, i) for i in range(6)]) for turn in range(8)]
    if length == "whole":
        assert all(batch["lengths"].equal(whole["lengths"]) for batch in training)
        return
    starts = set()
    for batch in training:
        assert batch["lengths"].tolist() == [min(24, count) for count in lengths]
        for row, count in enumerate(batch["lengths"].tolist()):
            apart = (whole["joints"][row].unfold(0, count, 1).movedim(-1, 1) - batch["joints"][row, :count]).abs()
            best = apart.flatten(1).amax(1)  # the window is some stretch of the whole clip, frame for frame
            assert best.min() < 1e-4
            starts.add((row, int(best.argmin())))
    assert len(starts) > 20


def test_an_item_is_the_same_in_a_batch_of_longer_clips(small_data):
    data = module(small_data, preprocess=Preprocess(length="whole"))
    clips = data.batches("train", Augmentation(noise=0.02, crop=0.7))
    together = clips.__getitems__([(3, i) for i in range(8)])
    for row in range(8):
        alone = clips.__getitems__([(3, row)])
        count = int(alone["lengths"][0])
        assert together["lengths"][row] == count
        assert count <= data.data.table["length"][clips.rows[row]]
        torch.testing.assert_close(together["joints"][row, :count], alone["joints"][0, :count])


def test_long_clips_are_thinned_to_the_longest_and_an_empty_batch_has_every_key(small_data):
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=Preprocess(length="whole", longest=20))
    batch = data.batches("val").__getitems__([(-1, 0), (-1, 1)])
    assert batch["lengths"].tolist() == [20, 20]
    none = data.batches("val").__getitems__([])
    assert none.keys() == batch.keys()
    assert none["joints"].shape[0] == 0


def test_batches_of_like_length_hold_every_clip_once_a_pass_and_resume_alike():
    lengths = np.random.default_rng(0).integers(10, 300, 1000)
    options = {"seed": 3, "horizon": 3 * 62, "lengths": lengths}
    whole = list(Stream(1000, 16, start=0, **options))
    assert whole != list(Stream(1000, 16, start=0, seed=4, horizon=3 * 62, lengths=lengths))
    for turn in range(3):
        keys = [key for batch in whole[turn * 62 : (turn + 1) * 62] for key in batch]
        assert {turn} == {turn for turn, _ in keys}
        assert len({index for _, index in keys}) == 62 * 16
    assert list(Stream(1000, 16, start=70, **options)) == whole[70:]
    halves = [list(Stream(1000, 8, start=0, rank=rank, world=2, **options)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole

    def waste(batches):
        padded = sum(len(batch) * max(lengths[index] for _, index in batch) for batch in batches)
        return 1 - sum(lengths[index] for batch in batches for _, index in batch) / padded

    plain = list(Stream(1000, 16, seed=3, start=0, horizon=3 * 62))
    assert waste(plain) > 0.3
    assert waste(whole) < 0.05


def test_a_split_without_clips_is_refused(small_data, tmp_path):
    data = module(small_data)
    folder = tmp_path / "training_only"
    subjects = set(data.data.table["subject"][data.rows["train"]].tolist())
    clips = [clip for clip in synthetic_clips(subjects=4) if clip.subject in subjects]
    options = {"layout": "ntu25", "class_names": CLASS_NAMES, "num_persons": 2, "source": "synthetic"}
    write_dataset(folder, clips, name="synthetic", **options)
    with pytest.raises(ValueError, match=r"training_only: the protocol synthetic_xsub leaves no test clips of its \d+"):
        module(folder, partial=True)


def test_workers_that_an_exception_keeps_are_ended_without_a_word(small_data):
    module = SkeletonDataModule(str(small_data), "synthetic_xsub", batch_size=16, num_workers=2)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        batches = iter(module.test_dataloader())
        next(batches)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        _end_workers()
        time.sleep(0.5)  # in which PyTorch's handler would raise
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 2
    finally:
        signal.signal(signal.SIGCHLD, before)
