"""Every task of the paper, trained on a folder of its own kind over one shared first stage, and the model it leaves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import go

from sfumato.build import encoder_of
from sfumato.cli.train import read_config
from sfumato.conditioners.base import Parts
from sfumato.conditioners.layout import Box, LayoutBoxes, LayoutConfig
from sfumato.conditioners.segmentation import SegmentationConfig, SegmentationMap
from sfumato.errors import InputError
from sfumato.generation.settings import settings_of
from sfumato.io.pretrained import load_pretrained
from sfumato.io.pretrained import read_config as read_model_config
from sfumato.io.weights import read_weights
from sfumato.noise import PictureNoise
from sfumato.priors.regression import RegressionConfig, RegressionPrior
from sfumato.training.conditions import Stored, flat, unflat
from sfumato.training.config import RunConfig
from sfumato.training.inputs import condition_source
from sfumato.training.prepare import prepare_data
from sfumato.training.run import resolve, train
from tiny_runs import CPU, SMALL, picture, transparent, write_folder

TASKS = ("unconditional", "class", "inpaint", "upscale", "semantic", "layout", "retrieval")
COUNT = 24


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one shape each: class folders, and for every picture a box in a COCO file and a map of two classes."""
    root = tmp_path_factory.mktemp("annotated")
    images, boxes = [], []
    for index in range(COUNT):
        page, caption = picture(index)
        colour, shape = caption.split()[1:]
        name = f"{colour}/{index:03d}.png"
        for folder, content in (("images", Image.fromarray(page)), ("maps", as_map(page))):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            content.save(root / folder / name)
        rows, columns = np.nonzero(ink(page))
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        images.append({"id": index, "file_name": name, "width": 20, "height": 20})
        boxes.append({"id": index, "image_id": index, "category_id": 10 + index % 3, "bbox": box, "iscrowd": 0})
        assert shape
    categories = [{"id": 10, "name": "square"}, {"id": 11, "name": "disc"}, {"id": 12, "name": "stripe"}]
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return root


def ink(page: np.ndarray) -> np.ndarray:
    shown = (page != 255).any(-1)
    shown[0, 0] = False  # the corner that makes pictures differ
    return shown


