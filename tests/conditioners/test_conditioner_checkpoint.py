"""A conditioner out of a checkpoint with published names, and back, number for number."""

from dataclasses import replace

import pytest
import torch

from sfumato.build import build_conditioner
from sfumato.conditioners import checkpoint, wordpiece
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.checkpoint import Statistics, from_checkpoint, to_checkpoint
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.published import with_text
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import SizesConfig
from sfumato.errors import InputError
from sfumato.networks.clip import ClipTextConfig, ClipVisionConfig

JSON = wordpiece.bert_tokenizer([*wordpiece.MARKS, "cat"]).to_str()
L = ClipTextConfig(dim=8, layers=2, heads=2)
H = replace(L, pad="zero", projection=6, skip=1)
SD2 = ClipTextsConfig((H,))
XL = ClipTextsConfig((replace(L, skip=1), H), vector=True, null="zeros")
VISION = ClipVisionConfig(dim=8, layers=1, heads=2, hidden=12, projection=6, patch=14, size=28)

# config: some of the names that the released checkpoint has
CASES = {
    "cin": (ClassEmbedderConfig(5, 4), ["cond_stage_model.embedding.weight"]),
    "semantic": (SegmentationConfig(5), ["cond_stage_model.channel_mapper.weight"]),
    "bert": (
        BertConfig(dim=8, depth=2, vocabulary=6, heads=2, head_channels=4),
        [
            "cond_stage_model.transformer.token_emb.weight",
            "cond_stage_model.transformer.pos_emb.emb.weight",
            "cond_stage_model.transformer.attn_layers.layers.2.1.to_out.bias",
            "cond_stage_model.transformer.attn_layers.layers.3.1.net.0.0.weight",
            "cond_stage_model.transformer.to_logits.bias",
        ],
    ),
    "layout": (LayoutConfig(dim=8, depth=1, heads=2, head_channels=4), ["cond_stage_model.transformer.norm.weight"]),
    "sd1": (
        ClipTextsConfig((L,)),
        [
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
            "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.q_proj.weight",
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
        ],
    ),
    "sd2": (
        SD2,
        [
            "cond_stage_model.model.positional_embedding",
            "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight",
            "cond_stage_model.model.text_projection",
            "cond_stage_model.model.ln_final.weight",
        ],
    ),
    "sd2 inpainting": (with_text(SD2, "mask", MaskedImageConfig()), ["cond_stage_model.model.token_embedding.weight"]),
    "x4": (with_text(SD2, "small", NoisedLowResolutionConfig()), ["cond_stage_model.model.ln_final.bias"]),
    "sdxl": (
        with_text(XL, "sizes", SizesConfig()),
        [
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
            "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight",
        ],
    ),
    "unclip": (
        with_text(SD2, "image", ImageEmbeddingConfig(VISION)),
        ["embedder.model.visual.conv1.weight", "embedder.model.visual.proj", "cond_stage_model.model.ln_final.bias"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name):
    config, published = CASES[name]
    torch.manual_seed(0)
    conditioner = build_conditioner(config, JSON, lambda x: x)
    state = conditioner.state_dict()
    there = to_checkpoint(config, state)
    assert set(published) <= set(there)
    assert all(key.startswith(checkpoint.PREFIXES) for key in there)
    others = {"model.diffusion_model.out.0.weight": torch.zeros(1), "first_stage_model.encoder.conv_in.bias": torch.zeros(1)}
    back = from_checkpoint(config, there | others)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    again = to_checkpoint(config, back)
    assert again.keys() == there.keys()
    assert all(torch.equal(again[key], value) for key, value in there.items())


def test_unused_keys_of_the_released_files_are_left_out():
    config = with_text(SD2, "image", ImageEmbeddingConfig(VISION))
    there = to_checkpoint(config, build_conditioner(config).state_dict())
    extra = {"cond_stage_model.model.logit_scale": torch.zeros(()), "embedder.model.ln_final.bias": torch.zeros(8)}
    given = Statistics(torch.full((6,), 0.5), torch.full((6,), 2.0))
    state = from_checkpoint(config, there | extra, given)
    build_conditioner(config).load_state_dict(state)
    assert torch.equal(state["parts.image.mean"], given.mean)
    assert torch.equal(state["parts.image.std"], given.std)
    sd1 = ClipTextsConfig((L,))
    there = to_checkpoint(sd1, build_conditioner(sd1).state_dict())
    ids = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    assert from_checkpoint(sd1, there | ids).keys() == build_conditioner(sd1).state_dict().keys()


def test_what_has_no_weights_and_what_is_missing():
    for config in (NoneConfig(), MaskedImageConfig(), SizesConfig()):
        assert from_checkpoint(config, {}) == to_checkpoint(config, {}) == {}
    with pytest.raises(InputError, match=r"has no cond_stage_model\.model\.\*"):
        from_checkpoint(SD2, {"first_stage_model.decoder.conv_in.bias": torch.zeros(1)})
    with pytest.raises(InputError, match="unexpected key"):
        from_checkpoint(ClassEmbedderConfig(), {"cond_stage_model.embedding.bias": torch.zeros(1)})
