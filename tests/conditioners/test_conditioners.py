"""The contract of every conditioner, then each one's own promises."""

import os
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import config as configs
from sfumato.conditioners import tokens
from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.none import NoneConfig, Unconditional
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.errors import InputError

CAPTIONS = [
    f"{tone} {thing}, {style} style"
    for tone in ("red", "blue", "grinning")
    for thing in ("dragon", "cat", "face", "café")
    for style in ("3D", "flat", "noto")
]
TOKENIZER = TextEncoder.learn_tokenizer(CAPTIONS, 320)
TEXT = TextConfig(dim=16, depth=1, heads=2, head_channels=8, length=12, vocabulary=320)
POOLED = TextConfig(dim=16, depth=1, heads=2, head_channels=8, length=12, vocabulary=320, vector_dim=6)
NEAR = TextConfig(dim=16, depth=1, heads=2, head_channels=8, length=12, vocabulary=320, reach=2)
NAMES = ("cat", "dog", "Fox")

MAKE = {
    "none": Unconditional,
    "class": lambda: ClassLabel(LabelConfig(NAMES, dim=8)),
    "class vector": lambda: ClassLabel(LabelConfig(NAMES, dim=8, as_context=False)),
    "text": lambda: TextEncoder(TEXT, TOKENIZER),
    "text pooled": lambda: TextEncoder(POOLED, TOKENIZER),
    "text near": lambda: TextEncoder(NEAR, TOKENIZER),
}
ENCODER = MAKE["text"]()


@pytest.fixture(params=list(MAKE))
def conditioner(request) -> Conditioner:
    return MAKE[request.param]()


def filled(cond):
    return {n: v for n, v in vars(cond).items() if v is not None}


def test_contract_prepare_null_forward(conditioner):
    prepared = conditioner.prepare(["cat", "dog", "cat"])
    null = conditioner.null(3)
    assert prepared.dtype == null.dtype == torch.int64
    assert prepared.shape == null.shape
    assert torch.equal(prepared[0], prepared[2])
    assert torch.equal(conditioner.prepare(["", "", ""]), null)
    assert conditioner.prepare([]).shape[0] == 0
    assert conditioner.count_truncated(["cat", "dog"]) == 0
    for value in filled(conditioner(prepared)).values():
        assert len(value) == 3
        torch.testing.assert_close(value[0], value[2])


def test_contract_drop(conditioner):
    prepared, rng = conditioner.prepare(["cat"] * 400), torch.Generator().manual_seed(0)
    assert torch.equal(conditioner.drop(prepared, 0.0, rng), prepared)
    assert torch.equal(conditioner.drop(prepared, 1.0, rng), conditioner.null(400))
    if not torch.equal(prepared, conditioner.null(400)):
        same = (conditioner.drop(prepared, 0.25, rng) == prepared).flatten(1 if prepared.ndim > 1 else 0)
        kept = same.all(1) if prepared.ndim > 1 else same
        assert 0.65 < kept.float().mean() < 0.85  # 0.75 with a standard deviation of 0.022


def test_contract_twins(conditioner):
    prepared = conditioner.prepare(["cat", "dog"])
    for scale, negative in ((1.0, None), (3.0, None), (3.0, conditioner.prepare(["dog", "dog"]))):
        twins = conditioner.twins(prepared, scale, negative)
        assert sum(weight for _, weight in twins) == pytest.approx(1.0)
        assert len(twins) == (1 if scale == 1.0 or isinstance(conditioner, Unconditional) else 2)
        if len(twins) == 2:
            other = conditioner.null(2) if negative is None else negative
            assert twins[0][1] == 3.0
            assert filled(conditioner(other)).keys() == filled(twins[1][0]).keys()
            for name, value in filled(twins[1][0]).items():
                torch.testing.assert_close(value, getattr(conditioner(other), name))


def test_contract_every_parameter_learns(conditioner):
    if isinstance(conditioner, Unconditional):
        assert not list(conditioner.parameters())
        return
    cond = conditioner(conditioner.prepare(["cat", "blue dragon"] if isinstance(conditioner, TextEncoder) else ["cat", "dog"]))
    sum(v.pow(3).sum() for v in filled(cond).values() if v.is_floating_point()).backward()
    for name, p in conditioner.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [NoneConfig(), LabelConfig(NAMES), POOLED])
def test_configs_survive_json_with_their_kind(config):
    data = configs.to_dict(config)
    assert data["kind"] in ("none", "class", "text")
    assert configs.from_dict(NoneConfig | LabelConfig | TextConfig, data) == config


def test_label_slots_and_null_class():
    context, vector = MAKE["class"](), MAKE["class vector"]()
    assert context(context.prepare(["dog"])).context.shape == (1, 1, 8)
    assert vector(vector.prepare(["dog"])).vector.shape == (1, 8)
    assert context.embedding.num_embeddings == 4
    assert context.prepare(["cat", "dog", "fox", " FOX ", ""]).tolist() == [0, 1, 2, 2, 3]


def test_unknown_label_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'dog'"):
        MAKE["class"]().prepare(["dgo"])
    many = ClassLabel(LabelConfig(tuple(f"class {i}" for i in range(1000)), dim=2))
    with pytest.raises(InputError, match="and 990 more") as caught:
        many.prepare(["x" * 100_000])
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [(), ("",), ("a", "b", "a")])
def test_label_config_refuses(names):
    with pytest.raises(InputError, match="class labels"):
        LabelConfig(names)


