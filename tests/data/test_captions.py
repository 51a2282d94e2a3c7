"""Captions from bytes of any origin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data.captions import MAX_CHARACTERS, MAX_VARIANTS, clean, decode_text, parse_caption_file, variants


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a red dragon\n", ("a red dragon",)),
        ("\ufeffcaf\u00e9".encode(), ("caf\u00e9",)),
        (b"\xef\xbb\xbfwith mark", ("with mark",)),
        ("\ufeffein Drache".encode("utf-16-le"), ("ein Drache",)),
        ("\ufeffein Drache".encode("utf-16-be"), ("ein Drache",)),
        ("no mark here".encode("utf-16-le"), ("no mark here",)),
        ("no mark here".encode("utf-16-be"), ("no mark here",)),
        (b"caf\xe9 at night", ("caf\u00e9 at night",)),  # Windows-1252
        (b"a\0b \x07bell", ("a b bell",)),
        (b"", ()),
        (b" \r\n\t\n", ()),
        (b"one\r\ntwo\n\none\n", ("one", "two")),
        ("e\u0301".encode(), ("\u00e9",)),  # NFC
        ("\u202egnp.exe".encode(), ("gnp.exe",)),  # right-to-left override
        ("\U0001f469\u200d\U0001f692 at work".encode(), ("\U0001f469\u200d\U0001f692 at work",)),  # joiner kept
        ("\u05d0\u05d1".encode(), ("\u05d0\u05d1",)),
        ("caf\u00e9".encode()[:-1], ("caf",)),  # cut in a character
    ],
)
def test_files(data, expected):
    assert parse_caption_file(data) == expected


def test_a_megabyte_is_cut_at_a_word():
    (caption,) = parse_caption_file(b"dragon " * 150_000)
    assert len(caption) <= MAX_CHARACTERS
    assert caption.endswith(" dragon")
    (solid,) = parse_caption_file(b"x" * 1_000_000)
    assert solid == "x" * MAX_CHARACTERS


def test_many_lines_are_limited():
    assert len(parse_caption_file(b"\n".join(b"%d" % i for i in range(1000)))) == MAX_VARIANTS


def test_what_is_not_text_is_skipped():
    assert variants(["a", None, 3, ["b"], "a", " ", "\ud800"]) == ("a",)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data):
    for caption in parse_caption_file(data):
        assert caption == clean(caption)
        assert caption.isprintable() or "\u200d" in caption or "\u200c" in caption
        caption.encode("utf-8")  # no surrogates


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_clean_is_idempotent(text):
    once = clean(text)
    assert clean(once) == once
    assert "\n" not in once


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc", "Cf"]), min_size=1))
def test_utf8_round_trip(text):
    assert decode_text(text.encode("utf-8")) == text
