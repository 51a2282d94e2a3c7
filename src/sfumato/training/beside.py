"""What stands beside a folder's pictures: boxes in a COCO file, class maps as index PNGs. Read when it is asked for."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from sfumato.conditioners.layout import Box, Layout
from sfumato.data.annotations import (
    Coco,
    MapClasses,
    boxes_in_crop,
    find_maps,
    map_classes,
    read_class_names,
    read_coco,
    read_map,
    upright_size,
)
from sfumato.data.dataset import ImageDataset
from sfumato.errors import InputError

LABELS_IN_BYTES = 255


class Beside:
    """The annotations of the folder `root`. What is asked for and is not there, or is wrong, raises `InputError`."""

    def __init__(self, root: Path):
        self.root = root

    @functools.cached_property
    def coco(self) -> Coco:
        """Boxes of all pictures."""
        return read_coco(self.root)

    def box_names(self) -> tuple[str, ...]:
        """Names of the boxes' labels, in the order of their numbers."""
        try:
            return self.coco.names
        except InputError as error:
            raise InputError(f"layouts need boxes in COCO's format: {error}") from None

    def layouts(self, data: ImageDataset, names: tuple[str, ...], num_objects: int) -> list[Layout]:
        """Every picture's boxes as they are after its crop, the `num_objects` largest; () for a picture without boxes."""
        if self.coco.names != names:
            raise InputError(f"{self.root}: its boxes have other labels than the model; expected {', '.join(names[:5])}, ...")
        matched = self.coco.match([record.name for record in data.records])
        return [self._layout(data, index, matched, num_objects) for index in range(len(data))]

    def _layout(self, data: ImageDataset, index: int, matched: dict[str, str], num_objects: int) -> Layout:
        record = data.records[index]
        file = matched.get(record.name)
        if file is None or not self.coco.boxes[file]:
            return ()
        size = self.coco.sizes.get(file)
        if size is None:
            size = upright_size(record.read(), record.name)
        found = boxes_in_crop(self.coco.boxes[file], size, data.target)
        largest = sorted(found, key=lambda box: -box.width * box.height)[:num_objects]
        return tuple(Box(b.label, b.left, b.top, min(b.width, 1 - b.left), min(b.height, 1 - b.top), b.group) for b in largest)

    def map_classes(self, data: ImageDataset) -> MapClasses:
        """What the maps of these pictures know. Raises `InputError` where one has no map."""
        return map_classes(self._map_paths(data), read_class_names(self.root), data.target)

    def maps(self, data: ImageDataset, classes: MapClasses) -> Tensor:
        """(N, H, W) class numbers after each picture's crop, uint8 where they fit, else int16."""
        paths = self._map_paths(data)
        unlabelled = classes.num if classes.unlabelled is None else classes.unlabelled
        height, width = data.target.height_width
        small = classes.num <= LABELS_IN_BYTES
        everything = torch.empty(len(data), height, width, dtype=torch.uint8 if small else torch.int16)

        def put(index: int) -> None:
            record = data.records[index]
            size = upright_size(record.read(), record.name)
            found = torch.from_numpy(read_map(paths[index], data.target, size, unlabelled))
            if int(found.max()) >= classes.num:
                raise InputError(f"{paths[index]}: class number {int(found.max())}; this model knows 0 to {classes.num - 1}.")
            everything[index] = found

        with ThreadPoolExecutor() as pool:
            list(pool.map(put, range(len(data))))
        return everything

    def _map_paths(self, data: ImageDataset) -> list[Path]:
        found = find_maps(self.root, [record.name for record in data.records])
        missing = next((record.name for record in data.records if record.name not in found), None)
        if missing is not None:
            raise InputError(
                f"{missing} has no class map among {len(found):,} others; put an index PNG of the same name into a folder "
                "maps/ beside images/."
            )
        return [found[record.name] for record in data.records]
