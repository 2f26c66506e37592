import pytest
import torch
from transformers import AutoTokenizer

from skeleton_llm.language import LanguageModel, Prompt, Wording
from skeleton_llm.language.prompts import SEEN, UNSEEN

NAMES = ["sit", "sit down", "wave the right hand", "drink water"]
CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture
def text():
    return LanguageModel().tokenizer()


def test_the_prompts_are_the_papers_word_for_word(text):
    assert SEEN == "Given a sequence of action tokens [tokens], please predict the corresponding action."
    assert Prompt(UNSEEN).parts(text, ["a", "b"]) == (
        "Given a sequence of action tokens ",
        ", please predict the corresponding action from a, b.",
    )
    before, after = Prompt(wrapper="alpaca").parts(text, NAMES)
    assert before.startswith("Below is an instruction that describes a task. Write a response")
    assert after.endswith("\n\n### Response:")


def test_ids_spell_prompt_and_answer_and_the_loss_counts_the_answer_and_its_end_alone(text):
    wording = Wording(text, NAMES, Prompt())
    before, after = wording.around()
    assert before[0] == text.bos_token_id
    assert text.decode(before[1:]) == "Given a sequence of action tokens "
    for label, name in enumerate(NAMES):
        counted = wording.answers[label][wording.answers[label] != -100].tolist()
        assert text.decode(counted[:-1]).strip() == name
        assert counted[-1] == text.eos_token_id
        assert text.decode(after + counted[:-1]) == f", please predict the corresponding action. {name}"
        assert wording.lengths[label] == len(counted)
    shown = wording.example([3, 1, 4], 1)
    assert shown == f"<s>{SEEN.replace('[tokens]', '<3 1 4>')}[[ sit down</s>]]"


def test_a_chat_template_brings_its_own_beginning(text):
    text.chat_template = CHAT
    wording = Wording(text, NAMES, Prompt(wrapper="chat"))
    before, after = wording.around()
    assert before.count(text.bos_token_id) == 1
    assert text.decode(before) == "<s>user: Given a sequence of action tokens "
    assert text.decode(after).endswith("\nassistant:")
    text.chat_template = None
    with pytest.raises(ValueError, match=r"prompt.wrapper chat: .* has no chat template; take a chat model"):
        Wording(text, NAMES, Prompt(wrapper="chat"))


def test_lists_name_the_right_class_among_as_many_as_asked_for(text):
    wording = Wording(text, NAMES, Prompt(UNSEEN, choices=3))
    labels = torch.arange(4).repeat(50)
    torch.manual_seed(0)
    listed = wording.listings(labels)
    assert all(len(set(row)) == 3 and label in row for row, label in zip(listed, labels.tolist(), strict=True))
    places = torch.tensor([row.index(label) for row, label in zip(listed, labels.tolist(), strict=True)])
    assert places.bincount(minlength=3).min() > 40  # of 200: the right one stands anywhere
    _, after = wording.around(listed[0])
    assert (
        text.decode(after)
        == f", please predict the corresponding action from {', '.join(NAMES[i] for i in listed[0])}."
    )
    assert Wording(text, NAMES, Prompt(UNSEEN)).listings(labels) is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"text": "what is it?"}, r"prompt.text must hold \[tokens\] exactly once"),
        ({"text": "[tokens] [tokens]"}, r"prompt.text must hold \[tokens\] exactly once"),
        ({"choices": 3}, r"prompt.choices is the number of names that \[list\] shows"),
    ],
)
def test_prompts_that_cannot_work_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**prompt)


def test_more_prompt_than_context_is_refused(text):
    wording = Wording(text, NAMES, Prompt())
    before, after = wording.around()
    needed = len(before) + 64 + len(after) + wording.answers.shape[1] + 4  # what a free answer may have more
    wording.check_room(64, needed)
    wording.check_room(64, None)
    with pytest.raises(ValueError, match=f"{needed}, more than the {needed - 1} that .* reads; shorten prompt.text"):
        wording.check_room(64, needed - 1)


def test_the_longest_list_that_a_prompt_shows_must_fit_and_no_other(text):
    names = [*NAMES, "put on a hat and take it off again", "wear a jacket and a pair of shoes"]
    wording = Wording(text, names, Prompt(UNSEEN, choices=2))
    assert sorted(wording.longest_list(range(6))) == [4, 5]
    assert sorted(wording.longest_list([0, 1, 2, 5])) == [2, 5]
    assert sorted(Wording(text, names, Prompt(UNSEEN)).longest_list([0, 2, 5])) == [0, 2, 5]
    needed = {
        listed: sum(map(len, wording.around(listed))) + 64 + wording.longest_answer
        for listed in [None, *((one, two) for one in range(6) for two in range(6) if one != two)]
    }
    longest = wording.longest_list(range(6))
    assert needed[longest] == max(size for listed, size in needed.items() if listed is not None) < needed[None]
    wording.check_room(64, needed[longest], longest)
    for listed, context in ((longest, needed[longest] - 1), (None, needed[longest])):
        with pytest.raises(ValueError, match=r"shorten prompt.text or list fewer names in it or the sentences"):
            wording.check_room(64, context, listed)


@pytest.mark.parametrize("prompt", ["Name the action: [tokens]", "From [list]: [tokens]"])
def test_a_prompt_that_ends_with_the_sentence_is_refused_unless_a_wrapper_goes_on(text, prompt):
    with pytest.raises(ValueError, match=r"prompt.text must go on behind \[tokens\], got .*end it with a full stop"):
        Wording(text, NAMES, Prompt(prompt))
    text.chat_template = CHAT
    for wrapper in ("alpaca", "chat"):
        assert Wording(text, NAMES, Prompt(prompt, wrapper=wrapper)).around()[1]
    assert text.decode(Wording(text, NAMES, Prompt(f"{prompt}.")).around()[1]) == "."


def test_names_that_no_answer_can_tell_apart_are_named(text):
    with pytest.raises(ValueError, match=r"'sit' \(class 0\) and 'sit' \(class 4\) have the same tokens.*rename one"):
        Wording(text, [*NAMES, "sit"], Prompt())
    with pytest.raises(ValueError, match="no class name to answer with; expected at least one"):
        Wording(text, [], Prompt())


def test_names_and_models_that_cannot_be_spelt_are_refused(text, monkeypatch):
    monkeypatch.setattr(type(text), "decode", lambda self, ids, **_: "helloworld")
    with pytest.raises(ValueError, match="does not give back the prompt"):
        Wording(text, NAMES, Prompt())
    monkeypatch.undo()
    text.eos_token = None
    with pytest.raises(ValueError, match="its text tokenizer has no end token"):
        Wording(text, NAMES, Prompt())


def test_real_checkpoints_begin_as_they_were_trained(shared):
    for name in ("stories260K", "TinyStories-656K"):
        folder = shared / "models" / name
        wording = Wording(AutoTokenizer.from_pretrained(folder), ["sit down", "wave"], Prompt("Look: [tokens]. It is:"))
        assert wording.around()[0][0] == 1
