"""The embedded network against a second, functional implementation written from the metadata of its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch.nn import functional as F

from sfumato.errors import InputError
from sfumato.features import mobilenet
from sfumato.features.mobilenet import MobileNetV2Features, asset_sha256, load_mobilenet


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    path = mobilenet.resources.files("sfumato") / "assets" / mobilenet.ASSET
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name).double() for name in file.keys()}  # noqa: SIM118


def smooth_pictures(count: int, channels: int = 3, size: int = 64) -> torch.Tensor:
    coarse = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


def reference(x: torch.Tensor, w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Straight from the metadata: strides 2 at the stem and in blocks 1, 3, 6; additions in blocks 2, 4, 5, 7, 8, 9."""

    def conv(v: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = w[f"{name}.weight"]
        if kernel.shape[-1] == 3:
            v = torch.nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))(v)
        return F.conv2d(v, kernel, w[f"{name}.bias"], stride=stride, groups=groups)

    out = {"stem": F.relu6(conv(x, "stem", 2))}
    v = out["stem"]
    for i in range(11):
        h = v if i == 0 else F.relu6(conv(v, f"blocks.{i}.expand"))
        h = F.relu6(conv(h, f"blocks.{i}.depthwise", 2 if i in (1, 3, 6) else 1, groups=h.shape[1]))
        h = conv(h, f"blocks.{i}.project")
        v = v + h if i in (2, 4, 5, 7, 8, 9) else h
        out[f"block{i}"] = v
    return out


def test_agrees_with_the_functional_form(weights: dict[str, torch.Tensor]) -> None:
    x = smooth_pictures(2)
    network = MobileNetV2Features()
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    found = network.double()(x.double(), network.names)
    wanted = reference(x.double(), weights)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


def test_shapes_depth_and_freezing() -> None:
    network = load_mobilenet()
    assert load_mobilenet("cpu") is network
    found = network(smooth_pictures(2), ("block10", "stem", "block5"))
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "stem": (2, 32, 32, 32),
        "block5": (2, 32, 8, 8),
        "block10": (2, 96, 4, 4),
    }
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) == 300_416  # the count of the file's own tensors
    assert len(asset_sha256()) == 64


def test_gradient_reaches_the_picture() -> None:
    x = smooth_pictures(1).requires_grad_()
    load_mobilenet()(x, ["block10"])["block10"].square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).float().mean() > 0.9


def test_usable_for_training_after_a_first_call_under_inference_mode() -> None:
    mobilenet._on_device.cache_clear()
    with torch.inference_mode():
        load_mobilenet()
    x = smooth_pictures(1).requires_grad_()
    load_mobilenet()(x, ["block2"])["block2"].sum().backward()
    assert x.grad is not None


def drawn(shape: str, offset: int, colour: tuple[int, int, int]) -> torch.Tensor:
    """(3, 128, 128): one coloured shape on white."""
    image = Image.new("RGB", (128, 128), "white")
    pen, box = ImageDraw.Draw(image), (24 + offset, 24, 96 + offset, 96)
    match shape:
        case "disc":
            pen.ellipse(box, fill=colour)
        case "ring":
            pen.ellipse(box, outline=colour, width=8)
        case "square":
            pen.rectangle(box, fill=colour)
        case "stripes":
            for y in range(24, 96, 12):
                pen.rectangle((box[0], y, box[2], y + 5), fill=colour)
        case "cross":
            pen.line(box, fill=colour, width=10)
            pen.line((box[2], box[1], box[0], box[3]), fill=colour, width=10)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def test_features_know_shape_from_position_and_colour() -> None:
    """The same shape elsewhere in another colour is the nearest one: the weights mean something."""
    shapes = ("disc", "ring", "square", "stripes", "cross")
    network = load_mobilenet()
    a = torch.stack([drawn(s, 0, (200, 40, 40)) for s in shapes])
    b = torch.stack([drawn(s, 7, (40, 40, 200)) for s in shapes])
    u, v = (network(x, ["block10"])["block10"].mean((2, 3)) for x in (a, b))
    similarity = F.normalize(v - v.mean(0), dim=1) @ F.normalize(u - u.mean(0), dim=1).T
    assert similarity.argmax(1).tolist() == list(range(len(shapes)))


def test_channels_other_than_three() -> None:
    network, layers = load_mobilenet(), ["block2"]
    grey = smooth_pictures(2, 1)
    torch.testing.assert_close(network(grey, layers)["block2"], network(grey.repeat(1, 3, 1, 1), layers)["block2"])
    five = smooth_pictures(2, 5)
    found = network(five, layers)["block2"]
    assert found.shape[1] == 2 * 24
    torch.testing.assert_close(found[:, :24], network(five[:, :3], layers)["block2"], rtol=1e-4, atol=1e-4)
    last = torch.cat([five[:, 3:], five[:, 4:]], 1)
    torch.testing.assert_close(found[:, 24:], network(last, layers)["block2"], rtol=1e-4, atol=1e-4)


def test_transparent_pictures_are_seen_on_white() -> None:
    """Four channels are the picture on white and alpha, which is not for features."""
    network, layers = load_mobilenet(), ["block2"]
    four = smooth_pictures(2, 4)
    found = network(four, layers)["block2"]
    assert torch.equal(found, network(four[:, :3], layers)["block2"])


@pytest.mark.parametrize("size", [1, 8, 17])
def test_small_and_odd_pictures(size: int) -> None:
    assert load_mobilenet()(torch.zeros(1, 3, size, size), ["block10"])["block10"].isfinite().all()


def test_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'block10'"):
        load_mobilenet()(smooth_pictures(1), ["blok10"])
