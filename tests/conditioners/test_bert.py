"""The jointly trained transformers of the published models: counts, names, tokens, and the released arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import BertTokenizer

from sfumato.conditioners import keys, wordpiece
from sfumato.conditioners.bert import BertConfig, BertEmbedding, BertText
from sfumato.conditioners.layout import Box, LayoutBoxes, LayoutConfig
from sfumato.errors import InputError

WORDS = [
    *wordpiece.MARKS,
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    "cat",
    "dog",
]
WORDS += ["photo", "of", "##graph", "cafe", "!", ",", ".", "'", "(", ")", "中", "文", "1", "##2", "##3", "painting", "##ing"]
TEXTS = [
    "a photo of cats",
    "A Photograph, of DOGS!",
    "café, naïve",
    "中文 cat",
    "don't (123)",
    "",
    "  \t\n x ",
    "😀 ok",
    "zz" * 300,
    "dog " * 30,
]
SMALL = BertConfig(dim=24, depth=2, length=12, vocabulary=len(WORDS), heads=2, head_channels=8)


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("config", "count"),
    [(BertConfig(), 581.99), (BertConfig(dim=640), 186.15), (LayoutConfig(), 58.86)],
    ids=["txt2img-1p4B", "text2img256", "layout2img-openimages256"],
)
def test_counts_of_the_published_models(config, count):
    with torch.device("meta"):
        embedding = BertEmbedding(config.transformer())
    assert millions(embedding) == pytest.approx(count, abs=0.0051)
    names = keys.bert_names(config.depth)
    assert set(names.values()) == set(embedding.state_dict())
    assert len(names) == 6 + 13 * config.depth


def released(state: dict[str, torch.Tensor], ids: torch.Tensor, depth: int, heads: int) -> torch.Tensor:
    """The released transformer in plain arithmetic on its own names (App. E.2.1, Eq. 18-20)."""
    at = lambda name: state[f"transformer.{name}"]  # noqa: E731
    norm = lambda h, name: F.layer_norm(h, h.shape[-1:], at(f"{name}.weight"), at(f"{name}.bias"))  # noqa: E731
    h = at("token_emb.weight")[ids] + at("pos_emb.emb.weight")[: ids.shape[1]]
    for n in range(2 * depth):
        name = f"attn_layers.layers.{n}"
        x = norm(h, f"{name}.0")
        if n % 2 == 0:
            q, k, v = (F.linear(x, at(f"{name}.1.to_{c}.weight")).unflatten(2, (heads, -1)).transpose(1, 2) for c in "qkv")
            weight = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
            x = F.linear((weight @ v).transpose(1, 2).flatten(2), at(f"{name}.1.to_out.weight"), at(f"{name}.1.to_out.bias"))
        else:
            x = F.linear(x, at(f"{name}.1.net.0.0.weight"), at(f"{name}.1.net.0.0.bias"))
            x = F.linear(F.gelu(x), at(f"{name}.1.net.2.weight"), at(f"{name}.1.net.2.bias"))
        h = h + x
    return norm(h, "norm")


@torch.no_grad()
def test_numbers_from_a_file_with_published_names():
    names = keys.bert_names(SMALL.depth)
    text = BertText(SMALL, wordpiece.bert_tokenizer(WORDS)).eval()
    shapes = {published: text.embedder.state_dict()[ours].shape for published, ours in names.items()}
    rng = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=rng) * 0.3 for name, shape in shapes.items()}
    text.embedder.load_state_dict(keys.renamed(state, names))
    ids = text.prepare(TEXTS)
    cond = text(ids)
    expected = released(state, ids, SMALL.depth, SMALL.heads)
    torch.testing.assert_close(cond.context, expected, atol=1e-5, rtol=1e-4)
    assert cond.mask is None
    back = keys.renamed(text.embedder.state_dict(), keys.inverse(names))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_renaming_is_strict():
    names = keys.bert_names(1)
    state = {name: torch.zeros(1) for name in names}
    with pytest.raises(InputError, match=r"'transformer\.odd'"):
        keys.renamed(state | {"transformer.odd": torch.zeros(1)}, names)
    state.pop("transformer.norm.bias")
    with pytest.raises(InputError, match=r"'transformer\.norm\.bias' is missing"):
        keys.renamed(state, names)


def test_ids_agree_with_transformers(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    oracle = BertTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert wordpiece.read_vocabulary(wordpiece.find_vocabulary(tmp_path)) == WORDS
    text = BertText(SMALL, wordpiece.bert_tokenizer(wordpiece.read_vocabulary(tmp_path / "vocab.txt")))
    for prompt in [*TEXTS, "[SEP] a [MASK] cat"]:
        expected = oracle(prompt, padding="max_length", truncation=True, max_length=12)["input_ids"]
        assert text.prepare([prompt])[0].tolist() == expected, prompt
    assert text.count_truncated(TEXTS) == 1  # thirty dogs; a word of 600 letters is one unknown piece
    assert torch.equal(text.null(2), text.prepare(["", ""]))


def test_vocabulary_that_is_missing_or_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"needs vocab\.txt of bert-base-uncased"):
        wordpiece.find_vocabulary()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "vocab.txt"))
    assert wordpiece.find_vocabulary() == tmp_path / "vocab.txt"
    with pytest.raises(InputError, match=r"expected vocab\.txt"):
        wordpiece.read_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        wordpiece.read_vocabulary(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match=r"lacks \[MASK\]"):
        wordpiece.bert_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    for vocabulary in (20, len(WORDS) + 1):
        with pytest.raises(InputError, match="expected BERT's own"):
            BertText(BertConfig(dim=8, depth=1, vocabulary=vocabulary), wordpiece.bert_tokenizer(WORDS))


SMALL_LAYOUT = LayoutConfig(dim=24, depth=1, heads=2, head_channels=8, num_classes=601)


def test_layout_tokens():
    layout = LayoutBoxes(SMALL_LAYOUT)
    boxes = (Box(5, 0.0, 0.0, 1.0, 1.0), Box(600, 0.5, 0.25, 0.25, 0.5, group=True))
    row = layout.prepare([boxes])[0].tolist()
    assert len(row) == 92
    # 90 x 90 sections: a corner (x, y) is 90 round(89 y) + round(89 x); 89 / 2 = 44.5 rounds to even, as Python does
    assert row[:6] == [5, 0, 8099, 600 + 601, 90 * round(22.25) + 44, 90 * round(66.75) + round(66.75)]
    assert row[6:90] == [8191] * 84
    assert row[90:] == [0, 8099]
    assert layout.prepare([()]).tolist() == layout.null(1).tolist()
    assert layout.prepare([]).shape == (0, 92)
    assert layout(layout.prepare([boxes, ()])).context.shape == (2, 92, 24)


def test_layout_refusals():
    layout = LayoutBoxes(SMALL_LAYOUT)
    box = Box(1, 0.1, 0.1, 0.2, 0.2)
    with pytest.raises(InputError, match="30 at most"):
        layout.prepare([(box,) * 31])
    with pytest.raises(InputError, match="0 to 600"):
        layout.prepare([(Box(601, 0, 0, 1, 1),)])
    with pytest.raises(InputError, match="needs num_classes"):
        LayoutBoxes(LayoutConfig(dim=8, depth=1)).prepare([(Box(1, 0, 0, 1, 1, group=True),)])
    for sides in ((0.9, 0, 0.2, 1), (0, -0.1, 1, 1), (0, 0, float("nan"), 1)):
        with pytest.raises(InputError, match="shares of the picture"):
            Box(0, *sides)