def as_map(page: np.ndarray) -> Image.Image:
    image = Image.fromarray(ink(page).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


def task_config(task: str, *changes: str) -> RunConfig:
    """`TASK-tiny` made a matter of a second, as `SMALL` makes `tiny`."""
    small = [item for item in SMALL if "conditioner" not in item]
    return read_config(f"{task}-tiny", [*small, *changes])


@pytest.fixture(scope="session")
def shared(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained its first stage and nothing else."""
    out = tmp_path_factory.mktemp("shared") / "run"
    config = task_config("unconditional")
    assert train(config, annotated, out, CPU, quiet=True, only_first_stage=True) == out / "first_stage"
    assert not (out / "prior").exists()
    return out


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_over_a_shared_first_stage(task: str, annotated: Path, shared: Path, tmp_path: Path) -> None:
    config = task_config(task, f"first_stage.frozen={shared}")
    model = load_pretrained(go(config, annotated, tmp_path / "run")).model
    data = prepare_data(annotated, config.data, None)
    resident = torch.stack([data.held_out.pixels(i) for i in range(len(data.held_out))])
    source = condition_source(model.conditioner, data.train, data.beside, CPU, model.first_stage.latent.factor)  # type: ignore[union-attr]
    rows = torch.arange(2)
    prepared = source.batch(rows, torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0))
    x = model.sample(prepared, settings_of(config.sampling), PictureNoise([0, 1]))
    assert x.shape == (2, *resident.shape[1:])
    assert bool(torch.isfinite(x).all())
    others = load_pretrained(tmp_path / "run" / "model").model.first_stage.state_dict()
    own = read_weights(shared / "first_stage" / "first_stage.safetensors")
    name = next(iter(k for k in own if k.startswith("encoder")))
    torch.testing.assert_close(others[name], own[name].half().float())


def test_names_reach_the_model(annotated: Path, shared: Path, tmp_path: Path) -> None:
    go(task_config("layout", f"first_stage.frozen={shared}"), annotated, tmp_path / "run")
    config = read_model_config(tmp_path / "run" / "model")[0].conditioner
    assert isinstance(config, LayoutConfig)
    assert config.names == ("square", "disc", "stripe")


def test_the_card_says_how_to_use_it(annotated: Path, shared: Path, tmp_path: Path) -> None:
    model = go(task_config("upscale", f"first_stage.frozen={shared}"), annotated, tmp_path / "run")
    text = (model / "README.md").read_text()
    assert "pipeline_tag: image-to-image" in text
    assert "Conditioned on: small pictures.\n\n    sfumato upscale IMAGE --factor 4 --model DIR\n" in text
    assert f"First stage: that of {shared}, as it is. Prior: 10 steps of 4" in text


def test_layouts_are_the_boxes_in_shares(annotated: Path) -> None:
    data = prepare_data(annotated, task_config("layout").data, None)
    conditioner = LayoutBoxes(
        LayoutConfig(
            dim=16,
            depth=1,
            vocabulary=512,
            num_objects=2,
            num_classes=3,
            names=("square", "disc", "stripe"),
            heads=2,
            head_channels=8,
        )
    )
    source = condition_source(conditioner, data.train, data.beside, CPU, 2, flip=True)
    rows = torch.arange(len(data.train))
    rng = torch.Generator().manual_seed(0)
    for side in (0, 1):
        tokens = source.batch(rows, torch.full_like(rows, side), rng)
        for row, record in enumerate(data.train.records):
            page = picture(int(record.path.stem))[0]
            ys, xs = np.nonzero(ink(page))
            left, right, top, bottom = xs.min() / 20, (xs.max() + 1) / 20, ys.min() / 20, (ys.max() + 1) / 20
            if side:
                left, right = 1 - right, 1 - left
            label = int(record.path.stem) % 3
            expected = conditioner.prepare([(Box(label, left, top, right - left, bottom - top),)])[0]
            assert torch.equal(tokens[row], expected)


def test_maps_are_mirrored_with_their_pictures(annotated: Path, shared: Path) -> None:
    config = task_config("semantic")
    data = prepare_data(annotated, config.data, None)
    source = condition_source(SegmentationMap(SegmentationConfig(num_classes=2, halvings=1)), data.train, data.beside, CPU, 2)
    rows = torch.arange(4)
    plain, mirrored = (source.batch(rows, torch.full_like(rows, side), torch.Generator()) for side in (0, 1))
    assert torch.equal(plain.flip(2), mirrored)
    assert set(plain.unique().tolist()) == {0, 1}


def test_a_mask_hides_what_it_says(annotated: Path, shared: Path, tmp_path: Path) -> None:
    model = load_pretrained(go(task_config("inpaint", f"first_stage.frozen={shared}"), annotated, tmp_path / "run")).model
    data = prepare_data(annotated, task_config("inpaint").data, None)
    source = condition_source(model.conditioner, data.train, data.beside, CPU, 2)
    rng = torch.Generator().manual_seed(3)
    prepared = source.batch(torch.arange(6), torch.zeros(6, dtype=torch.int64), rng)
    assert isinstance(prepared, torch.Tensor)
    assert prepared.shape == (6, 4, 16, 16)
    assert set(prepared[:, 3].unique().tolist()) == {0.0, 1.0}
    concat = model.conditioner(prepared).concat
    hidden = torch.where(prepared[:, 3:] > 0.5, -torch.ones(()), prepared[:, :3])
    torch.testing.assert_close(concat[:, :-1], encoder_of(model.first_stage)(hidden))


def test_the_regression_predicts_one_picture(annotated: Path, shared: Path, tmp_path: Path) -> None:
    base = task_config("upscale", f"first_stage.frozen={shared}")
    prior = dataclasses.replace(base.prior, model=RegressionConfig(base.prior.model.network))
    model = load_pretrained(go(dataclasses.replace(base, prior=prior), annotated, tmp_path / "run")).model
    assert isinstance(model.prior, RegressionPrior)
    data = prepare_data(annotated, base.data, None)
    prepared = condition_source(model.conditioner, data.train, data.beside, CPU, 2).batch(
        torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.Generator()
    )
    x = model.sample(prepared, settings_of(base.sampling), PictureNoise([0, 99]))
    assert torch.equal(x[0], x[1])


def test_a_frozen_model_keeps_its_unit_scale(annotated: Path, tmp_path: Path) -> None:
    first = load_pretrained(go(task_config("unconditional"), annotated, tmp_path / "one")).model.first_stage
    other = load_pretrained(
        go(task_config("class", f"first_stage.frozen={tmp_path / 'one'}"), annotated, tmp_path / "two")
    ).model.first_stage
    for name in ("shift", "scale"):
        assert torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("unconditional", ("first_stage.frozen=nowhere",), "first_stage.frozen: unknown model"),
        ("semantic", (), "map"),
        ("layout", (), "COCO"),
        ("unconditional", ('data.where=["style=noto"]',), "unknown metadata field 'style of data.where'"),
        ("class", ("data.label=kind",), "unknown metadata field 'kind of data.label'"),
        ("unconditional", ('data.where=["noto"]',), "expected FIELD=VALUE"),
    ],
)
def test_what_is_missing_is_said(task: str, changes: tuple[str, ...], said: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        go(task_config(task, *changes), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_words_need_captions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pictures", kind="none")
    with pytest.raises(InputError, match=r"needs captions, and no picture has one.*inpaint-pictures"):
        resolve(read_config("inpaint", ["data.size=16"]), folder)


def test_a_first_stage_of_other_channels_is_refused(annotated: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.channels is 4, and the first stage of .* has 3; set data.channels=3"):
        go(task_config("unconditional", f"first_stage.frozen={shared}", "data.channels=4"), annotated, tmp_path / "run")


def test_pictures_can_be_chosen_by_their_metadata(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    rows = []
    for index in range(8):
        page, caption = picture(index)
        Image.fromarray(transparent(page)).save(root / f"{index}.png")
        style, shape = "ab"[index % 2], caption.split()[2]
        rows.append({"file_name": f"{index}.png", "text": caption, "style": style, "shape": shape})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = task_config("class", 'data.where=["style=a"]', "data.label=shape")
    found = prepare_data(root, config.data, None)
    records = [*found.train.records, *found.held_out.records]
    assert sorted(int(record.path.stem) for record in records) == [0, 2, 4, 6]
    assert found.train.classes == ("disc", "square", "stripe")


def test_prepared_inputs_survive_a_batch() -> None:
    parts = Parts({"text": torch.arange(3), "both": Parts({"one": torch.zeros(3), "two": torch.ones(3)})})
    batch = {"z": torch.zeros(3), **flat(parts)}
    assert sorted(batch) == ["prepared.both.one", "prepared.both.two", "prepared.text", "z"]
    back = unflat(batch)
    assert isinstance(back, Parts)
    assert torch.equal(back.tensor("text"), parts.tensor("text"))
    assert torch.equal(unflat(batch, "prepared.both").tensor("two"), torch.ones(3))  # type: ignore[union-attr]
    assert torch.equal(unflat(flat(torch.arange(3))), torch.arange(3))


def test_stored_conditions_of_mirrored_pictures() -> None:
    stored = Stored(torch.tensor([[1], [2]]), torch.ones(2, dtype=torch.int64), CPU, torch.tensor([[10], [20]]))
    got = stored.batch(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.Generator().manual_seed(0))
    assert got.tolist() == [1, 2, 20]
