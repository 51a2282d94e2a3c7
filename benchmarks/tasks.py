"""The tasks of docs/tasks.md, measured: each action prints its table and writes its numbers and its figure.

    python benchmarks/tasks.py upscale --data EMOJI --models model=RUN regression=RUN --out DIR --device cuda

EMOJI is a folder of `sfumato data emoji`, SCENES one of `sfumato data scenes`. All pictures are the test split's, which no
model has seen; seeds are the pictures' numbers. What is compared with the truth is compared with the true pictures, not their
reconstructions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.conditioners.base import Parts, Prepared
from sfumato.conditioners.compose import Composite
from sfumato.conditioners.label import ClassLabel
from sfumato.conditioners.layout import LayoutBoxes
from sfumato.conditioners.masked import MaskedLatents
from sfumato.conditioners.retrieved import Retrieved
from sfumato.conditioners.segmentation import SegmentationMap
from sfumato.data.annotations import find_pictures_root
from sfumato.data.dataset import ImageDataset
from sfumato.data.degrade import shrink
from sfumato.data.folder import Record, scan
from sfumato.data.masks import draw_masks
from sfumato.data.split import split
from sfumato.errors import InputError
from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.tasks.agreement import agreement
from sfumato.evaluation.tasks.closeness import closeness, enlarged, super_resolution
from sfumato.evaluation.tasks.guidance import guidance_curve, guidance_table
from sfumato.evaluation.tasks.inpainting import inpainting, seam
from sfumato.evaluation.tasks.intervals import frechet_interval
from sfumato.evaluation.tasks.layout import box_overlap, found_in_boxes, gallery_of_boxes, thing_overlap
from sfumato.evaluation.tasks.recovery import RecoveryTraining, recover, train_segmenter
from sfumato.evaluation.tasks.relations import Asked, relational
from sfumato.features.neighbours import features_of, nearest
from sfumato.first_stages.base import FirstStage
from sfumato.generation.known import MARGIN, latent_mask
from sfumato.generation.membrane import close_seam
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.generation.settings import settings_of
from sfumato.io.pretrained import LoadedModel, load_pretrained
from sfumato.io.weights import load_strictly, read_weights, save_weights
from sfumato.metrics.bootstrap import Interval
from sfumato.model import LatentModel
from sfumato.networks.segmenter import Segmenter, SegmenterConfig
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings
from sfumato.samplers.known import Known
from sfumato.training.beside import Beside
from sfumato.training.inputs import known_classes
from sfumato.training.report import save_sheet, sheet

SHOWN = 8  # pictures of a figure
SHARES = (0.25, 0.5)
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SCORER = Scorer()
RESAMPLING = 2  # walks of each step without training


class Bench:
    """What every action has: the arguments, the device, the models by name, and a place for numbers and figures."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        named = dict(item.partition("=")[::2] for item in args.models)
        self.models = {name: load_pretrained(path, self.device) for name, path in named.items()}
        self.rng = torch.Generator().manual_seed(0)
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.numbers: dict[str, Any] = {}

    @property
    def first(self) -> LoadedModel:
        return next(iter(self.models.values()))

    def records(self, name: str = "test", keep: Callable[[Record], bool] = lambda record: True) -> ImageDataset:
        """Pictures of a split in the first model's shape; of the tests at most `--num`, evenly spread over their order."""
        parts = split(scan(find_pictures_root(self.args.data)).records)
        chosen = [record for record in getattr(parts, name) if keep(record)]
        model = self.first.model
        limit = self.args.num if name == "test" else None
        if limit is not None and limit < len(chosen):
            chosen = [chosen[i * len(chosen) // limit] for i in range(limit)]
        return ImageDataset(chosen, model.image_size, model.first_stage.channels)

    def sample(
        self,
        loaded: LoadedModel,
        prepared: Prepared,
        guidance: float | None = None,
        change: Callable[[DiffusionSettings, slice], DiffusionSettings] | None = None,
    ) -> Tensor:
        """(N, C, H, W) uint8 on the CPU, picture i from seed i."""
        defaults, model = loaded.defaults, loaded.model
        settings, made = settings_of(defaults), []
        scale = defaults.guidance if guidance is None else guidance
        for start in range(0, len(prepared), self.args.batch_size):
            rows = slice(start, min(start + self.args.batch_size, len(prepared)))
            noise = PictureNoise(list(range(rows.start, rows.stop)))
            own = settings if change is None else change(settings, rows)
            with torch.inference_mode():
                made.append(to_bytes(model.sample(prepared[rows].to(self.device), own, noise, scale)).cpu())
        return torch.cat(made)

    def row(self, name: str, **values: Any) -> None:
        """Keep and print one row."""
        self.numbers[name] = {key: plain(value) for key, value in values.items()}
        print(f"{name:28}", "  ".join(f"{key} {said(value)}" for key, value in values.items()), flush=True)

    def figure(self, name: str, rows: Sequence[Tensor], columns: int = SHOWN) -> None:
        """Rows of uint8 pictures (N, C, H, W), `columns` of each, on white."""
        shown = [picture for row in rows for picture in on_white_bytes(row[:columns])]
        save_sheet(self.out / f"{name}.png", sheet(shown, columns))

    def save(self, name: str) -> None:
        (self.out / f"{name}.json").write_text(json.dumps(self.numbers, indent=1))


def on_white_bytes(pictures: Tensor) -> Tensor:
    return pictures if pictures.shape[1] < 4 else pictures[:, :3]


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def said(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.4g} ({value.low:.4g} to {value.high:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def upscale(bench: Bench) -> None:
    """Candidates against bicubic; the first stage's own reconstruction is the ceiling."""
    truth = bench.records().load_all()
    first: Any = bench.first.model.conditioner
    small = to_bytes(shrink(to_unit(truth), first.config.factor, first.config.degradation, bench.rng))
    made = {name: bench.sample(loaded, to_unit(small), guidance=1.0) for name, loaded in bench.models.items()}
    made["reconstruction"] = reconstructed(bench, truth)
    for name, found in super_resolution(made, small, truth, bench.rng, bench.device).items():
        bench.row(name, psnr=found.psnr, ssim=found.ssim, perceptual=found.perceptual, count=found.count)
    features = SCORER(truth, bench.device)
    for name, pictures in {**made, "bicubic": enlarged(small, first.config.factor)}.items():
        bench.row(f"{name}, FD", fd=frechet_interval(SCORER(pictures, bench.device), features, bench.rng))
    large = F.interpolate(small.float(), size=truth.shape[2:], mode="nearest").to(torch.uint8)
    models = [made[name] for name in bench.models]
    bench.figure("upscale", [large, enlarged(small, first.config.factor), *reversed(models), truth])


def reconstructed(bench: Bench, truth: Tensor) -> Tensor:
    stage = bench.first.model.first_stage
    assert isinstance(stage, FirstStage)
    rows = []
    for start in range(0, len(truth), bench.args.batch_size):
        with torch.inference_mode():
            x = to_unit(truth[start : start + bench.args.batch_size].to(bench.device))
            rows.append(to_bytes(stage.decode(stage.posterior(x).mode())).cpu())
    return torch.cat(rows)


def inpaint(bench: Bench) -> None:
    """Masks of a fixed share; what is drawn is led over into what is kept, which is pasted back, as the verb does."""
    data = bench.records()
    truth, captions = data.load_all(), [data.captions(i)[0] for i in range(len(data))]
    for share in SHARES:
        masks = draw_masks(len(truth), *truth.shape[2:], bench.rng, share=share)
        rows = [torch.where(masks > 0.5, torch.full_like(truth, 200), truth)]
        for name, loaded in bench.models.items():
            for how, words in asked(loaded.model, captions):
                begin = time.monotonic()
                drawn = fill(bench, loaded, truth, masks, words)
                seconds = (time.monotonic() - begin) / len(truth)
                made = pasted(bench, loaded.model, drawn, truth, masks)
                found = inpainting(made, truth, masks, bench.rng, bench.device)
                bench.row(
                    f"{share:.0%} {name}{how}", perceptual=found.perceptual, fd=found.frechet, share=found.share,
                    step=seam(made, truth, masks), count=found.count, seconds=seconds,
                )  # fmt: skip
                rows.append(made)
        bench.figure(f"inpaint-{round(100 * share)}", [*rows, truth])


def asked(model: LatentModel, captions: Sequence[str]) -> list[tuple[str, list[str]]]:
    """With the pictures' words and without, where the model reads any."""
    nothing = ("", [""] * len(captions))
    if isinstance(model.conditioner, MaskedLatents):
        return [nothing]
    return [(", told", list(captions)), (", not told", nothing[1])]


def fill(bench: Bench, loaded: LoadedModel, truth: Tensor, masks: Tensor, words: list[str]) -> Tensor:
    """Pictures drawn for what the masks leave: by a model that reads masks, or by holding what is known (`Known`)."""
    model, conditioner = loaded.model, loaded.model.conditioner
    seen = torch.cat([to_unit(truth), masks], dim=1)  # as `MaskedLatents.prepare` gives it
    guidance = 1.0 if not words[0] else None
    if isinstance(conditioner, MaskedLatents):
        return bench.sample(loaded, seen, 1.0)
    if isinstance(conditioner, Composite):
        text: Any = conditioner.parts["text"]
        return bench.sample(loaded, Parts({"text": text.prepare(words), "mask": seen}), guidance)
    latent: Any = model.first_stage.latent
    anew = torch.cat([latent_mask(mask[0], latent.factor, MARGIN) for mask in masks])

    def holding(settings: DiffusionSettings, rows: slice) -> DiffusionSettings:
        z_0 = mode(model, truth[rows], bench)
        return replace(settings, known=Known(z_0, anew[rows].to(bench.device), RESAMPLING))

    return bench.sample(loaded, conditioner.prepare(words), guidance, holding)


def pasted(bench: Bench, model: LatentModel, drawn: Tensor, truth: Tensor, masks: Tensor) -> Tensor:
    """(N, C, H, W) uint8: what was drawn inside of the masks, without a seam at their edges, and the truth outside."""
    if bench.args.open_seam:
        return torch.where(masks > 0.5, drawn, truth)
    latent: Any = model.first_stage.latent
    closed = [close_seam(drawn[i : i + 1], truth[i : i + 1], masks[i : i + 1], latent.factor) for i in range(len(truth))]
    return torch.where(masks > 0.5, torch.cat(closed), truth)


def mode(model: LatentModel, pictures: Tensor, bench: Bench) -> Tensor:
    assert isinstance(model.first_stage, FirstStage)
    return model.first_stage.posterior(to_unit(pictures.to(bench.device))).mode()


def words_matter(bench: Bench) -> None:
    """Two conditions together: half a picture and its caption, no caption, or another picture's."""
    data = bench.records(keep=lambda record: record.row.get("group") != "pairs")
    truth, captions = data.load_all(), [data.captions(i)[0] for i in range(len(data))]
    masks = draw_masks(len(truth), *truth.shape[2:], bench.rng, kinds=("half",))
    rows = [torch.where(masks > 0.5, torch.full_like(truth, 200), truth)]
    for how, words in (("true", captions), ("none", [""] * len(captions)), ("another's", captions[7:] + captions[:7])):
        made = pasted(bench, bench.first.model, fill(bench, bench.first, truth, masks, words), truth, masks)
        found = inpainting(made, truth, masks, bench.rng, bench.device)
        bench.row(f"words: {how}", perceptual=found.perceptual, fd=found.frechet, count=found.count)
        rows.append(made)
    bench.figure("words", [*rows, truth])


def guidance(bench: Bench) -> None:
    """Classes: the curve over guidance scales."""
    loaded = bench.first
    conditioner = loaded.model.conditioner
    assert isinstance(conditioner, ClassLabel)
    field = bench.args.label
    data = bench.records(keep=lambda record: str(record.row.get(field)) in conditioner.indices)
    labels = [str(record.row[field]) for record in data.records]
    real = SCORER(data.load_all(), bench.device)
    rest = [
        record for record in split(scan(bench.args.data).records).train if str(record.row.get(field)) in conditioner.indices
    ]
    order = torch.randperm(len(rest), generator=bench.rng)[: len(data)].tolist()
    others = SCORER(
        ImageDataset([rest[i] for i in order], loaded.model.image_size, data.target.channels).load_all(), bench.device
    )
    bench.row("floor: training pictures", fd=frechet_interval(others, real, bench.rng), count=len(data))
    prepared = conditioner.prepare(labels)
    made = {scale: bench.sample(loaded, prepared, scale) for scale in SCALES}
    points = guidance_curve({scale: SCORER(pictures, bench.device) for scale, pictures in made.items()}, real, bench.rng)
    for point in points:
        bench.row(f"guidance {point.scale:g}", fd=point.frechet, precision=point.precision, recall=point.recall)
    print(guidance_table(points))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:SHOWN]
    bench.figure("guidance", [*(made[scale][order] for scale in (1.0, 2.0, 4.0)), data.load_all()[order]])
    print("classes shown:", [labels[int(i)] for i in order])


def style(bench: Bench) -> None:
    """Unconditional, one style: against one half of its training pictures, with the other half as the floor."""
    field, _, value = bench.args.where.partition("=")
    rest = bench.records("train", lambda record: str(record.row.get(field)) == value)
    order = torch.randperm(len(rest), generator=bench.rng).tolist()
    order, other = order[: len(order) // 2], order[len(order) // 2 : 2 * (len(order) // 2)]
    real, others = (SCORER(rest.part(rows).load_all(), bench.device) for rows in (order, other))
    bench.row("floor: the other half", fd=frechet_interval(others, real, bench.rng), count=len(real))
    for name, loaded in bench.models.items():
        made = bench.sample(loaded, loaded.model.conditioner.prepare([""] * len(order)), 1.0)
        bench.row(name, fd=frechet_interval(SCORER(made, bench.device), real, bench.rng), count=len(made))
        bench.figure(f"style-{name}", [made[start : start + SHOWN] for start in range(0, 4 * SHOWN, SHOWN)])


def retrieval(bench: Bench) -> None:
    """Told the nearest training pictures, pictures by chance, or nothing."""
    loaded = bench.first
    conditioner = loaded.model.conditioner
    assert isinstance(conditioner, Retrieved)
    num = conditioner.config.num
    data, library = bench.records(), bench.records("train")
    truth = data.load_all()
    _, queries = features_of(truth, bench.device)
    maps, pooled = features_of(library.load_all(), bench.device)
    near = nearest(queries, pooled, num)
    chance = torch.randint(len(pooled), near.shape, generator=bench.rng)
    real = SCORER(truth, bench.device)
    rows = []
    for name, prepared in (
        ("nearest", maps[near].float()), ("by chance", maps[chance].float()), ("none", conditioner.null(len(truth))),
    ):  # fmt: skip
        made = bench.sample(loaded, prepared, 1.0)
        close = closeness(made, truth, bench.rng, bench.device)
        bench.row(
            f"neighbours: {name}", fd=frechet_interval(SCORER(made, bench.device), real, bench.rng), perceptual=close.perceptual
        )
        rows.append(made)
    shown = torch.stack([library.pixels(int(i)) for i in near[:SHOWN, 0]])
    bench.figure("retrieval", [truth, shown, *rows])


class Scenes:
    """The scenes of a split with their maps, and what recovers a map from a picture."""

    def __init__(self, bench: Bench):
        beside, train = Beside(bench.args.data), bench.records("train")
        classes = beside.map_classes(train)
        self.names, self.test = classes.names, bench.records()
        few = train.part(range(min(len(train), 8000)))
        self.train, self.beside = few, beside
        self.train_pixels = few.load_all()
        self.truth, self.maps = self.test.load_all(), beside.maps(self.test, classes).long()
        self.segmenter: Segmenter | None = None
        if bench.args.segmenter_steps == 0 and bench.args.segmenter is None:
            return
        self.segmenter = self._segmenter(bench, beside.maps(few, classes), classes.num)
        maps = (self.maps > 0).long() if bench.args.things else self.maps
        true = agreement(self.recovered(self.truth), maps, 2 if bench.args.things else classes.num, bench.rng)
        bench.row("maps: true pictures", accuracy=true.accuracy, iou=true.mean_iou, count=true.count)

    def recovered(self, pictures: Tensor) -> Tensor:
        """(N, H, W) class numbers of pictures (N, C, H, W)."""
        if self.segmenter is None:
            raise InputError("segmenter-steps is 0: only layouts can be measured without maps.")
        return recover(self.segmenter, pictures)

    def _segmenter(self, bench: Bench, maps: Tensor, num_classes: int) -> Segmenter:
        """Trained once: the actions on one set of scenes share its weights."""
        kept = None if bench.args.segmenter is None else Path(bench.args.segmenter)
        channels = 64
        if bench.args.things:
            maps, num_classes, channels = (maps > 0).to(maps.dtype), 2, 16
        if kept is not None and kept.is_file():
            network = Segmenter(SegmenterConfig(num_classes, self.train_pixels.shape[1], channels))
            load_strictly(network, read_weights(kept), str(kept))
            return network.to(bench.device).eval()
        training = RecoveryTraining(steps=bench.args.segmenter_steps, batch_size=64)
        network = train_segmenter(self.train_pixels, maps, num_classes, bench.device, training, channels=channels)
        if kept is not None:
            save_weights(kept, network.state_dict())
        return network


def semantic(bench: Bench) -> None:
    """The map recovered from the picture against the map given."""
    scenes = Scenes(bench)
    conditioner = bench.first.model.conditioner
    assert isinstance(conditioner, SegmentationMap)
    maps = scenes.beside.maps(scenes.test, known_classes(conditioner.config)).long()
    made = bench.sample(bench.first, maps, 1.0)
    found = agreement(scenes.recovered(made), scenes.maps, len(scenes.names), bench.rng)
    bench.row("maps: model", accuracy=found.accuracy, iou=found.mean_iou, count=found.count)
    distances(bench, "semantic", made, scenes)
    bench.figure("semantic", [coloured(maps), made, scenes.truth])


def distances(bench: Bench, name: str, made: Tensor, scenes: Scenes) -> None:
    """The model's Frechet distance to the test scenes, and that of as many training scenes."""
    real = SCORER(scenes.truth, bench.device)
    bench.row(f"{name}: FD", fd=frechet_interval(SCORER(made, bench.device), real, bench.rng), count=len(made))
    others = SCORER(scenes.train_pixels[: len(made)], bench.device)
    bench.row("training scenes: FD", fd=frechet_interval(others, real, bench.rng))


def coloured(maps: Tensor) -> Tensor:
    """(N, H, W) class numbers -> (N, 3, H, W) uint8: one colour a class, the background white."""
    rng = torch.Generator().manual_seed(4)
    palette = torch.randint(30, 230, (int(maps.max()) + 1, 3), generator=rng, dtype=torch.int64)
    palette[0] = 255
    return palette[maps].permute(0, 3, 1, 2).to(torch.uint8)


def layout(bench: Bench) -> None:
    """Whether what a box asks for is found in it, and how well it fills the box."""
    scenes = Scenes(bench)
    conditioner = bench.first.model.conditioner
    assert isinstance(conditioner, LayoutBoxes)
    names, most = conditioner.config.names, conditioner.config.num_objects
    layouts = scenes.beside.layouts(scenes.test, names, most)
    own = scenes.beside.layouts(scenes.train, names, most)[:4000]
    gallery = gallery_of_boxes(scenes.train_pixels[: len(own)], own, bench.device)
    made = bench.sample(bench.first, conditioner.prepare(layouts))
    for name, pictures in (("true pictures", scenes.truth), ("model", made)):
        found = found_in_boxes(pictures, layouts, names, gallery, bench.rng, device=bench.device)
        iou = {}
        if scenes.segmenter is not None:
            maps = scenes.recovered(pictures)
            of_things = bench.args.things
            overlap = thing_overlap(maps == 1, layouts, bench.rng) if of_things else box_overlap(maps, layouts, bench.rng)
            iou = {"iou": overlap.iou}
        bench.row(f"boxes: {name}", found=found.share, **iou, chance=found.chance, count=len(pictures))
    distances(bench, "layout", made, scenes)
    bench.figure("layout", [drawn_boxes(layouts, made.shape), made, scenes.truth])


def drawn_boxes(layouts: Sequence[Any], shape: torch.Size) -> Tensor:
    """White pictures with every box's outline in its class's colour."""
    rng = torch.Generator().manual_seed(4)
    palette = torch.randint(30, 230, (1000, 3), generator=rng).to(torch.uint8)
    pages = torch.full((min(len(layouts), SHOWN), 3, *shape[2:]), 255, dtype=torch.uint8)
    for page, boxes in zip(pages, layouts, strict=False):
        for box in boxes:
            left, top = round(box.left * shape[3]), round(box.top * shape[2])
            right, bottom = round((box.left + box.width) * shape[3]), round((box.top + box.height) * shape[2])
            inner = page[:, top + 2 : bottom - 2, left + 2 : right - 2].clone()
            page[:, top:bottom, left:right] = palette[box.label].view(3, 1, 1)
            page[:, top + 2 : bottom - 2, left + 2 : right - 2] = inner
    return pages


def relations(bench: Bench) -> None:
    """How often left and right, above and below are right, on unseen scenes that say so."""
    scenes = Scenes(bench)
    rows, wanted = [], []
    for index, record in enumerate(scenes.test.records):
        objects, said_there = record.row["objects"]["categories"], record.row["said"]
        if len(objects) == 2 and len(said_there) == 1 and objects[0] != objects[1]:
            one = said_there[0]
            rows.append(index)
            wanted.append(Asked(objects[one["subject"]], one["relation"], objects[one["object"]]))
    captions = [scenes.test.captions(i)[0] for i in rows]
    made = bench.sample(bench.first, bench.first.model.conditioner.prepare(captions))
    for name, pictures in (("true pictures", scenes.truth[rows]), ("model", made)):
        found = relational(scenes.recovered(pictures), wanted, bench.rng)
        among: Mapping[str, Any] = {} if found.right_where_found is None else {"right_where_found": found.right_where_found}
        bench.row(f"relations: {name}", right=found.right, found=found.found, **among, count=len(pictures))
    bench.figure("relations", [made, scenes.truth[rows]])
    print("captions shown:", captions[:SHOWN])


ACTIONS: dict[str, Callable[[Bench], None]] = {
    "upscale": upscale, "inpaint": inpaint, "words": words_matter, "guidance": guidance, "style": style,
    "retrieval": retrieval, "semantic": semantic, "layout": layout, "relations": relations,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run one action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("--data", type=Path, required=True, help="folder of emoji or scenes")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=MODEL", help="model directories or shipped names")
    parser.add_argument("--out", required=True, help="folder for numbers and figures")
    parser.add_argument("--num", type=int, help="test pictures at most (default: all)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--open-seam", action="store_true", help="inpainting: paste what was drawn as it is")
    parser.add_argument("--label", default="subgroup", help="metadata field of the classes")
    parser.add_argument("--where", default="style=noto", help="FIELD=VALUE of the one style")
    parser.add_argument("--segmenter", metavar="FILE", help="keep the segmenter's weights there, and take them if they are")
    parser.add_argument("--things", action="store_true", help="the segmenter tells things from background only (layout)")
    parser.add_argument("--segmenter-steps", type=int, default=3000, help="0: none, and layouts without overlap (default 3000)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    bench = Bench(args)
    begin = time.monotonic()
    ACTIONS[args.action](bench)
    bench.numbers["about"] = {
        "models": {name: loaded.hash for name, loaded in bench.models.items()}, "seconds": time.monotonic() - begin,
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU",
    }  # fmt: skip
    bench.save(args.action)


if __name__ == "__main__":
    main()
