import torch

from skeleton_llm.losses import codebook_losses


def test_each_half_moves_one_side_by_the_squared_distance():
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    e = torch.tensor([[0.0, 0.0], [0.0, 1.0]], requires_grad=True)
    losses = codebook_losses(z, e, torch.tensor([0, 1]))
    assert losses.embedding.item() == losses.commitment.item() == 1.0  # (1 + 1) / 2
    losses.embedding.backward(retain_graph=True)
    assert not z.grad.any()
    torch.testing.assert_close(e.grad, e.detach() - z.detach())
    losses.commitment.backward()
    torch.testing.assert_close(z.grad, z.detach() - e.detach())


def plain(z, codebook, indices, mask, total):
    """The two losses as autograd writes them."""
    e, weight = codebook[indices], mask[..., None]
    embedding = ((e - z.detach()).square() * weight).sum() / total
    return embedding + 0.02 * ((z - e.detach()).square() * weight).sum() / total


def test_one_pass_equals_two_squared_norms_with_stopped_gradients():
    generator = torch.Generator().manual_seed(0)
    z, e = (torch.randn(*n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in ((3, 4), (6,)))
    indices = torch.tensor([[1, 1, 2, 5], [2, 1, 3, 3], [0, 0, 5, 1]])  # shared tokens, and one that is used nowhere
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    for kept, total in (
        (mask, mask.sum().double()),
        (torch.ones_like(mask), 12.0),
        (mask, torch.tensor(10.0).double()),
    ):
        losses = codebook_losses(z, e, indices, kept, total)
        ours = torch.autograd.grad(losses.embedding + 0.02 * losses.commitment, (z, e))
        theirs = torch.autograd.grad(plain(z, e, indices, kept, total), (z, e))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    by_count, by_6 = codebook_losses(z, e, indices, mask), codebook_losses(z, e, indices, mask, 6.0)
    assert by_count.embedding.item() == by_6.embedding.item()


def test_no_latents_give_no_loss_instead_of_nan():
    losses = codebook_losses(torch.zeros(0, 4, 5), torch.zeros(6, 5), torch.zeros(0, 4, dtype=torch.long))
    assert losses.embedding.item() == losses.commitment.item() == 0.0
