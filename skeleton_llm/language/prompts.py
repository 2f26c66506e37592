"""What the language model is asked. The two prompts are LLM-AR's, word for word; the wrapper is Alpaca's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SEEN = "Given a sequence of action tokens [tokens], please predict the corresponding action."
UNSEEN = "Given a sequence of action tokens [tokens], please predict the corresponding action from [list]."
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)


@dataclass
class Prompt:
    """The instruction with its slots.

    Args:
        text: must hold ``[tokens]``, where the action sentence stands; ``[list]`` becomes the class names.
        wrapper: ``alpaca`` as in the code base that LLM-AR cites, or ``none``.
    """

    text: str = SEEN
    wrapper: Literal["none", "alpaca"] = "none"

    def __post_init__(self) -> None:
        """Refuse a prompt without exactly one place for the tokens."""
        if self.text.count("[tokens]") != 1:
            raise ValueError(f"prompt.text must hold [tokens] exactly once, got {self.text!r}")

    def parts(self, class_names: Sequence[str]) -> tuple[str, str]:
        """The text before and after the action sentence."""
        text = self.text.replace("[list]", ", ".join(class_names))
        if self.wrapper == "alpaca":
            text = _ALPACA.format(text)
        before, after = text.split("[tokens]")
        return before, after
