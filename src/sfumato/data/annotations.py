"""What stands beside pictures in the usual formats: COCO's boxes (`coco`) and index maps (`maps`), by one name."""

from sfumato.data.coco import BoxShare, Coco, CocoBox, boxes_in_crop, check_size, read_coco
from sfumato.data.decode import upright_size
from sfumato.data.maps import MapClasses, find_maps, find_pictures_root, map_classes, read_class_names, read_map

__all__ = [
    "BoxShare",
    "Coco",
    "CocoBox",
    "MapClasses",
    "boxes_in_crop",
    "check_size",
    "find_maps",
    "find_pictures_root",
    "map_classes",
    "read_class_names",
    "read_coco",
    "read_map",
    "upright_size",
]
