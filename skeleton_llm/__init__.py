"""skeleton-llm: large language models that recognise human actions from skeletons."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skeleton_llm.networks import ActionTokenizer
    from skeleton_llm.recognizer import Recognizer

__all__ = ["ActionTokenizer", "Recognizer"]


def __getattr__(name: str) -> Any:
    """Import the two products when they are asked for, so that ``import skeleton_llm`` stays light."""
    if name == "ActionTokenizer":
        from skeleton_llm.networks import ActionTokenizer

        return ActionTokenizer
    if name == "Recognizer":
        from skeleton_llm.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
