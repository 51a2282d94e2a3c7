"""Tokens and words: each token in one group, and a word's tokens spell it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.conditioners.bert import BertConfig, BertText
from sfumato.conditioners.clip_text import ClipTexts, ClipTextsConfig
from sfumato.conditioners.clip_tokens import clip_tokenizer
from sfumato.conditioners.compose import Composite
from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.none import Unconditional
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.conditioners.tokens import learn_tokenizer
from sfumato.conditioners.wordpiece import MARKS, bert_tokenizer
from sfumato.errors import InputError
from sfumato.explain.words import groups
from sfumato.networks.clip import ClipTextConfig

TEXT = TextEncoder(
    TextConfig(dim=16, depth=1, heads=1, length=12, vocabulary=300, head_channels=16),
    learn_tokenizer(["a red dragon", "a blue cat"], 300),
)
PIECES = ["a", "red", "dra", "##gon", ",", "3", "##d", "cat", "-", "two"]
BERT = BertText(
    BertConfig(dim=16, depth=1, length=12, vocabulary=len(MARKS) + len(PIECES), heads=1, head_channels=16),
    bert_tokenizer([*MARKS, *PIECES]),
)
CLIP = ClipTexts(ClipTextsConfig((ClipTextConfig(dim=16, layers=1, heads=2),)))


def spelled(conditioner, prompt: str, tokens: tuple[int, ...]) -> str:
    """What the tokenizer itself makes of the ids at these places of the context."""
    ids = conditioner.prepare([prompt]).flatten()[list(tokens)].tolist()
    if conditioner is CLIP:
        return "".join(clip_tokenizer().id_to_token(i) for i in ids).replace("</w>", "")
    text = conditioner.tokenizer.decode(ids) if conditioner is TEXT else "".join(map(conditioner.tokenizer.id_to_token, ids))
    return text.replace("##", "").strip()


@pytest.mark.parametrize("conditioner", [TEXT, BERT, CLIP], ids=["text", "bert", "clip"])
def test_words_are_spelled_by_their_tokens(conditioner):
    prompt = "a Red dragon, 3d cat"
    length = conditioner.prepare([prompt]).shape[-1]
    found = groups(conditioner, prompt, length)
    if conditioner is TEXT:  # its eleven tokens and the marks do not all fit
        found_words = [group for group in found if group.is_word]
        assert [group.name.lower() for group in found_words][:2] == ["a", "red"]
    else:
        assert [group.name.lower() for group in found if group.is_word] == ["a", "red", "dragon", "3d", "cat"]
        assert [group.name for group in found if not group.is_word] == [",", "(begin)", "(end)", "(padding)"]
    assert sorted(token for group in found for token in group.tokens) == list(range(length))
    for group in found[:-3]:
        whole = spelled(conditioner, prompt, group.tokens)
        assert group.name.lower().startswith(whole), (group, whole)
        assert whole == group.name.lower() or conditioner is TEXT


def test_marks_are_where_the_conditioner_puts_them():
    row = TEXT.prepare(["a red"])[0]
    found = {group.name: group.tokens for group in groups(TEXT, "a red", 12)}
    assert row[list(found["(begin)"])].tolist() == [TEXT.bos]
    assert row[list(found["(end)"])].tolist() == [TEXT.eos]
    assert set(row[list(found["(padding)"])].tolist()) == {TEXT.pad}


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_token_is_in_one_group(text):
    found = groups(TEXT, f"a {text}", 12)
    assert sorted(token for group in found for token in group.tokens) == list(range(12))


def test_words_of_any_script_and_shape():
    found = [group.name for group in groups(CLIP, "two-parts don't 🐉", 77) if group.is_word]
    assert found == ["two-parts", "don't"]
    names = [group.name for group in groups(TEXT, "über 🐉", 12)]
    assert names[0] == "über"


def test_a_composite_reads_its_text():
    both = Composite({"text": CLIP, "other": ClassLabel(LabelConfig(("x",), dim=16))})
    found = {group.name: group.tokens for group in groups(both, "a cat", 78)}
    assert found["a"] == (1,)
    assert found["cat"] == (2,)
    assert found["(other inputs)"] == (77,)
    other = Composite({"other": ClassLabel(LabelConfig(("x",), dim=16)), "text": CLIP})
    with pytest.raises(InputError, match="before the text"):
        groups(other, "a cat", 78)


@pytest.mark.parametrize("conditioner", [Unconditional(), ClassLabel(LabelConfig(("x",), dim=16))], ids=["none", "class"])
def test_what_reads_no_text_is_refused(conditioner):
    with pytest.raises(InputError, match="told no words"):
        groups(conditioner, "x", 1)


@pytest.mark.parametrize("prompt", ["", "  ", "!?", "🐉"])
def test_a_prompt_without_words_is_refused(prompt):
    with pytest.raises(InputError, match="no words"):
        groups(TEXT, prompt, 12)


def test_a_pooled_context_has_no_tokens():
    pooled = ClipTexts(ClipTextsConfig((ClipTextConfig(dim=16, layers=1, heads=2, projection=8),), context="pooled"))
    assert pooled(pooled.prepare(["a cat"])).context.shape == (1, 1, 8)
    with pytest.raises(InputError, match="one vector of the whole prompt"):
        groups(pooled, "a cat", 1)
    assert torch.is_tensor(pooled.null(1))
