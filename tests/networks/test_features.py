import torch

from skeleton_llm.networks import SkeletonFeatures


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
