"""What tasks are measured by, on cases that are known on paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.tasks.agreement import agreement
from sfumato.evaluation.tasks.closeness import BICUBIC, closeness, enlarged, super_resolution
from sfumato.evaluation.tasks.guidance import guidance_curve, guidance_table
from sfumato.evaluation.tasks.inpainting import inpainting, seam
from sfumato.evaluation.tasks.intervals import frechet_interval, ratio_interval
from sfumato.evaluation.tasks.relations import Asked, relational


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_ratio_counts_pictures_by_what_they_hold() -> None:
    part, whole = torch.tensor([1.0, 0.0, 6.0]), torch.tensor([2.0, 0.0, 6.0])
    found = ratio_interval(part, whole, rng())
    assert found.value == 7 / 8
    assert found.low == pytest.approx(0.5)  # both draws the first picture: a quarter of all resamples
    assert found.high == pytest.approx(1.0)
    with pytest.raises(ValueError, match="none has anything"):
        ratio_interval(torch.zeros(2), torch.zeros(2), rng())


def test_frechet_distance_of_moved_features_is_the_square_of_the_way() -> None:
    real = torch.randn(200, 4, generator=rng())
    found = frechet_interval(real + torch.tensor([1.0, 2.0, 0.0, 2.0]), real, rng(), 20)
    assert found.value == pytest.approx(9.0, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((9.0, 9.0), rel=1e-6)  # resampled as pairs: the way stays the same
    with pytest.raises(ValueError, match="one number of pictures"):
        frechet_interval(real[:5], real, rng())


def test_closeness_of_a_constant_error(data: Any) -> None:
    truth = data(6, 0).pixels.clamp(0, 200)
    found = closeness(truth + 51, truth, rng(), batch_size=4, num_resamples=20)
    assert found.psnr.value == pytest.approx(20 * math.log10(5), abs=1e-6)  # 51 / 255 = 1 / 5
    assert found.psnr.low == pytest.approx(found.psnr.high)
    assert found.count == 6
    assert found.values.shape == (6, 3)
    assert found.perceptual.low <= found.perceptual.value <= found.perceptual.high


def test_closeness_of_equal_pictures(data: Any) -> None:
    truth = data(3, 0, channels=4).pixels
    found = closeness(truth, truth, rng(), num_resamples=5)
    assert found.psnr.value == 100
    assert found.ssim is not None
    assert found.ssim.value == pytest.approx(1)
    assert found.perceptual.value == pytest.approx(0, abs=1e-6)
    tiny = closeness(truth[:, :, :8, :8], truth[:, :, :8, :8], rng(), num_resamples=5)
    assert tiny.ssim is None
    with pytest.raises(ValueError, match="one number and size"):
        closeness(truth, truth[:2], rng())


def test_enlarging_is_pillows_bicubic(data: Any) -> None:
    small = data(2, 0).pixels[:, :, :12, :10]
    for picture, ours in zip(small, enlarged(small, 4), strict=True):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((40, 48), Image.Resampling.BICUBIC)
        # Pillow rounds to 8 bits between its two passes
        assert np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - ours.numpy().astype(int)).max() <= 1


def test_super_resolution_puts_bicubic_beside_the_candidates(data: Any) -> None:
    truth = data(4, 0).pixels
    small = truth[:, :, ::4, ::4]
    found = super_resolution({"perfect": truth}, small, truth, rng(), num_resamples=5)
    assert set(found) == {"perfect", BICUBIC}
    assert found["perfect"].psnr.value == 100 > found[BICUBIC].psnr.value > 10
    assert found["perfect"].perceptual.value < found[BICUBIC].perceptual.value


def test_the_step_at_a_masks_edge_is_counted_where_the_truth_is_flat_and_inked() -> None:
    """Left half red, right half white; the mask's right edge lies in the red, its bottom edge in both."""
    truth = torch.full((1, 4, 8, 8), 255, dtype=torch.uint8)
    truth[:, 1:3, :, :4] = 0
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :4, :2] = 1
    made = torch.where(masks > 0.5, truth - 6 * (truth > 0), truth)  # one colour of three and alpha are 6 levels off
    assert seam(made, truth, masks) == pytest.approx(2)
    assert seam(truth, truth, masks) == 0
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., 6:] = 1  # in the white
    assert seam(made, truth, masks) is None


def test_inpainting_tells_what_was_changed_outside_of_the_mask(data: Any) -> None:
    truth = data(8, 0).pixels
    masks = torch.zeros(8, 1, 32, 32)
    masks[:, :, :16, :16] = 1
    made = truth.clone()
    made[:, :, :16, :16] = 255 - made[:, :, :16, :16]
    made[3, 0, 20, 20] ^= 1
    narrow: Any = lambda pixels, device: Scorer()(pixels, device)[:, :4]  # noqa: E731
    found = inpainting(made, truth, masks, rng(), scorer=narrow, num_resamples=10)
    assert found.share == 0.25
    assert (found.unchanged, found.count) == (7, 8)
    assert found.perceptual.value > 0.01
    assert found.frechet.value > 0
    perfect = inpainting(truth, truth, masks, rng(), scorer=narrow, num_resamples=10)
    assert perfect.frechet.value == pytest.approx(0, abs=1e-6)
    assert perfect.perceptual.value == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="differ"):
        inpainting(made, truth, masks[:4], rng())
    with pytest.raises(InputError, match="of 8 pictures needs 97 a side, for a covariance of 96 features"):
        inpainting(made, truth, masks, rng())


