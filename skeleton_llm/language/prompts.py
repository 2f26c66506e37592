"""What the language model is asked. The two prompts are LLM-AR's, word for word; the wrapper is Alpaca's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

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
        text: must hold ``[tokens]``, where the action sentence stands; ``[list]`` becomes class names.
        unseen: ``text`` of a run that holds classes out (``data.init_args.unseen``), unless ``text`` itself has a list.
        wrapper: ``none``; ``alpaca`` as in the code base that LLM-AR cites; ``chat`` for the model's own chat template.
        choices: how many names ``[list]`` shows in training, the right one among them; null shows all.
    """

    text: str = SEEN
    unseen: str = UNSEEN
    wrapper: Literal["none", "alpaca", "chat"] = "none"
    choices: int | None = None

    def __post_init__(self) -> None:
        """Refuse a prompt without exactly one place for the tokens."""
        for key, text in (("text", self.text), ("unseen", self.unseen)):
            if text.count("[tokens]") != 1:
                raise ValueError(f"prompt.{key} must hold [tokens] exactly once, got {text!r}")
        if self.choices is not None and (self.choices < 1 or "[list]" not in self.text):
            raise ValueError(
                f"prompt.choices is the number of names that [list] shows, got {self.choices} for {self.text!r};"
                " put [list] into prompt.text or leave it null"
            )

    @property
    def lists(self) -> bool:
        """Whether it names classes."""
        return "[list]" in self.text

    def holding_out(self, count: int) -> "Prompt":
        """The prompt of a run that holds so many classes out: its lists are as long in training as in the test."""
        if count == 0 or self.lists:
            return self
        return replace(self, text=self.unseen, choices=count if "[list]" in self.unseen else None)

    def parts(self, text: PreTrainedTokenizerBase, names: Sequence[str]) -> tuple[str, str]:
        """What stands before and after the action sentence, with ``names`` in the list.

        Raises:
            ValueError: a chat template is wanted and the text tokenizer has none.
        """
        asked = self.text.replace("[list]", ", ".join(names))
        if self.wrapper == "alpaca":
            asked = _ALPACA.format(asked)
        elif self.wrapper == "chat":
            if not text.chat_template:
                raise ValueError(
                    f"prompt.wrapper chat: {text.name_or_path} has no chat template; take a chat model or set it to"
                    " alpaca or none"
                )
            turns = [{"role": "user", "content": asked}]
            asked = str(text.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        before, after = asked.split("[tokens]")
        return before, after
