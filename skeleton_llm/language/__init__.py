"""Everything that touches a language model: loading, tuning, prompts, scoring, the recogniser network."""

from skeleton_llm.language.llm_recognizer import Answers, LLMRecognizer, SkeletonReader
from skeleton_llm.language.loading import LanguageModel
from skeleton_llm.language.tuning import Tuning
from skeleton_llm.language.prompts import Prompt
from skeleton_llm.language.saving import load_network, save_network
from skeleton_llm.language.scoring import NameTrie

__all__ = [
    "Answers", "LLMRecognizer", "LanguageModel", "NameTrie", "Prompt", "SkeletonReader", "Tuning", "load_network",
    "save_network",
]  # fmt: skip
