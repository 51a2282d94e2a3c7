"""What each network promises beside its numbers: shapes, gradients, layouts, number types, masks, errors."""

import dataclasses

import pytest
import torch

from sfumato import config as configs
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.networks.patchgan import PatchGAN, PatchGANConfig
from sfumato.networks.text_transformer import TextTransformer, TextTransformerConfig
from sfumato.networks.unet import UNet, UNetConfig

PLAIN = UNetConfig(4, 4, 48, (1, 2), 1, attention_factors=(2,), head_channels=None, num_heads=4)
FULL = UNetConfig(
    in_channels=4,
    out_channels=8,
    channels=48,
    multipliers=(1, 2),
    num_res_blocks=1,
    attention_factors=(1, 2),
    transformer_depth=2,
    context_dim=10,
    vector_dim=6,
    concat_channels=3,
    head_channels=24,
    scale_shift=True,
    resblock_updown=True,
    linear_projection=True,
    qk_norm=True,
)
SDXL_LIKE = UNetConfig(
    4, 4, 48, (1, 2, 4), 1, attention_factors=(2, 4), transformer_depth=(0, 1, 3), context_dim=10, vector_dim=6, head_channels=8
)
UPSCALER_LIKE = UNetConfig(
    4, 4, 48, (1, 2, 2), 1, attention_factors=(2, 4), context_dim=10, concat_channels=3, num_classes=7, head_channels=8,
    disable_self_attentions=(True, True, False),
)  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shake(module):
    """Away from the zeros in which residual branches start, so that everything matters."""
    g = rng(5)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.03)
    return module


def unet_inputs(config: UNetConfig, batch: int = 2):
    x, time = torch.randn(batch, config.in_channels, 8, 8, generator=rng()), torch.tensor([3, 950])[:batch]
    if config is PLAIN:
        return x, time, Conditioning()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    return (
        x,
        time,
        Conditioning(
            context=torch.randn(2, 5, 10, generator=rng(1)),
            mask=mask,
            concat=torch.randn(2, 3, 8, 8, generator=rng(2)),
            vector=torch.randn(2, 6, generator=rng(3)),
        ),
    )


