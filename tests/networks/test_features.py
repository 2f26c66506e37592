import torch

from skeleton_llm.networks import SkeletonFeatures
from skeleton_llm.skeletons import find_layout


def clips():
    torch.manual_seed(0)
    joints = torch.randn(6, 8, 2, 25, 3) * 0.3 + torch.tensor([0.5, 1.0, 2.0])
    persons = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 0], [1, 1]], dtype=torch.bool)
    return joints * persons[:, None, :, None, None], persons


def test_inverse_gives_joints_and_persons_back():
    joints, persons = clips()
    features = SkeletonFeatures("ntu25", 2, root_weight=3.0)
    features.fit(joints, persons)
    back, there = features.joints(features(joints, persons))
    torch.testing.assert_close(back, joints, rtol=1e-4, atol=1e-4)
    assert there.equal(persons)


def test_channels_of_present_persons_are_standardised_and_of_absent_ones_zero():
    joints, persons = clips()
    features = SkeletonFeatures("ntu25", 2)
    features.fit(joints, persons)
    x = features(joints, persons)
    assert x.shape == (6, 8, 2 * 150 + 1)
    first = x[..., :150].flatten(0, 1)
    torch.testing.assert_close(x[persons[:, 1]][..., 300], torch.ones(3, 8))
    assert (x[~persons[:, 1]][..., 150:300] == 0).all()
    assert abs(first[:, :75].std(0).mean() - 1) < 0.2


def test_streams_choose_what_the_encoder_sees_while_joints_are_always_given_back():
    joints, persons = clips()
    sizes = {"joint": 75, "bone": 72, "motion": 75, "bone_motion": 72}
    assert len(find_layout("ntu25").bones) == 24
    for streams in (("joint",), ("bone",), ("motion",), ("bone", "motion"), ("bone_motion",), tuple(sizes)):
        features = SkeletonFeatures("ntu25", 2, streams=streams)
        features.fit(joints, persons)
        x = features(joints, persons)
        assert features.num_inputs == features.seen(x).shape[-1] == 2 * sum(sizes[name] for name in streams) + 1
        torch.testing.assert_close(features.joints(x)[0], joints, rtol=1e-4, atol=1e-4)
        changed = x.clone()
        changed[..., :75] += 1
        assert features.seen(changed).equal(features.seen(x)) == ("joint" not in streams)


def test_bones_are_vectors_from_parent_to_child():
    joints, persons = clips()
    features = SkeletonFeatures("ntu25", 2, streams=("bone",))
    x = features(joints, persons)  # not fitted: in metres
    child, parent = find_layout("ntu25").bones[5]
    torch.testing.assert_close(x[..., 75 + 15 : 75 + 18], joints[:, :, 0, child] - joints[:, :, 0, parent])


def test_motions_are_first_differences_and_every_stream_is_standardised():
    joints, persons = clips()
    features = SkeletonFeatures("ntu25", 2, streams=("joint", "bone", "motion", "bone_motion"))
    parts = features(joints, persons)[..., : 75 + 72 + 75 + 72].split([75, 72, 75, 72], dim=-1)  # not fitted: in metres
    for still, moved in ((parts[0], parts[2]), (parts[1], parts[3])):
        torch.testing.assert_close(moved[:, 1:], still[:, 1:] - still[:, :-1])
        assert (moved[:, 0] == 0).all()
    features.fit(joints, persons)
    for part in features(joints, persons)[..., : 75 + 72 + 75 + 72].split([75, 72, 75, 72], dim=-1):
        assert abs(part.flatten(0, 1).std(0).mean() - 1) < 0.2


def test_statistics_leave_out_what_the_mask_leaves_out():
    joints, persons = clips()
    mask = torch.arange(8) < torch.tensor([[8], [3], [5], [8], [1], [2]])
    one, two = SkeletonFeatures("ntu25", 2), SkeletonFeatures("ntu25", 2)
    one.fit(joints, persons, mask)
    two.fit(joints + 50.0 * ~mask[..., None, None, None], persons, mask)
    # the first difference behind a clip's end is out of the mask too
    torch.testing.assert_close(one.mean, two.mean)
    torch.testing.assert_close(one.std, two.std)
