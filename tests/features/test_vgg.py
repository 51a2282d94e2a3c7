"""VGG16 and LPIPS heads with random weights: the files, their errors, and the numbers against the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sfumato.errors import InputError
from sfumato.features.vgg import load_lpips_heads, load_vgg16
from sfumato.losses.perceptual import PerceptualLoss

CFG_D = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def sequential() -> nn.Sequential:
    """`features` of configuration D, laid out as torchvision lays it out."""
    layers: list[nn.Module] = []
    width = 3
    for item in CFG_D:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, int(item), 3, padding=1), nn.ReLU()]
            width = int(item)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, list[torch.Tensor], Path, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vgg")
    trunk = sequential()
    for module in trunk:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    heads = [torch.rand(1, c, 1, 1) for c in (64, 128, 256, 512, 512)]
    save_file({f"features.{k}": v.contiguous() for k, v in trunk.state_dict().items()}, folder / "vgg16.safetensors")
    torch.save({f"lin{i}.model.1.weight": h for i, h in enumerate(heads)}, folder / "heads.pth")
    return trunk, heads, folder / "vgg16.safetensors", folder / "heads.pth"


def test_lpips_equals_its_formula(files: tuple[nn.Sequential, list[torch.Tensor], Path, Path]) -> None:
    trunk, heads, vgg, lin = files
    x, y = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (1, 2))
    wanted = torch.zeros(2)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = ((v - shift[:, None, None]) / scale[:, None, None] for v in (x, y))
    taps = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}
    with torch.no_grad():
        for i, module in enumerate(trunk):
            a, b = module(a), module(b)
            if i in taps:
                u, v = (f / f.norm(dim=1, keepdim=True).clamp(min=1e-10) for f in (a, b))
                wanted += (heads[taps[i]] * (u - v) ** 2).sum(1).mean((1, 2))
    loss = PerceptualLoss.lpips(vgg, lin)
    torch.testing.assert_close(loss(x, y), wanted, rtol=1e-4, atol=1e-5)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []


def test_missing_things_are_named(files: tuple[nn.Sequential, list[torch.Tensor], Path, Path], tmp_path: Path) -> None:
    _, _, vgg, lin = files
    with pytest.raises(InputError, match=r"no file .*nowhere\.pth"):
        load_vgg16(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match=r"lacks 'features\.0\.weight': expected torchvision's vgg16"):
        load_vgg16(lin)
    with pytest.raises(InputError, match=r"lacks 'lin0\.model\.1\.weight'"):
        load_lpips_heads(vgg)
    torch.save({"lin0.model.1.weight": torch.ones(1, 63, 1, 1)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"\(1, 63, 1, 1\)"):
        load_lpips_heads(tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match="not a readable state dict"):
        load_vgg16(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError):
        load_vgg16(tmp_path / "evil.pth")
    assert not marker.exists()
