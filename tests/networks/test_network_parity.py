"""The same random weights in diffusers' networks give the same numbers.

Tolerance 1e-4 absolute on outputs of order 1: fp32 sums in another order (about 1e-6 a layer) through some thirty layers.
diffusers' mask is a bias of -10000 in place of minus infinity, which is the same in fp32.
"""

import pytest
import torch

from sfumato.conditioning import Conditioning
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.networks.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights also where a network starts from zeros or ones, about 1 / sqrt(fan-in) as usual."""
    g = rng(3)
    with torch.no_grad():
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.1 * noise)
    return network.eval().state_dict()


class Taker:
    """Hands out a state dict prefix by prefix and knows what is left."""

    def __init__(self, source):
        self.source, self.target = dict(source), {}

    def take(self, theirs: str, ours: str, reshape=lambda w: w) -> None:
        for end in ("weight", "bias"):
            if f"{theirs}.{end}" in self.source:
                value = self.source.pop(f"{theirs}.{end}")
                self.target[f"{ours}.{end}"] = reshape(value) if end == "weight" else value

    def resnet(self, theirs: str, ours: str) -> None:
        names = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
        for a, b in (names | {"conv_shortcut": "skip", "time_emb_proj": "time"}).items():
            self.take(f"{theirs}.{a}", f"{ours}.{b}")

    def attention(self, theirs: str, ours: str) -> None:
        for a, b in {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}.items():
            self.take(f"{theirs}.{a}", f"{ours}.{b}")

    def spatial(self, theirs: str, ours: str, depth: int) -> None:
        for name in ("norm", "proj_in", "proj_out"):
            self.take(f"{theirs}.{name}", f"{ours}.{name}")
        for i in range(depth):
            a, b = f"{theirs}.transformer_blocks.{i}", f"{ours}.blocks.{i}"
            for name in ("norm1", "norm2", "norm3"):
                self.take(f"{a}.{name}", f"{b}.{name}")
            self.attention(f"{a}.attn1", f"{b}.attn1")
            self.attention(f"{a}.attn2", f"{b}.attn2")
            self.take(f"{a}.ff.net.0.proj", f"{b}.ff.project")
            self.take(f"{a}.ff.net.2", f"{b}.ff.out")

    def joint(self, theirs: str, ours: str, heads: int) -> None:
        """Three linear maps -> one 1-d convolution whose channels are ordered head, (q, k, v), d."""
        self.take(f"{theirs}.group_norm", f"{ours}.norm")
        self.take(f"{theirs}.to_out.0", f"{ours}.proj_out", lambda w: w[..., None])
        for end in ("weight", "bias"):
            parts = [self.source.pop(f"{theirs}.to_{x}.{end}").unflatten(0, (heads, -1)) for x in "qkv"]
            joined = torch.stack(parts, dim=1).flatten(0, 2)
            self.target[f"{ours}.qkv.{end}"] = joined[..., None] if end == "weight" else joined

    def into(self, network: torch.nn.Module) -> torch.nn.Module:
        assert not self.source, f"not taken: {list(self.source)[:5]}"
        network.load_state_dict(self.target)
        return network.eval()


def plain_attention(taker: Taker, theirs: str, ours: str) -> None:
    taker.take(f"{theirs}.group_norm", f"{ours}.norm")
    for a, b in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        taker.take(f"{theirs}.{a}", f"{ours}.{b}", lambda w: w[:, :, None, None])


@pytest.mark.parametrize("levels", [1, 3])
def test_autoencoder(levels):
    widths = (32, 32, 64)[:levels]
    theirs = diffusers.AutoencoderKL(
        in_channels=5,
        out_channels=5,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    state = randomise(theirs)
    config = AutoencoderConfig(image_channels=5, channels=32, multipliers=tuple(w // 32 for w in widths))

    encoder = Taker({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    decoder = Taker({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    for taker in (encoder, decoder):
        for a, b in {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}.items():
            taker.take(a, b)
        taker.resnet("mid_block.resnets.0", "mid.0")
        plain_attention(taker, "mid_block.attentions.0", "mid.1")
        taker.resnet("mid_block.resnets.1", "mid.2")
    for level in range(levels):
        for i in range(2):
            encoder.resnet(f"down_blocks.{level}.resnets.{i}", f"down.{level}.{i}")
        encoder.take(f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.2.conv")
        for i in range(3):
            decoder.resnet(f"up_blocks.{level}.resnets.{i}", f"up.{level}.{i}")
        decoder.take(f"up_blocks.{level}.upsamplers.0.conv", f"up.{level}.3.conv")
    ours_e, ours_d = encoder.into(Encoder(config)), decoder.into(Decoder(config))

    with torch.no_grad():
        x = torch.randn(2, 5, 16, 24, generator=rng())
        torch.testing.assert_close(ours_e(x), theirs.encoder(x), **TOLERANCE)
        z = torch.randn(2, 4, 4, 6, generator=rng(1))
        torch.testing.assert_close(ours_d(z), theirs.decoder(z), **TOLERANCE)


def take_unet(taker: Taker, blocks: int, levels: int, attend) -> None:
    """`attend(theirs, ours)` copies one attention layer; called only where diffusers has one."""
    taker.take("time_embedding.linear_1", "time_embed.0")
    taker.take("time_embedding.linear_2", "time_embed.2")
    taker.take("class_embedding.linear_1", "label_embed.0")
    taker.take("class_embedding.linear_2", "label_embed.2")
    taker.take("conv_in", "input_blocks.0.0")
    taker.take("conv_norm_out", "out_norm")
    taker.take("conv_out", "out_conv")

    def attention(theirs: str, ours: str) -> bool:
        present = any(k.startswith(theirs + ".") for k in taker.source)
        if present:
            attend(theirs, ours)
        return present

    n = 1
    for level in range(levels):
        for i in range(blocks):
            taker.resnet(f"down_blocks.{level}.resnets.{i}", f"input_blocks.{n}.0")
            attention(f"down_blocks.{level}.attentions.{i}", f"input_blocks.{n}.1")
            n += 1
        taker.take(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{n}.0.conv")
        taker.resnet(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{n}.0")
        n += 1
    taker.resnet("mid_block.resnets.0", "middle_block.0")
    attention("mid_block.attentions.0", "middle_block.1")
    taker.resnet("mid_block.resnets.1", "middle_block.2")
    n = 0
    for level in range(levels):
        for i in range(blocks + 1):
            taker.resnet(f"up_blocks.{level}.resnets.{i}", f"output_blocks.{n}.0")
            last = 1 + attention(f"up_blocks.{level}.attentions.{i}", f"output_blocks.{n}.1")
            if i == blocks:
                taker.take(f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{n}.{last}.conv")
                taker.resnet(f"up_blocks.{level}.upsamplers.0", f"output_blocks.{n}.{last}")
            n += 1


@pytest.mark.parametrize("linear", [False, True])
def test_unet_with_cross_attention_vector_concat_and_mask(linear):
    theirs = diffusers.UNet2DConditionModel(
        in_channels=5,
        out_channels=3,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=12,
        attention_head_dim=4,  # the number of heads, despite its name
        transformer_layers_per_block=2,
        use_linear_projection=linear,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=7,
    )
    taker = Taker(randomise(theirs))
    take_unet(taker, blocks=2, levels=2, attend=lambda a, b: taker.spatial(a, b, depth=2))
    ours = taker.into(
        UNet(
            UNetConfig(
                in_channels=3,
                out_channels=3,
                channels=32,
                multipliers=(1, 2),
                attention_factors=(1,),
                transformer_depth=2,
                context_dim=12,
                vector_dim=7,
                concat_channels=2,
                head_channels=None,
                num_heads=4,
                linear_projection=linear,
            )
        )
    )
    x, concat = torch.randn(2, 3, 8, 12, generator=rng()), torch.randn(2, 2, 8, 12, generator=rng(1))
    context, vector = torch.randn(2, 6, 12, generator=rng(2)), torch.randn(2, 7, generator=rng(4))
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]).bool()
    time = torch.tensor([0, 701])
    with torch.no_grad():
        wanted = theirs(torch.cat([x, concat], 1), time, context, class_labels=vector, encoder_attention_mask=mask).sample
        given = ours(x, time, Conditioning(context=context, mask=mask, concat=concat, vector=vector))
    torch.testing.assert_close(given, wanted, **TOLERANCE)


@pytest.mark.parametrize("published", ["ffhq", "churches"])
def test_unet_without_context(published):
    churches = published == "churches"
    theirs = diffusers.UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        # blocks without attention always resample by convolutions there
        down_block_types=("AttnDownBlock2D" if churches else "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D" if churches else "UpBlock2D"),
        attn_norm_num_groups=32,  # otherwise no norm in the middle under scale-shift
        layers_per_block=1,
        attention_head_dim=16,
        flip_sin_to_cos=True,
        freq_shift=0,
        resnet_time_scale_shift="scale_shift" if churches else "default",
        downsample_type="resnet" if churches else "conv",
        upsample_type="resnet" if churches else "conv",
    )
    taker = Taker(randomise(theirs))
    # heads of 16 channels: two at level 0 (32 channels), four below
    shallow = ("down_blocks.0.", "up_blocks.1.")
    take_unet(taker, 1, 2, attend=lambda a, b: taker.joint(a, b, heads=2 if a.startswith(shallow) else 4))
    factors = (1, 2) if churches else (2,)
    config = UNetConfig(
        3, 3, 32, (1, 2), 1, attention_factors=factors, head_channels=16, scale_shift=churches, resblock_updown=churches
    )
    ours = taker.into(UNet(config))
    x, time = torch.randn(2, 3, 8, 12, generator=rng()), torch.tensor([13, 980])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, time, Conditioning()), theirs(x, time).sample, **TOLERANCE)
