"""Names that a checkpoint's pickle may mention. None is ever imported: each is a word that `pickles` knows how to read.

A name outside these tables is refused. The first tables are what tensors are made of; the last one is what training
frameworks leave beside them (callbacks, hyper-parameters), which is read past and thrown away.
"""

from __future__ import annotations

from typing import Final

#: Storage class -> type of its elements. An untyped storage counts bytes.
STORAGES: Final = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
        "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
    }.items()
} | {"torch.storage.UntypedStorage": "uint8", "torch.UntypedStorage": "uint8"}  # fmt: skip

#: Bytes an element of every type that a file may hold.
ITEMSIZE: Final = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int64": 8, "int32": 4,
    "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip

#: Type objects, as newer tensors name them.
DTYPES: Final = {f"torch.{name}": name for name in ITEMSIZE}

REBUILD_V1: Final = "torch._utils._rebuild_tensor"
REBUILD_V2: Final = "torch._utils._rebuild_tensor_v2"
REBUILD_V3: Final = "torch._utils._rebuild_tensor_v3"
REBUILD_PARAMETER: Final = "torch._utils._rebuild_parameter"
REBUILD_PARAMETER_STATE: Final = "torch._utils._rebuild_parameter_with_state"
REBUILD_FROM_TYPE: Final = "torch._tensor._rebuild_from_type_v2"
REBUILDS: Final = {REBUILD_V1, REBUILD_V2, REBUILD_V3, REBUILD_PARAMETER, REBUILD_PARAMETER_STATE, REBUILD_FROM_TYPE}

#: Classes that a tensor may say it is of.
TENSORS: Final = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}

#: Classes that are read as a table of their items.
TABLES: Final = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "__builtin__.dict",
}  # fmt: skip
SIZE: Final = "torch.Size"

_LIGHTNING = (
    "callbacks.model_checkpoint.ModelCheckpoint", "callbacks.early_stopping.EarlyStopping",
    "callbacks.lr_monitor.LearningRateMonitor", "callbacks.timer.Timer", "callbacks.base.Callback",
    "callbacks.callback.Callback", "utilities.parsing.AttributeDict", "utilities.enums.LightningEnum",
    "trainer.states.TrainerFn", "trainer.states.TrainerStatus", "trainer.states.RunningStage",
)  # fmt: skip
_NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")

#: Read past: nothing of what they hold is kept.
HARMLESS: Final = {
    *(f"{package}.{name}" for package in ("pytorch_lightning", "lightning.pytorch") for name in _LIGHTNING),
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf.base.SCMode", "omegaconf.nodes.AnyNode", "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode", "omegaconf.nodes.IntegerNode", "omegaconf.nodes.StringNode",
    "omegaconf.nodes.EnumNode", "omegaconf.nodes.BytesNode", "omegaconf.nodes.PathNode",
    "typing.Any", "typing.Union", "typing.Optional", "typing.Dict", "typing.List",
    "argparse.Namespace", "types.SimpleNamespace",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "datetime.datetime", "datetime.date", "datetime.timedelta",
    *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in _NUMPY),
    "numpy.dtype", "numpy.ndarray", "_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("object", "set", "frozenset", "list", "tuple", "int", "float", "bool", "str", "bytes", "bytearray",
                     "complex", "slice", "range", "xrange", "long", "unicode")
    ),
    "collections.deque", "torch.device", "torch.dtype", "torch.serialization._get_layout", "torch.torch_version.TorchVersion",
    *TENSORS,
}  # fmt: skip

ALLOWED: Final = {*STORAGES, *DTYPES, *REBUILDS, *TABLES, SIZE, *HARMLESS}