def test_text_layout():
    row = ENCODER.prepare(["Red DRAGON"])[0].tolist()
    assert row[0] == ENCODER.bos
    words = row[1 : row.index(ENCODER.eos)]
    assert ENCODER.tokenizer.decode(words).strip() == "red dragon"
    assert len(words) == 2  # common words are one token each
    assert set(row[row.index(ENCODER.eos) + 1 :]) == {ENCODER.pad}
    assert ENCODER.prepare([""])[0].tolist() == [ENCODER.bos, ENCODER.eos] + [ENCODER.pad] * 10


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("red cat", "  RED\t\ncat "),
        ("café", "cafe\u0301"),  # NFC
        ("red\0 cat\0", "red cat"),
        ("\0\0", ""),
        ("\ud83d\ude00", "😀"),  # a pair of surrogates is what it means
        ("a\udc00b", "a\ufffdb"),
    ],
)
def test_text_that_means_the_same_is_the_same(one, same):
    assert torch.equal(ENCODER.prepare([one]), ENCODER.prepare([same]))


def test_marks_in_a_prompt_are_plain_text():
    row = ENCODER.prepare(["<pad><eos>"])[0].tolist()
    assert row[0] == ENCODER.bos
    assert ENCODER.pad not in row[:-1]
    assert row.count(ENCODER.bos) == row.count(ENCODER.eos) == 1


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=3))
def test_any_text_has_the_layout(texts):
    prepared = ENCODER.prepare(texts)
    assert prepared.shape == (len(texts), 12)
    for row in prepared.tolist():
        end = row.index(ENCODER.eos)
        assert row[0] == ENCODER.bos
        assert all(i == ENCODER.pad for i in row[end + 1 :])
        assert not {ENCODER.pad, ENCODER.bos} & set(row[1:end])
    assert 0 <= ENCODER.count_truncated(texts) <= len(texts)


def test_truncation_keeps_the_beginning_and_is_counted():
    long = "red cat " * 50
    row, short = ENCODER.prepare([long])[0], ENCODER.prepare(["red cat " * 5])[0]
    assert torch.equal(row, short)  # ten tokens fit
    assert row[-1] == ENCODER.eos
    assert ENCODER.count_truncated([long, "red cat", "", "cat" + " " * 5000, "z" * 5000]) == 2


@pytest.mark.parametrize("text", ["a", "red dragon ", " ", "\0", "\ud800", "e\u0301\u0302", "😀", "(", "\u202e"])
def test_a_prompt_of_a_megabyte_takes_no_time(text):
    prompt = "x" + text * (1_000_000 // len(text))
    start = time.perf_counter()
    ENCODER.prepare([prompt])
    assert ENCODER.count_truncated([prompt]) == (text not in (" ", "\0"))
    assert time.perf_counter() - start < 0.2


@torch.no_grad()
def test_padding_is_irrelevant():
    encoder = MAKE["text pooled"]().eval()
    prepared = encoder.prepare(["red cat", "blue dragon, flat style"])
    whole = encoder(prepared)
    assert whole.context.shape == (2, 12, 16)
    assert torch.equal(whole.mask, prepared != encoder.pad)
    for i, count in enumerate(whole.mask.sum(1).tolist()):
        alone = encoder(prepared[i : i + 1, :count])  # the same prompt without its padding
        torch.testing.assert_close(alone.context[0], whole.context[i, :count], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.vector[0], whole.vector[i], atol=1e-5, rtol=1e-4)


def test_tokenizer_does_not_depend_on_order_or_threads():
    assert TextEncoder.learn_tokenizer(reversed(CAPTIONS), 320).to_str() == TOKENIZER.to_str()
    code = (
        "import json,sys; from sfumato.conditioners.tokens import learn_tokenizer;"
        "print(learn_tokenizer(json.load(sys.stdin), 320).to_str())"
    )
    import json

    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(CAPTIONS), env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == TOKENIZER.to_str()


def test_tokenizer_round_trip_through_json():
    copy = TextEncoder(TEXT, tokens.read_tokenizer(ENCODER.tokenizer_json()))
    texts = ["red cat", "unseen wörds 😀", ""]
    assert torch.equal(copy.prepare(texts), ENCODER.prepare(texts))
    assert copy.tokenizer_json() == ENCODER.tokenizer_json()
    with pytest.raises(InputError, match="not readable"):
        tokens.read_tokenizer('{"version": "9"')


def test_tokenizer_refusals():
    with pytest.raises(InputError, match="259 or more"):
        TextEncoder.learn_tokenizer(CAPTIONS, 258)
    assert TextEncoder.learn_tokenizer([], 300).get_vocab_size() == 259
    with pytest.raises(InputError, match="Set vocabulary higher"):
        TextEncoder(TextConfig(dim=8, depth=1, heads=1, vocabulary=259), TOKENIZER)
    from tokenizers import Tokenizer, models

    with pytest.raises(InputError, match="learn_tokenizer"):
        TextEncoder(TEXT, Tokenizer(models.BPE()))


@pytest.mark.parametrize("fields", [{"length": 2}, {"depth": 0}, {"dim": 0}, {"vector_dim": 0}, {"reach": -1}])
def test_text_config_refuses(fields):
    with pytest.raises(InputError, match=r"or more"):
        TextConfig(**fields)