def assert_every_parameter_learns(module, exact_zero=()):
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        if not name.endswith(tuple(exact_zero)):
            assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_unet_starts_at_zero_and_every_parameter_learns(config):
    unet = UNet(config)
    inputs = unet_inputs(config)
    out = unet(*inputs)
    assert out.shape == (2, config.out_channels, 8, 8)
    assert out.abs().max() == 0
    shake(unet)(*inputs).square().sum().backward()
    assert_every_parameter_learns(unet)


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_unet_checkpointing_gives_the_same_gradients(config):
    unet, inputs = shake(UNet(config)), unet_inputs(config)
    grads = []
    for flag in (False, True):
        unet.checkpointing = flag
        unet.zero_grad()
        unet(*inputs).square().sum().backward()
        grads.append([p.grad.clone() for p in unet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("config", [PLAIN, FULL])
@torch.no_grad()
def test_unet_in_bf16_and_channels_last(config):
    unet, (x, time, cond) = shake(UNet(config)).eval(), unet_inputs(config)
    wanted = unet(x, time, cond)
    last = unet.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), time, cond)
    torch.testing.assert_close(last, wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = unet(x, time, cond)
    whole = unet.bfloat16()(x.bfloat16(), time, cond.to(dtype=torch.bfloat16))
    for out in (cast, whole):  # bf16 keeps 8 bits: 0.4 % a rounding, some dozens of them
        assert out.dtype == torch.bfloat16
        assert (out.float() - wanted).norm() / wanted.norm() < 0.05


@torch.no_grad()
def test_unet_does_not_see_masked_context():
    unet, (x, time, cond) = shake(UNet(FULL)).eval(), unet_inputs(FULL)
    hidden = torch.where(cond.mask[..., None], cond.context, torch.tensor(77.0))
    moved = Conditioning(hidden, cond.mask, cond.concat, cond.vector)
    torch.testing.assert_close(unet(x, time, moved), unet(x, time, cond))
    unmasked = Conditioning(hidden, None, cond.concat, cond.vector)
    assert not torch.allclose(unet(x, time, unmasked), unet(x, time, cond))


@torch.no_grad()
@pytest.mark.parametrize("slot", ["context", "concat", "vector"])
def test_unet_listens_to_each_slot(slot):
    unet, (x, time, cond) = shake(UNet(FULL)).eval(), unet_inputs(FULL)
    slots = {name: getattr(cond, name) for name in ("context", "mask", "concat", "vector")}
    other = Conditioning(**slots | {slot: slots[slot] + 1})
    assert not torch.allclose(unet(x, time, other), unet(x, time, cond), atol=1e-4)
    with pytest.raises(AssertionError, match=slot):
        unet(x, time, Conditioning(**slots | {slot: None}))


def test_transformer_depth_is_by_level_and_the_last_is_the_middles():
    with torch.device("meta"):
        depths = [len(t.blocks) for t in UNet(SDXL_LIKE).transformers()]
    assert depths == [1, 3, 3, 3, 3, 1, 1]  # one block down, the middle, two blocks up at each level


def test_disabled_self_attention_reads_the_context():
    with torch.device("meta"):
        sources = [t.blocks[0].attn1.to_k.in_features for t in UNet(UPSCALER_LIKE).transformers()]
    assert sources == [10, 96, 96, 96, 96, 10, 10]  # the smallest size and the middle keep theirs


@torch.no_grad()
def test_classes_are_looked_up_and_added():
    unet = shake(UNet(UPSCALER_LIKE)).eval()
    x, time = torch.randn(2, 4, 8, 8, generator=rng()), torch.tensor([3, 950])
    slots = {"context": torch.randn(2, 5, 10, generator=rng(1)), "concat": torch.randn(2, 3, 8, 8, generator=rng(2))}
    first, last = (unet(x, time, Conditioning(vector=torch.tensor(k), **slots)) for k in ([2, 2], [2, 5]))
    torch.testing.assert_close(first[0], last[0])
    assert not torch.allclose(first[1], last[1], atol=1e-4)
    with torch.no_grad():
        unet.label_embed.weight[5] = unet.label_embed.weight[2]
    torch.testing.assert_close(unet(x, time, Conditioning(vector=torch.tensor([2, 5]), **slots)), first)


@torch.no_grad()
def test_unet_compiles_in_one_graph():
    config = dataclasses.replace(FULL, attention_factors=(), transformer_depth=1)  # attention stays in the middle
    unet, inputs = shake(UNet(config)).eval(), unet_inputs(config)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), unet(*inputs))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_channels": 32, "num_heads": 4}, "give one"),
        ({"head_channels": 20}, "does not divide"),
        ({"attention_factors": (3,)}, r"\[1, 2, 4, 8\]"),
        ({"attention_factors": (16,)}, r"\[1, 2, 4, 8\]"),
        ({"num_res_blocks": 0}, "1 or more"),
        ({"multipliers": ()}, "multipliers"),
        ({"transformer_depth": 0}, "transformer_depth is 0"),
        ({"transformer_depth": (1, 2)}, "one for all levels, or 4"),
        ({"transformer_depth": (0, 0, 1, 1)}, "transformer_depth is 0 at level 1"),
        ({"transformer_depth": (0, 1, 1, 0), "attention_factors": (2, 4)}, "transformer_depth is 0 at level 3"),
        ({"disable_self_attentions": (True,), "context_dim": 8}, "one a level"),
        ({"disable_self_attentions": (True, False, False, False)}, "context_dim"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 10, "vector_dim": 4}, "give one"),
    ],
)
def test_unet_config_refuses(fields, words):
    with pytest.raises(InputError, match=words):
        UNetConfig(3, 3, **fields)


