"""CLIP's tokenizer against transformers' own, made from the same merges."""

import html
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from sfumato.conditioners import clip_tokens
from sfumato.conditioners.clip_tokens import BEGIN_ID, END_ID, LENGTH, encode, encode_padded, is_truncated, repaired
from sfumato.errors import InputError

WORDS = [
    "a photo of a cat", "A PHOTO of a CaT", "", " ", "x", "don't can't we'll they've I'm he'd 'tis it's", "DON'T IT'S",
    "café naïve Ångström ﬁne", "cafe\u0301 A\u030angstro\u0308m", "straße STRASSE İstanbul ıI", "日本語の文章",
    "中文 汉字，标点。", "한국어 문장", "русский текст", "العربية", "עברית", "हिन्दी में लिखना", "ไทย", "1234 5 6.78 ½ ² Ⅷ ٣",
    "😀 😀😀 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇩🇪", "a\tb\nc\r\nd  e\u00a0f\u3000g", "hello,world!!! (what?) [ok] {no} <b>",
    "http://example.com/a?b=c&d=e#f", "a-b_c--d__e", "&amp; &lt;b&gt;", "100% $5.00 €3 £2 @me #tag",
    "\u200b\u200d zero width \u202e rtl", "'s't're", "''''", '"quoted" “curly” ‘single’',
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|startoftext|> in the middle <|endoftext|> and after", "<|endoftext", "!", "!!!!", "\ufffd",
    "word " * 100, "é" * 200, "😀" * 60,
]  # fmt: skip
TONES = ("oil painting", "HDR, 8K, Ultra-detailed", "naïve art", "3D-render", "trending on ArtStation", "photo:1.5", "水彩")
THINGS = ("dragon's lair", "Tokyo at night 🌃", "l'été à Paris", "smörgåsbord", "R2-D2 & C-3PO", "O'Neill's", "cat (feline)")
PROMPTS = WORDS + [f"{tone} of {thing}{end}" for tone in TONES for thing in THINGS for end in ("", ", sharp", "!!", " №7", "…")]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("clip")
    merges = clip_tokens.read_merges()
    (folder / "vocab.json").write_text(json.dumps(clip_tokens.vocabulary(merges)), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def test_vocabulary_is_the_published_one():
    words = clip_tokens.vocabulary(clip_tokens.read_merges())
    assert len(words) == clip_tokens.VOCABULARY
    # ids that CLIP's papers, cards and forks quote: the words of "a photo of a cat", and the marks
    known = {"a</w>": 320, "photo</w>": 1125, "of</w>": 539, "cat</w>": 2368, "!": 0, "<|startoftext|>": 49406}
    assert {word: words[word] for word in known} == known
    assert words["<|endoftext|>"] == END_ID
    assert encode("a photo of a cat") == [320, 1125, 539, 320, 2368]


def test_ids_agree_with_transformers(oracle):
    assert len(PROMPTS) > 250
    for prompt in PROMPTS:
        expected = oracle(prompt, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
        assert encode_padded([prompt], END_ID)[0].tolist() == expected, prompt


def test_padding_and_truncation():
    ids = encode_padded(["a cat", "cat " * 200], 0)
    assert ids.shape == (2, LENGTH)
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == [BEGIN_ID, 320, 2368, END_ID] + [0] * 73
    assert ids[1].tolist() == [BEGIN_ID] + [2368] * 75 + [END_ID]
    assert [is_truncated(text) for text in ("", "cat " * 75, "cat " * 76, "z" * 5000)] == [False, False, True, True]


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\ud83d\ude00", "(" * 10**6, "e\u0301\u0302" * 10**5])
def test_any_text_is_taken(text):
    row = encode_padded([text], END_ID)[0]
    assert row[0] == BEGIN_ID
    assert END_ID in row


def test_cleaned_text_is_what_is_meant():
    assert encode("\ud83d\ude00") == encode("😀")  # a pair of surrogates
    assert encode("a\0 cat") == encode("a cat")


GOLDENS = Path(__file__).parent.parent / "data" / "clip_tokens_goldens.json"


def test_repaired_prompts_have_the_ids_of_openais_own_tokenizer():
    """Of every kind of text, `make_clip_goldens.py` made them; cut where ours reads no further."""
    goldens = json.loads(GOLDENS.read_text("utf-8"))["prompts"]
    assert len(goldens) > 700
    for prompt, ids in goldens:
        assert encode(prompt, repair=True)[: LENGTH - 2] == ids[: LENGTH - 2], prompt
        assert is_truncated(prompt, repair=True) == (len(ids) > LENGTH - 2), prompt
    others = [prompt for prompt, ids in goldens if encode(prompt) != ids]
    assert {"dragon’s", "ﬁne", "Ｆｕｌｌ", "schÃ¶n", "&amp;"} < set(others)  # what transformers reads in another way


def test_repaired_prompts_agree_with_transformers_after_ftfy(oracle):
    """Transformers before 5, with ftfy, as Stable Diffusion 1 was trained: entities are ftfy's there, once."""
    ftfy = pytest.importorskip("ftfy")
    for prompt in PROMPTS:
        expected = oracle(ftfy.fix_text(prompt), padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
        assert encode_padded([prompt], END_ID, repair=True)[0].tolist() == expected, prompt


@pytest.mark.parametrize("letter", [chr(code) for code in range(32, 127) if chr(code) != "&"])
def test_plain_letters_need_no_repair(letter):
    """What `repaired` passes by is what ftfy and html.unescape give back."""
    ftfy = pytest.importorskip("ftfy")
    for text in (letter, f"A {letter}b", f"{letter * 3}lt; {letter}#39;\t\n"):
        assert html.unescape(ftfy.fix_text(text)) == text
        assert repaired(text) == text.lower()


def test_without_ftfy_plain_letters_are_read_and_others_say_what_to_install(monkeypatch):
    with_it = encode("A photo of a cat's “hat”, 8K", repair=True)
    assert with_it == encode('a photo of a cat\'s "hat", 8k')
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert encode("A photo\tof a cat's hat, 8K <b>", repair=True) == encode("a photo of a cat's hat, 8k <b>")
    for text in ("café", "a & b", "a\x1b[31m", "“"):
        assert encode(text)
        with pytest.raises(InputError, match=r"pip install 'sfumato\[published\]'"):
            encode(text, repair=True)
