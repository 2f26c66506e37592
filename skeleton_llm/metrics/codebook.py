"""How a codebook is used, and what its tokens mean. B clips, L tokens a clip, C classes, N codes, P pairs, D width."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

_SATURATED = 0.998  # of the ball's radius: within twice the margin, 0.001, to which ball points are projected back
_NEVER = -1


class UsageReport(NamedTuple):
    """``used`` and ``dead`` are numbers of tokens; ``exponent`` is minus the slope of log frequency on log rank."""

    perplexity: float
    used: int
    dead: int
    exponent: float


def entropy(counts: Float[Tensor, " C"]) -> float:
    """Entropy in nats of a distribution given by counts, 0 for an empty one."""
    return float(torch.special.entr(counts.double() / counts.double().sum().clamp_min(1)).sum())


def usage_report(counts: Float[Tensor, " N"] | Int[Tensor, " N"]) -> UsageReport:
    """Perplexity (e to the entropy), tokens used and dead, and the Zipf exponent fitted to the tokens in use.

    The exponent is the least-squares slope over ranks, each weighted by 1 / rank so that the long tail of rare tokens
    does not decide alone; nan with fewer than 3 tokens in use.
    """
    counts = counts.detach().double().cpu()
    used = int((counts > 0).sum())
    share = counts / counts.sum().clamp_min(1)
    exponent = float("nan")
    if used >= 3:
        frequency = share.sort(descending=True).values[:used].log()
        rank = torch.arange(1, used + 1, dtype=torch.float64)
        weight = 1 / rank / (1 / rank).sum()
        x = rank.log() - (weight * rank.log()).sum()
        exponent = float(-(weight * x * frequency).sum() / (weight * x * x).sum())
    return UsageReport(math.exp(entropy(counts)), used, len(counts) - used, exponent)


class CodebookUsage(Metric):
    """Number of times each token was used, summed over batches and ranks; ``compute`` gives float64 [N]."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.num_codes = num_codes
        self.add_state("counts", torch.zeros(num_codes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, indices: Int[Tensor, "*B"]) -> None:
        """Count the tokens of some sentences."""
        self.counts += torch.bincount(indices.flatten(), minlength=self.num_codes)

    def add(self, counts: Float[Tensor, " N"]) -> None:
        """Add what was counted elsewhere."""
        self.update(counts.new_zeros(0, dtype=torch.long))
        self.counts += counts

    def compute(self) -> Float[Tensor, " N"]:
        """The counts."""
        return self.counts


class TokenLifetimes(nn.Module):
    """Since which step each token has been in use, and when it was used last.

    A token that was idle for more than ``patience`` steps is dead; its next use begins a new life. ``update`` neither
    waits for the device nor knows other ranks; ``agree`` brings ranks together (a spell that is idle on one rank alone
    may still shorten a life).

    Args:
        num_codes: N.
        patience: steps without use that end a life.
    """

    born: Tensor
    last_used: Tensor

    def __init__(self, num_codes: int, patience: int = 200) -> None:
        """No token has been used."""
        super().__init__()
        self.patience = patience
        for name in ("born", "last_used"):
            self.register_buffer(name, torch.full((num_codes,), _NEVER))

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], step: int) -> None:
        """Note the tokens that ``mask`` counts as used at ``step``."""
        num_codes = len(self.born)
        used = torch.zeros(num_codes + 1, dtype=torch.bool, device=indices.device)  # the last collects masked tokens
        used = used.scatter_(0, torch.where(mask, indices, num_codes).flatten(), value=True)[:-1]
        again = (self.last_used == _NEVER) | (step - self.last_used > self.patience)
        self.born.copy_(torch.where(used & again, step, self.born))
        self.last_used.copy_(torch.where(used, step, self.last_used))

    def alive(self, step: int) -> Bool[Tensor, " N"]:
        """Tokens used in the last ``patience`` steps."""
        return (self.last_used != _NEVER) & (step - self.last_used <= self.patience)

    def idle(self, step: int) -> Int[Tensor, " N"]:
        """Steps since each token's last use, or since the run's start."""
        return step - self.last_used.clamp_min(0)

    def lifetimes(self, step: int) -> Int[Tensor, " A"]:
        """Steps from birth to last use of the tokens alive."""
        return (self.last_used - self.born)[self.alive(step)]

    @torch.no_grad()
    def agree(self, step: int) -> None:
        """The latest use and, among ranks where a token is alive, the earliest birth; nothing without other ranks."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        unborn = torch.iinfo(self.born.dtype).max
        born = torch.where(self.alive(step), self.born, unborn)
        torch.distributed.all_reduce(born, op=torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(self.last_used, op=torch.distributed.ReduceOp.MAX)
        self.born.copy_(torch.where(born == unborn, self.born, born))


def mutual_information(table: Float[Tensor, "C N"]) -> float:
    """I(row; column) in nats of a table of counts, 0 for an empty one (the plug-in estimate: few counts flatter it)."""
    joint = table.double() / table.double().sum().clamp_min(1)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    ratio = torch.where(joint > 0, joint / apart.clamp_min(torch.finfo(apart.dtype).tiny), 1)
    return float((joint * ratio.log()).sum().clamp_min(0))


class CodeClassCounts(Metric):
    """Number of times each token stands in a clip of each class, over batches and ranks; float64 [C, N].

    Clips of unknown class (-1) and masked tokens do not count.
    """

    full_state_update = False
    table: Tensor

    def __init__(self, num_classes: int, num_codes: int, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.add_state("table", torch.zeros(num_classes, num_codes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, indices: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], labels: Int[Tensor, " B"]) -> None:
        """Count the tokens of some clips."""
        counted = mask & (labels >= 0)[:, None]
        cell = labels.clamp_min(0)[:, None] * self.table.shape[1] + indices
        self.table.view(-1).index_add_(0, cell.flatten(), counted.flatten().to(self.table.dtype))

    def compute(self) -> Float[Tensor, "C N"]:
        """The counts."""
        return self.table


class PairCorrelation(Metric):
    """Pearson correlation over sentences between the shares that a pair's two tokens have of a sentence.

    ``compute`` gives float64 [P], nan where a token's share is the same in all sentences; only sums are kept.

    Args:
        pairs: tokens that are compared.
        num_codes: N.
    """

    full_state_update = False
    sentences: Tensor
    sums: Tensor

    def __init__(self, pairs: Int[Tensor, "P 2"], num_codes: int, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.pairs, self.num_codes = pairs, num_codes
        self.add_state("sentences", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(5, len(pairs), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, indices: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> None:
        """Add some sentences; those without tokens do not count."""
        usage = torch.zeros(len(indices), self.num_codes, dtype=torch.float64, device=indices.device)
        usage.scatter_add_(1, indices, mask.double())
        usage /= usage.sum(-1, keepdim=True).clamp_min(1)
        a, b = (usage[:, tokens] for tokens in self.pairs.to(indices.device).unbind(1))  # [B, P]
        self.sums += torch.stack([part.sum(0) for part in (a, b, a * a, b * b, a * b)])
        self.sentences += mask.any(-1).sum()

    def compute(self) -> Float[Tensor, " P"]:
        """The correlations."""
        a, b, aa, bb, ab = self.sums / self.sentences.clamp_min(1)
        var_a, var_b = aa - a * a, bb - b * b
        moves = (var_a > 1e-12) & (var_b > 1e-12)  # shares of 1 / L vary by more, rounding by less
        return torch.where(moves, (ab - a * b) / (var_a * var_b).clamp_min(1e-30).sqrt(), torch.nan)


class NormReport(NamedTuple):
    """``saturation`` is the share of latents at the ball's boundary; ``counts`` go with the bins' upper ``limits``."""

    number: float
    total: float
    squares: float
    saturation: float
    limits: list[float]
    counts: list[float]


class LatentNorms(Metric):
    """Histogram of latents' tangent norms in bins of 1 %, over batches and ranks, and how many reach the boundary.

    Args:
        curvature: c of the ball; a latent of norm r lies at tanh(sqrt(c) r) of its radius.
    """

    full_state_update = False
    counts: Tensor
    sums: Tensor

    def __init__(self, curvature: float = 1.0, **kwargs: Any) -> None:
        """Start at zero."""
        super().__init__(**kwargs)
        self.curvature = curvature
        self.limits = [1e-3 * 1.01**power for power in range(1200)]  # to 150, where float32 balls are long saturated
        self.add_state("counts", torch.zeros(len(self.limits), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, latents: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> None:
        """Add some latents; what is not finite counts as saturated and stands in the last bin."""
        weight = mask.flatten().double()
        norms = latents.float().norm(dim=-1).flatten().nan_to_num(self.limits[-1]).clamp_max(self.limits[-1]).double()
        limits = torch.tensor(self.limits, dtype=torch.float64, device=latents.device)
        self.counts.index_add_(0, torch.searchsorted(limits, norms).clamp_max(len(limits) - 1), weight)
        saturated = (self.curvature**0.5 * norms).tanh() > _SATURATED
        self.sums += torch.stack([(weight * part).sum() for part in (weight, norms, norms * norms, saturated)])

    def compute(self) -> NormReport:
        """The histogram without its empty ends."""
        number, total, squares, saturated = self.sums.tolist()
        filled = self.counts.nonzero()[:, 0].tolist() or [0]
        first, end = max(filled[0] - 1, 0), filled[-1] + 1
        share = saturated / max(number, 1)
        return NormReport(number, total, squares, share, self.limits[first:end], self.counts[first:end].tolist())
