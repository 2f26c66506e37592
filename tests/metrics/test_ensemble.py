import pytest
import torch

from skeleton_llm.metrics.ensemble import choose_weights, ensemble


def test_an_ensemble_adds_weighted_probabilities():
    torch.manual_seed(0)
    one, two = torch.randn(5, 3), 10 + torch.randn(5, 3)  # scores need not be normalised
    found = ensemble([one, two], [3.0, 1.0])
    for row in range(5):
        for label in range(3):
            parts = [run[row].double().exp()[label] / run[row].double().exp().sum() for run in (one, two)]
            assert found[row, label].item() == pytest.approx(float(0.75 * parts[0] + 0.25 * parts[1]))
    torch.testing.assert_close(ensemble([one, two], [0.0, 2.0]), two.double().softmax(-1))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        ensemble([torch.randn(2, 3)] * 2, weights)


def test_chosen_weights_are_right_most_often_and_even_where_that_is_the_same():
    labels = torch.arange(4)
    right = torch.nn.functional.one_hot(labels, 4).float()
    assert choose_weights([right, right, right], labels) == [1, 1, 1]
    noise = 3 * torch.nn.functional.one_hot((labels + 1) % 4, 4).float()
    chosen = choose_weights([right, noise], labels)
    assert (ensemble([right, noise], chosen).argmax(-1) == labels).all()
    assert (ensemble([right, noise], [1.0, 1.0]).argmax(-1) != labels).any()
    for evener in ([2.0, 1.0], [3.0, 1.0]):
        spread = sum(weight**2 for weight in evener) / sum(evener) ** 2
        if spread < sum(weight**2 for weight in chosen) / sum(chosen) ** 2:
            assert (ensemble([right, noise], evener).argmax(-1) != labels).any()
