"""The exact log-likelihood of every class name after a prompt, by one pass over the trie of names.

B prompts of P embeddings, C names, K inner nodes of the trie, V words.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_MOST_LOGITS = 2**27  # of one chunk of prompts: 512 MiB in float32


class NameTrie:
    """Names as token ids, each with its end token, sharing their beginnings.

    The end token is part of a name, so a name that begins another ("put on" and "put on a hat") is told apart from it.

    Args:
        names: token ids of each name, without the end token.
        end: id of the end token.

    Raises:
        ValueError: a name is empty or two names have the same tokens.
    """

    def __init__(self, names: Sequence[Sequence[int]], end: int) -> None:
        """Number the inner nodes in breadth of insertion; node 0 is the root, which reads nothing."""
        if any(len(name) == 0 for name in names) or len({tuple(name) for name in names}) < len(names):
            raise ValueError("class names must differ in their tokens and hold at least one; rename the classes")
        self.names, self.end = [list(name) for name in names], end
        self.tokens: list[int] = [-1]
        self.parents: list[int] = [-1]
        self.depths: list[int] = [0]
        children: list[dict[int, int]] = [{}]
        paths = []
        for name in self.names:
            node, path = 0, []
            for token in name:
                if token not in children[node]:
                    children[node][token] = len(self.tokens)
                    self.tokens.append(token)
                    self.parents.append(node)
                    self.depths.append(self.depths[node] + 1)
                    children.append({})
                path.append((node, token))
                node = children[node][token]
            paths.append([*path, (node, end)])
        edges = sorted({edge for path in paths for edge in path})
        number = {edge: index for index, edge in enumerate(edges)}
        self.edge_nodes = torch.tensor([node for node, _ in edges])
        self.edge_tokens = torch.tensor([token for _, token in edges])
        self.membership = torch.zeros(len(edges), len(names), dtype=torch.float64)
        for column, path in enumerate(paths):
            for edge in path:
                self.membership[number[edge], column] = 1
        self.lengths = self.membership.sum(0).float()  # tokens of each name, the end included

    def ancestors(self) -> Bool[Tensor, "K K"]:
        """Which nodes (columns) each node (row) may look at: those on its way from the root, itself included."""
        nodes = len(self.tokens) - 1
        seen = torch.zeros(nodes + 1, nodes + 1, dtype=torch.bool)
        for node in range(1, nodes + 1):  # parents come before their children
            seen[node] = seen[self.parents[node]]
            seen[node, node] = True
        return seen[1:, 1:]

    @torch.no_grad()
    def score(self, llm: nn.Module, prompt: Float[Tensor, "B P D"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B C"]:
        """Log p(name, end | prompt), float32, of every name for every prompt."""
        vocabulary = llm.get_input_embeddings().num_embeddings  # type: ignore[operator]
        rows = max(1, _MOST_LOGITS // (vocabulary * len(self.tokens)))
        parts = zip(prompt.split(rows), mask.split(rows), strict=True)
        return torch.cat([self._score(llm, embeddings, there) for embeddings, there in parts])

    def _score(self, llm: nn.Module, prompt: Tensor, mask: Tensor) -> Tensor:
        device, batch = prompt.device, len(prompt)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        first = llm(
            inputs_embeds=prompt,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = torch.tensor(self.tokens[1:], device=device).expand(batch, -1)
        depth = torch.tensor(self.depths[1:], device=device)
        nodes = len(depth)
        inner = self.ancestors().to(device).expand(batch, -1, -1)
        allowed = torch.cat([mask[:, None].expand(-1, nodes, -1), inner], dim=-1)[:, None]  # [B, 1, K, P + K]
        bias = torch.zeros(allowed.shape, dtype=prompt.dtype, device=device)
        bias.masked_fill_(~allowed, torch.finfo(prompt.dtype).min)
        tree = llm(
            input_ids=tokens,
            attention_mask=bias,
            position_ids=mask.sum(1, keepdim=True) + depth - 1,
            past_key_values=first.past_key_values,
            use_cache=True,
        )
        logits = torch.cat([first.logits, tree.logits], dim=1).float()  # [B, 1 + K, V]
        edge_nodes, edge_tokens = self.edge_nodes.to(device), self.edge_tokens.to(device)
        edges = logits[:, edge_nodes, edge_tokens] - logits.logsumexp(-1)[:, edge_nodes]
        return edges.double().matmul(self.membership.to(device)).float()


def pad(sequences: Sequence[Sequence[int]], value: int) -> Int[Tensor, "C A"]:
    """Ragged ids as one tensor, filled up on the right."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences])
