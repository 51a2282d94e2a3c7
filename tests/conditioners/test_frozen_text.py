"""Frozen text encoders: CLIP, T5 and BERT from transformers' folders, beside transformers itself, in training and after it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sfumato.cli.main import main
from sfumato.conditioners.frozen_text import FrozenText, FrozenTextConfig
from sfumato.config import from_dict, override, to_dict
from sfumato.errors import InputError
from sfumato.generation.pipeline import load
from sfumato.networks.frozen_text import encoder_facts
from sfumato.recipes import RECIPES
from sfumato.training.config import RunConfig
from sfumato.training.run import train
from tiny_runs import CPU

transformers = pytest.importorskip("transformers")
WORDS = ["<pad>", "<s>", "</s>", "a", "red", "green", "disc", "square"]


def write_tokenizer(folder: Path) -> None:
    """Whole words; <s> before a text and </s> after it."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_encoder(folder: Path, kind: str, seed: int = 0) -> Any:
    """A small random encoder of that kind, saved as transformers saves it."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0)
        network = transformers.T5EncoderModel(config)
    elif kind == "clip":
        config = transformers.CLIPTextConfig(
            vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        network = transformers.CLIPTextModel(config)
    else:
        config = transformers.BertConfig(
            vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=0
        )
        network = transformers.BertModel(config)
    network.eval().save_pretrained(folder)
    write_tokenizer(folder)
    return network


def conditioner(folder: Path, **fields: Any) -> FrozenText:
    facts = encoder_facts(str(folder))
    return FrozenText(FrozenTextConfig(source=str(folder), length=8, dim=facts.dim, digest=facts.digest, **fields))


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_states_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path / kind, kind)
    ours = conditioner(tmp_path / kind, vector_dim=4)
    prepared = ours.prepare(["a red disc", "green"])
    assert prepared[:, 0].tolist() == [[1, 3, 4, 6, 2, 0, 0, 0], [1, 5, 2, 0, 0, 0, 0, 0]]
    assert prepared[:, 1].sum(1).tolist() == [5, 3]
    with torch.no_grad():
        said = ours(prepared)
        wanted = theirs(input_ids=prepared[:, 0], attention_mask=prepared[:, 1]).last_hidden_state
    torch.testing.assert_close(said.context, wanted)
    assert torch.equal(said.mask, prepared[:, 1].bool())
    mean = torch.stack([wanted[0, :5].mean(0), wanted[1, :3].mean(0)])
    torch.testing.assert_close(said.vector, ours.pool(mean))
    assert [name for name, _ in ours.named_parameters()] == list(ours.state_dict()) == ["pool.weight", "pool.bias"]
    assert copy.deepcopy(ours)._opened().encoder is ours._opened().encoder  # an average holds it once


def test_long_texts_lose_their_end_and_are_counted(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert")
    ours = conditioner(tmp_path)
    prepared = ours.prepare(["red " * 20])
    assert prepared[0, 0].tolist() == [1, 4, 4, 4, 4, 4, 4, 2]
    assert ours.count_truncated(["red " * 20, "red"]) == 1
    assert torch.equal(ours.null(2), ours.prepare(["", ""]))


def test_a_model_trains_over_it_saves_without_it_and_refuses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    data, encoder, out = tmp_path / "data", tmp_path / "encoder", tmp_path / "run"
    data.mkdir()
    for index in range(24):
        colour = ("red", "green")[index % 2]
        Image.new("RGB", (32, 32), colour).save(data / f"{index}.png")
        (data / f"{index}.txt").write_text(f"a {colour} square")
    write_encoder(encoder, "t5")
    assignments = [
        f"prior.conditioner.source={json.dumps(str(encoder))}", "prior.train.steps=4", "first_stage.train.steps=4",
        "first_stage.loss.gan_start=never", "prior.conditioner.vector_dim=8",
    ]  # fmt: skip
    config = from_dict(RunConfig, override(to_dict(RECIPES["frozen-text-tiny"]()), assignments))
    train(config, data, out, CPU, quiet=True)
    pipe = load(out, "cpu")
    assert pipe.model.conditioner.config.digest == encoder_facts(str(encoder)).digest
    assert not any("encoder.block" in name for name in pipe.model.state_dict())
    red, green = pipe.generate(["a red square", "a green square"], seed=1)
    assert red.tobytes() != green.tobytes()
    write_encoder(encoder, "t5", seed=1)
    capsys.readouterr()
    assert main(["generate", "a red square", "--model", str(out), "--out", str(tmp_path / "x.png"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds another encoder" in said
    assert not (tmp_path / "x.png").exists()


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source is empty"):
        encoder_facts("")
    with pytest.raises(InputError, match="is no folder"):
        encoder_facts(str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        encoder_facts(str(tmp_path / "bare"))
    write_encoder(tmp_path / "bert", "bert")
    (tmp_path / "bert" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        encoder_facts(str(tmp_path / "bert"))
    write_tokenizer(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        encoder_facts(str(tmp_path / "bert"))
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert", "hidden_size": 24}')
    facts = encoder_facts(str(tmp_path / "bert"))
    wrong = FrozenText(FrozenTextConfig(source=str(tmp_path / "bert"), dim=facts.dim, digest=facts.digest))
    with pytest.raises(InputError, match="not an encoder that transformers reads"):
        wrong.prepare(["a"])
