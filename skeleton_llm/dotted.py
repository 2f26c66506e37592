"""Configs by dotted keys, as the command line writes them."""

from typing import Any


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys; empty ones have none."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): tree}
