"""Everything that touches a language model: loading, tuning, prompts, scoring, the recogniser network."""

from skeleton_llm.language.inputs import Inputs, add_action_words
from skeleton_llm.language.llm_recognizer import Answers, LLMRecognizer, Sentences, SkeletonReader
from skeleton_llm.language.loading import LanguageModel
from skeleton_llm.language.prompts import Prompt
from skeleton_llm.language.saving import load_network, save_network
from skeleton_llm.language.scoring import NameTrie
from skeleton_llm.language.tuning import Tuning
from skeleton_llm.language.wording import Wording

__all__ = [
    "Answers", "Inputs", "LLMRecognizer", "LanguageModel", "NameTrie", "Prompt", "Sentences", "SkeletonReader",
    "Tuning", "Wording", "add_action_words", "load_network", "save_network",
]  # fmt: skip
