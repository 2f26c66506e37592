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
