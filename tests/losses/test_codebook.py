import torch

from skeleton_llm.losses import codebook_losses


def test_each_half_moves_one_side_by_the_squared_distance():
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    e = torch.tensor([[0.0, 0.0], [0.0, 1.0]], requires_grad=True)
    losses = codebook_losses(z, e)
    assert losses.embedding.item() == losses.commitment.item() == 1.0  # (1 + 1) / 2
    losses.embedding.backward()
    assert z.grad is None
    torch.testing.assert_close(e.grad, e.detach() - z.detach())
    losses.commitment.backward()
    torch.testing.assert_close(z.grad, z.detach() - e.detach())