def test_guidance_curve_of_shrunk_and_moved_features() -> None:
    real = torch.randn(64, 3, generator=rng())
    points = guidance_curve({4.0: 0.0 * real, 1.0: real.clone(), 2.0: real + 100}, real, rng(), num_resamples=10)
    assert [point.scale for point in points] == [1.0, 2.0, 4.0]
    same, far, collapsed = points
    assert (same.frechet.value, same.precision.value, same.recall.value) == (pytest.approx(0, abs=1e-6), 1, 1)
    assert far.frechet.value == pytest.approx(3 * 100**2, rel=1e-4)
    assert (far.precision.value, far.recall.value) == (0, 0)
    # one point has no spread: |m|^2 + tr(S) is what is left of the distance
    assert collapsed.frechet.value == pytest.approx((real.mean(0).square().sum() + real.var(0).sum()).item(), rel=1e-5)
    assert collapsed.recall.value == 0
    table = guidance_table(points)
    assert table.count("\n") == 5
    assert "| 2 | 3" in table


def maps(*rows: str) -> Tensor:
    """A map a text, rows parted by `/`."""
    return torch.tensor([[[int(c) for c in line] for line in row.split("/")] for row in rows])


def test_agreement_by_hand() -> None:
    given = maps("0011/0011", "0000/2222")
    found = maps("0111/0011", "0000/2200")
    result = agreement(found, given, 4, rng(), num_resamples=50)
    assert result.accuracy.value == 13 / 16
    # class 0: 7 of 8 + 9 - 7; class 1: 4 of 4 + 5 - 4; class 2: 2 of 4 + 2 - 2; class 3 is nowhere
    assert result.iou[:3] == (pytest.approx(7 / 10), pytest.approx(4 / 5), pytest.approx(2 / 4))
    assert math.isnan(result.iou[3])
    assert result.mean_iou.value == pytest.approx((7 / 10 + 4 / 5 + 1 / 2) / 3)
    assert result.accuracy.low <= result.accuracy.value <= result.accuracy.high
    assert result.count == 2


def test_agreement_passes_over_what_has_no_label() -> None:
    given, found = maps("0011"), maps("0101")
    given = torch.where(torch.tensor([[[False, True, False, False]]]), 255, given)
    result = agreement(found, given, 2, rng(), ignored=255, num_resamples=5)
    assert result.accuracy.value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="a given map has a class outside of 0 to 1"):
        agreement(found, given, 2, rng())
    with pytest.raises(ValueError, match="of one size"):
        agreement(found[:, :, :2], given, 2, rng())


def test_equal_maps_agree_wholly() -> None:
    given = torch.randint(5, (6, 8, 8), generator=rng())
    result = agreement(given, given, 5, rng(), num_resamples=20)
    assert (result.accuracy.value, result.accuracy.low, result.mean_iou.value) == (1, 1, 1)


def test_relations_by_hand() -> None:
    seen = maps("1002/1002", "1002/1002", "1100/0022", "1100/0022", "0000/1111")
    asked = [
        Asked(1, "left of", 2),  # right
        Asked(2, "left of", 1),  # wrong
        Asked(1, "above", 2),  # right
        Asked(2, "right of", 1),  # right
        Asked(1, "above", 2),  # 2 is missing
    ]
    found = relational(seen, asked, rng(), num_resamples=20)
    assert found.correct.tolist() == [True, False, True, True, False]
    assert found.right.value == 3 / 5
    assert found.found.value == 4 / 5
    assert found.right_where_found is not None
    assert found.right_where_found.value == 3 / 4
    assert relational(seen, [Asked(2, "below", 1)] * 5, rng(), 5).correct.tolist() == [False, False, True, True, False]


def test_a_few_wrong_pixels_move_no_place() -> None:
    seen = torch.zeros(1, 20, 20, dtype=torch.long)
    seen[0, 8:12, 2:6] = 1
    seen[0, 8:12, 14:18] = 2
    seen[0, 0, 17:20] = 1  # far to the right: the mean would move by 2 pixels, the median does not
    assert relational(seen, [Asked(1, "left of", 2)], rng(), 5).correct.all()
    assert relational(seen, [Asked(3, "left of", 2)], rng(), 5).right_where_found is None


def test_relations_of_wrong_kinds() -> None:
    with pytest.raises(ValueError, match="did you mean 'left of'"):
        Asked(1, "left", 2)
    with pytest.raises(ValueError, match="can't be told apart"):
        Asked(1, "above", 1)
    with pytest.raises(ValueError, match="one each"):
        relational(torch.zeros(2, 4, 4), [Asked(1, "above", 2)], rng())
