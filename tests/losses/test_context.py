import pytest
import torch

from skeleton_llm.losses import context_loss


def test_sentences_of_pairs_lose_nothing_and_of_singles_everything():
    counts = torch.tensor([[2.0, 1.0, 0.0, 2.0, 1.0, 0.0], [3.0, 3.0, 0.0, 0.0, 0.0, 0.0]])
    assert context_loss(counts[:1]).item() == 0
    assert context_loss(counts[1:]).item() == 1
    assert context_loss(counts).item() == 0.5


def test_value_of_a_half_paired_sentence():
    assert context_loss(torch.tensor([[3.0, 0.0, 1.0, 0.0]])).item() == pytest.approx(1 - 2 * 1 / 4)


def test_odd_codebook_is_refused_by_number():
    with pytest.raises(ValueError, match="must be even, got 5"):
        context_loss(torch.ones(2, 5))


def test_a_random_pairing_sums_the_minima_of_its_pairs():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 5, (7, 12), generator=generator).double()
    counts[3] = 0  # a sentence that is all padding
    pairs = torch.randperm(12, generator=generator).view(-1, 2)
    minima = torch.tensor([sum(min(row[a], row[b]) for a, b in pairs.tolist()) for row in counts.tolist()])
    real = [0, 1, 2, 4, 5, 6]
    expected = sum(1 - 2 * minima[row] / counts[row].sum() for row in real) / len(real)
    assert context_loss(counts, pairs).item() == pytest.approx(expected.item(), rel=1e-6)
    assert context_loss(counts, pairs, 12.0).item() == pytest.approx(expected.item() / 2, rel=1e-6)
    paper = context_loss(counts, pairs, normalise=False)  # Eq. 5 as it stands: minus the mean of the sums
    assert paper.item() == pytest.approx(-minima[real].mean().item(), rel=1e-6)


def test_its_gradient_is_finite_at_ties_and_unused_tokens():
    counts = torch.zeros(3, 4, dtype=torch.float64)
    counts[0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    counts[1] = torch.tensor([2.0, 1.0, 0.0, 3.0])
    counts.requires_grad_()
    context_loss(counts).backward()
    assert counts.grad.isfinite().all()


@pytest.mark.parametrize("normalise", [True, False])
def test_its_gradient_equals_that_of_the_naive_form(normalise):
    generator = torch.Generator().manual_seed(0)
    counts = torch.rand(5, 8, generator=generator, dtype=torch.float64)  # no ties
    counts[2] = 0
    counts.requires_grad_()
    pairs = torch.randperm(8, generator=generator).view(-1, 2)
    total = 0.0
    for row in (0, 1, 3, 4):
        together = sum(min(counts[row, a], counts[row, b]) for a, b in pairs.tolist())
        length = counts[row].sum().item()  # the number of tokens, whatever they are: a constant
        total = total + (1 - 2 * together / length if normalise else -together) / 4
    theirs = torch.autograd.grad(total, counts)[0]
    ours = torch.autograd.grad(context_loss(counts, pairs, normalise=normalise), counts)[0]
    torch.testing.assert_close(ours[[0, 1, 3, 4]], theirs[[0, 1, 3, 4]], rtol=1e-12, atol=1e-15)
    assert ours[2].isfinite().all()
