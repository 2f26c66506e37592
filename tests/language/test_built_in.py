import math

import pytest
import torch

from skeleton_llm.language import LanguageModel
from skeleton_llm.language.built_in import BUILT_IN, Recipe, build, new_model, pack, perplexity, sample
from skeleton_llm.language.wordnet import documents, read_synsets

VERB = (
    "00001740 29 v 02 breathe 0 take_a_breath 0 002 @ 00005041 v 0000 * 00005041 v 0000 01 + 02 00"
    ' | draw air into the lungs; "I can breathe better"  \n'
)
WIDER = "00005041 29 v 01 move 0 001 * 00001740 v 0000 01 + 02 00 | change place  \n"
PLAIN = "the man walked to the table and sat down ."
ENGLISH = [PLAIN, "to run is to move fast by using one's feet", "a person who plays music"]


def test_weights_are_small_and_licensed():
    assert sum(path.stat().st_size for path in BUILT_IN.iterdir()) < 8_000_000
    assert "Princeton University" in (BUILT_IN / "LICENSE.WordNet").read_text()
    assert "license" in (BUILT_IN / "README.md").read_text()


def test_english_is_far_likelier_than_to_the_untrained_twin_and_than_the_same_words_shuffled():
    llm = LanguageModel()
    model, text = llm.load().eval(), llm.tokenizer()

    def surprise(network, sentence):
        ids = torch.tensor([[1, *text(sentence, add_special_tokens=False)["input_ids"], 2]])
        with torch.no_grad():
            return network(input_ids=ids, labels=ids).loss.item()

    twin = LanguageModel(untrained=True).load().eval()
    for sentence in ENGLISH:
        assert surprise(model, sentence) < 0.75 * surprise(twin, sentence)
    shuffled = "down the table to man sat walked the and ."
    assert surprise(model, PLAIN) < surprise(model, shuffled) - 0.5


def test_it_writes_words_that_end():
    llm = LanguageModel()
    answer = sample(llm.load().eval(), llm.tokenizer(), "a chair is")
    words = answer.split()
    assert 4 < len(words) < 30
    assert len(set(words)) > len(words) / 2


def test_text_tokenizer_gives_anything_back():
    text = LanguageModel().tokenizer()
    for piece in ("wave the right hand", "Naïve  spaces\n\n### Response:", "中文 ½"):
        assert text.decode(text(piece, add_special_tokens=False)["input_ids"]) == piece


def test_wordnet_files_become_sentences(tmp_path):
    for kind in ("noun", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text("  1 licence text\n")
    (tmp_path / "data.verb").write_text("  1 licence text\n" + VERB + WIDER)
    synsets = read_synsets(tmp_path)
    assert synsets[0].words == ("breathe", "take a breath")
    assert synsets[0].examples == ("i can breathe better",)
    lines = list(documents(synsets, seed=0))
    assert "i can breathe better" in lines
    assert any("draw air into the lungs" in line for line in lines)
    assert "to breathe is a way to move ." in lines
    (tmp_path / "data.verb").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.verb is missing.*wordnet-base"):
        read_synsets(tmp_path)


def test_the_recipe_runs_from_files_to_a_folder_that_learned(tmp_path):
    verbs = [VERB.replace("00001740", f"{k:08d}").replace("breathe", f"do{k}") for k in range(1, 200)]
    (tmp_path / "data.verb").write_text("".join(verbs) + WIDER)
    for kind in ("noun", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text("")
    recipe = Recipe(
        vocabulary=400, width=32, layers=1, heads=4, kv_heads=2, hidden=64, row=64, batch=4, steps=30, warmup=5
    )
    report = build(tmp_path, tmp_path / "out", recipe)
    assert report["trained"] < 0.5 * report["untrained"]
    assert LanguageModel(str(tmp_path / "out")).load().config.hidden_size == 32


def test_perplexity_of_the_untrained_twin_is_about_the_vocabulary():
    text = LanguageModel().tokenizer()
    rows = pack(ENGLISH * 30, text, 64)
    assert perplexity(new_model(Recipe(), len(text)), rows) == pytest.approx(4096, rel=0.1)
    assert math.isfinite(perplexity(LanguageModel().load(), rows))