@pytest.mark.parametrize(
    "config",
    [
        FULL,
        SDXL_LIKE,
        UPSCALER_LIKE,
        AutoencoderConfig(multipliers=(1, 2)),
        PatchGANConfig(norm="group"),
        TextTransformerConfig(300, 32, 2, reach=3),
    ],
)
def test_configs_survive_json(config):
    assert configs.from_dict(type(config), configs.to_dict(config)) == config


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("image_channels", [1, 4])
def test_autoencoder_shapes_at_every_factor(levels, image_channels):
    config = AutoencoderConfig(image_channels, 8, (1,) * levels, 1, (2 ** (levels - 1),), latent_channels=3)
    assert config.factor == 2 ** (levels - 1)
    x = torch.randn(2, image_channels, 32, 64, generator=rng())
    encoder, decoder = Encoder(config), Decoder(config)
    moments = encoder(x)
    assert moments.shape == (2, encoder.out_channels, 32 // config.factor, 64 // config.factor)
    assert encoder.out_channels == 6
    assert decoder(moments[:, :3]).shape == x.shape


def test_autoencoder_every_parameter_learns():
    config = AutoencoderConfig(2, 48, (1, 2), 1, (1,), double_moments=False)
    encoder, decoder = Encoder(config), Decoder(config)
    decoder(encoder(torch.randn(2, 2, 8, 8, generator=rng()))).square().sum().backward()
    # a shift of all keys changes no attention weight: the gradient of its bias is zero in exact arithmetic
    for network in (encoder, decoder):
        assert_every_parameter_learns(network, exact_zero=(".k.bias",))
    assert decoder.last_layer is decoder.conv_out.weight
    assert encoder.out_channels == 4


def test_autoencoder_checkpointing_gives_the_same_gradients():
    config = AutoencoderConfig(2, 16, (1, 2), 1, latent_channels=2, double_moments=False)
    encoder, decoder = Encoder(config), Decoder(config)
    x = torch.randn(1, 2, 8, 8, generator=rng())
    grads = []
    for flag in (False, True):
        encoder.checkpointing = decoder.checkpointing = flag
        encoder.zero_grad()
        decoder(encoder(x)).square().sum().backward()
        grads.append([p.grad.clone() for p in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@torch.no_grad()
def test_autoencoder_in_bf16_and_channels_last():
    config = AutoencoderConfig(channels=32, multipliers=(1, 2), num_res_blocks=1)
    encoder, decoder = Encoder(config).eval(), Decoder(config).eval()
    x = torch.randn(2, 3, 16, 16, generator=rng())
    wanted = decoder(encoder(x)[:, :4])
    for network in (encoder, decoder):
        network.to(memory_format=torch.channels_last)
    last = decoder(encoder(x.to(memory_format=torch.channels_last))[:, :4])
    torch.testing.assert_close(last, wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = decoder(encoder(x)[:, :4])
    assert cast.dtype == torch.bfloat16
    assert (cast.float() - wanted).norm() / wanted.norm() < 0.05


def test_autoencoder_config_refuses():
    with pytest.raises(InputError, match=r"\[1, 2\]"):
        AutoencoderConfig(multipliers=(1, 2), attention_resolution_factors=(4,))
    with pytest.raises(InputError, match="latent_channels is 0"):
        AutoencoderConfig(latent_channels=0)


def test_patchgan_count_is_the_published_one():
    # 4x4 convolutions 3-64-128-256-512-1; biases on the first and last, two vectors a batch norm
    wanted = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1 + 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in PatchGAN(PatchGANConfig()).parameters()) == wanted


@pytest.mark.parametrize(("num_layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_patchgan_receptive_field(num_layers, field):
    """Isola et al. 2017, App. 6.1.2: 16, 34 and 70 pixels for one, two and three layers."""
    config = PatchGANConfig(channels=4, num_layers=num_layers, norm="none")
    x = torch.randn(1, 3, 128, 128, generator=rng(), requires_grad=True)
    logits = PatchGAN(config)(x)
    assert logits.shape == (1, 1, config.side(128), config.side(128))
    middle = config.side(128) // 2
    logits[0, 0, middle, middle].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == field


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_patchgan_learns_and_tells_its_smallest_picture(norm):
    config = PatchGANConfig(image_channels=2, channels=64, num_layers=2, norm=norm)
    network = PatchGAN(config)
    assert config.smallest == 12
    network(torch.randn(2, 2, 12, 17, generator=rng())).square().sum().backward()
    # a norm takes away a constant: the bias before it has no gradient where a group or batch is one channel
    assert_every_parameter_learns(network)
    with pytest.raises(InputError, match="12 or more a side"):
        network(torch.zeros(1, 2, 11, 32))


def test_patchgan_with_group_norm_sees_each_picture_alone():
    network = PatchGAN(PatchGANConfig(channels=16, norm="group"))
    x = torch.randn(3, 3, 32, 32, generator=rng())
    torch.testing.assert_close(network(x)[:1], network(x[:1]), atol=1e-5, rtol=1e-4)
    assert not list(network.buffers())


def test_text_transformer_is_torchs_encoder():
    config = TextTransformerConfig(50, dim=32, depth=2, heads=4, head_channels=8, length=9)
    ours = shake(TextTransformer(config)).eval()
    layer = torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(32), enable_nested_tensor=False).eval()
    with torch.no_grad():
        theirs.norm.load_state_dict(ours.norm.state_dict())
        for a, b in zip(ours.blocks, theirs.layers, strict=True):
            b.norm1.load_state_dict(a.norm1.state_dict())
            b.norm2.load_state_dict(a.norm2.state_dict())
            b.linear1.load_state_dict(a.ff.project.state_dict())
            b.linear2.load_state_dict(a.ff.out.state_dict())
            b.self_attn.in_proj_weight.copy_(torch.cat([m.weight for m in (a.attn.to_q, a.attn.to_k, a.attn.to_v)]))
            b.self_attn.in_proj_bias.zero_()
            b.self_attn.out_proj.load_state_dict(a.attn.to_out.state_dict())
        ids = torch.randint(50, (3, 7), generator=rng())
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6]).bool()
        start = ours.tokens.weight[ids] + ours.positions.weight[:7]
        wanted = theirs(start, src_key_padding_mask=~mask)
        torch.testing.assert_close(ours(ids, mask)[mask], wanted[mask], atol=1e-5, rtol=1e-4)


def test_text_transformer_reach_is_a_sum_over_neighbours_without_padding():
    config = TextTransformerConfig(50, dim=8, depth=1, heads=1, head_channels=8, length=9, reach=2)
    network = shake(TextTransformer(config)).double()
    block = network.blocks[0]
    with torch.no_grad():
        for layer in (block.attn.to_out, block.ff.out):  # what is left is the convolution
            layer.weight.zero_()
            layer.bias.zero_()
        ids, count = torch.randint(50, (1, 9), generator=rng()), 6
        mask = torch.arange(9)[None] < count
        h = (network.tokens.weight[ids[0]] + network.positions.weight)[:count]
        seen = block.norm0(h)
        wanted = h.clone()
        for i in range(count):
            wanted[i] += block.conv.bias
            for offset in (-2, -1, 0, 1, 2):
                if 0 <= i + offset < count:
                    wanted[i] += block.conv.weight[:, :, offset + 2] @ seen[i + offset]
        torch.testing.assert_close(network(ids, mask)[0, :count], network.norm(wanted), atol=1e-12, rtol=1e-9)


def test_text_transformer_without_reach_has_no_parameters_for_it():
    config = TextTransformerConfig(50, dim=8, depth=1, heads=1, head_channels=8, length=9)
    plain, near = (set(TextTransformer(c).state_dict()) for c in (config, dataclasses.replace(config, reach=1)))
    assert near - plain == {f"blocks.0.{name}" for name in ("norm0.weight", "norm0.bias", "conv.weight", "conv.bias")}
    assert plain < near


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("gated", [False, True])
def test_text_transformer_learns_everywhere_also_with_checkpointing(gated, reach):
    config = TextTransformerConfig(20, dim=16, depth=2, heads=2, head_channels=8, length=5, gated=gated, reach=reach)
    network = TextTransformer(config)
    ids = torch.arange(15).view(3, 5)
    grads = []
    for flag in (False, True):
        network.checkpointing = flag
        network.zero_grad()
        network(ids).pow(3).sum().backward()
        assert_every_parameter_learns(network)
        grads.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
