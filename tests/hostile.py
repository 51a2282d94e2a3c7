"""Files made to do harm: pickles that would call something, put where a reader may look. Each would work on a careless one."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sfumato.errors import InputError
from sfumato.interop.rebuild import Refused

CALLABLES = """
os.system posix.system nt.system os.popen os.execv os.remove os.path.join subprocess.Popen subprocess.call subprocess.run
subprocess.check_output commands.getoutput pty.spawn platform.popen webbrowser.open ctypes.CDLL socket.create_connection
socket.socket urllib.request.urlopen http.client.HTTPSConnection smtplib.SMTP requests.get aiohttp.ClientSession
builtins.eval builtins.exec builtins.compile builtins.open builtins.getattr builtins.setattr builtins.__import__
builtins.globals builtins.breakpoint builtins.print builtins.map builtins.type builtins.super builtins.vars builtins.input
__builtin__.eval __builtin__.execfile __builtin__.file __builtin__.getattr io.open _io.FileIO codecs.open
importlib.import_module importlib.reload imp.load_source runpy.run_path runpy._run_code pkgutil.resolve_name pydoc.locate
code.InteractiveInterpreter.runcode bdb.Bdb.run pdb.run cProfile.runctx profile.run timeit.timeit trace.Trace.run
doctest.debug_script test.support.script_helper.assert_python_ok idlelib.pyshell.ModifiedInterpreter.runcommand
operator.attrgetter operator.methodcaller operator.itemgetter functools.partial functools.reduce types.FunctionType
types.CodeType copyreg.add_extension copyreg.constructor copyreg.__newobj__ pickle.loads pickle.load _pickle.loads
marshal.loads shelve.open dill.loads joblib.load cloudpickle.loads pandas.read_pickle numpy.load
numpy.testing._private.utils.runstring numpy.f2py.crackfortran.myeval numpy.ctypeslib.load_library
torch.load torch.serialization.load torch.hub.load torch.storage._load_from_bytes torch.jit.load torch.ops.load_library
torch.utils.cpp_extension.load_inline torch.utils.data.datapipes.utils.decoder.basichandlers
torch._dynamo.guards.GuardBuilder.get torch._inductor.codecache.compile_file torch.fx.experimental.symbolic_shapes.eval
torch.testing._internal.common_utils.shell torch.nn.Module torch.nn.modules.linear.Linear torch.nn.functional.relu
torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor torch._utils._rebuild_wrapper_subclass
torch._utils._rebuild_meta_tensor_no_storage torch.package.PackageImporter torch.distributed.rpc.rpc_sync
shutil.rmtree shutil.move tempfile.mktemp pathlib.Path.write_text logging.config.dictConfig logging.FileHandler
pip.main pip._internal.main ensurepip.bootstrap venv.create distutils.file_util.write_file setuptools.setup
asyncio.run multiprocessing.Process threading.Thread signal.signal gc.get_objects inspect.getsource ssl.SSLContext
sqlite3.connect xmlrpc.client.ServerProxy yaml.unsafe_load jinja2.Template lib2to3.pgen2.driver.load_grammar
pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint.save_checkpoint omegaconf.OmegaConf.load
sfumato.generation.pipeline.load transformers.AutoModel.from_pretrained diffusers.DiffusionPipeline.from_pretrained
collections.OrderedDict.fromkeys collections.namedtuple torch.FloatStorage.from_file torch.Tensor.__reduce_ex__
""".split()  # noqa: SIM905

DRAWERS = ("global", "stack", "inst", "obj", "newobj", "newobj_ex", "build", "popped", "kept", "key", "late")


def text(value: str) -> bytes:
    """A text in protocols 1 to 5."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(name: str, argument: str, how: str) -> bytes:
    """Opcodes that leave one value, made by calling the global `name` with a text (all opcodes of protocols 0 to 4)."""
    module, _, last = name.rpartition(".")
    word = f"c{module}\n{last}\n".encode()
    stacked = text(module) + text(last) + b"\x93"  # STACK_GLOBAL
    one = b"(" + text(argument) + b"t"
    match how:
        case "global":
            return word + one + b"R"
        case "stack":
            return stacked + one + b"R"
        case "inst":
            return b"(" + text(argument) + f"i{module}\n{last}\n".encode()
        case "obj":
            return b"(" + word + text(argument) + b"o"
        case "newobj":
            return word + one + b"\x81"
        case "newobj_ex":
            return stacked + one + b"}\x92"
        case "build":  # the state of an object whose class is the global
            return word + b")\x81" + b"}" + text("x") + text(argument) + b"sb"
        case "popped":  # made and thrown away
            return word + one + b"R0N"
        case "kept":  # looked up, put into the memo and called from there
            return word + b"q\x630" + b"h\x63" + one + b"R"
        case "key":
            return b"}" + word + one + b"R" + b"Ns"
        case "late":  # inside a list in a tuple in a table
            return b"}" + text("a") + b"(](" + word + one + b"Re" + b"t" + b"s"
    raise AssertionError(how)


#: A list of two of a list of two ... 60 times: 2^60 leaves for who walks it, 60 lists in memory.
DOUBLING = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))

TRICKS: dict[str, bytes] = {
    "a dotted name": text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93",
    "a module inside an allowed one": text("collections.OrderedDict") + text("__class__") + b"\x93",
    "an empty module": text("") + text("os.system") + b"\x93",
    "a module that is a number": b"K\x01" + text("system") + b"\x93",
    "a module that is a table": b"}" + text("system") + b"\x93",
    "a line break in a name": text("os\nsystem") + text("x") + b"\x93",
    "control characters": text("os\x1b[2Jsystem\x07") + text("x") + b"\x93",
    "other letters that look alike": text("tоrch") + text("FloatStorage") + b"\x93",
    "spaces": b"ctorch FloatStorage\nx\n",
    "an extension code": b"\x82\x01",
    "an extension code of two bytes": b"\x83\x01\x01",
    "an extension code of four bytes": b"\x84\x01\x01\x01\x01",
    "an out-of-band buffer": b"\x97",
    "calling what is no name": b"K\x01)R",
    "calling a table": b"})R",
    "calling a tensor class": b"ctorch\nTensor\nK\x01R",
    "calling a storage class": b"ctorch\nFloatStorage\n)R",
    "calling a type": b"ctorch\nfloat32\n)R",
    "making objects of a number": b"K\x01)\x81",
    "state of a class": b"ccollections\nOrderedDict\n}b",
    "state of a number": b"K\x01}b",
    "items of a class": b"ccollections\nOrderedDict\nK\x01K\x02s",
    "appending to a text": text("a") + b"K\x01a",
    "a table of other than pairs": b"ccollections\nOrderedDict\n](K\x01K\x02e\x85R",
    "a tensor made by another name": b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nTensor\n)}tR",
    "a tensor of another class": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nccollections\nOrderedDict\n)}tR"
    ),
    "a tensor without arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a tensor in itself": b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88}tR",
    "a module behind a reference": b"(" + text("module") + b"K\x01K\x02K\x03tQ",
    "a reference that is a text": text("storage") + b"Q",
    "protocol 6": b"\x80\x06N",
    "an unknown operation": b"\xff",
    "a value from nowhere in the memo": b"h\x63",
    "an empty stack": b"00000",
    "a mark that is missing": b"et",
    "a number that is none": b"I1x\n",
    "a float that is none": b"Fx\n",
    "a text that is no text": b"X\x02\x00\x00\x00\xff\xff",
    "a text longer than the file": b"X\xff\xff\xff\x7fa",
    "a text of 2^63 bytes": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa",
    "bytes of 2^64": b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffa",
    "a number of 2^31 bytes": b"\x8b\xff\xff\xff\x7f1",
    "a number of negative length": b"\x8b\xff\xff\xff\xff1",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n",
    "nested tables": b"}K\x01" * 5000 + b"N" + b"s" * 5000,
    "nested marks": b"(" * 2000,
}


def state() -> dict[str, torch.Tensor]:
    """Tensors of an honest checkpoint."""
    rng = torch.Generator().manual_seed(0)
    return {"w": torch.randn(4, 3, generator=rng), "b": torch.arange(5)}


def with_pickle(path: Path, change: object, *, legacy: int | None = None, after: bytes = b"") -> Path:
    """An honest checkpoint with other bytes in its pickle: `change` maps the old to the new.

    `legacy`: which of the old format's five pickles, from 0; None for a zip's data.pkl. `after`: bytes behind its STOP.
    """
    assert callable(change)
    buffer = io.BytesIO()
    torch.save({"state_dict": state(), "global_step": 7}, buffer, _use_new_zipfile_serialization=legacy is None)
    if legacy is not None:
        parts = streams(buffer.getvalue())
        parts[legacy] = change(parts[legacy]) + after
        path.write_bytes(b"".join(parts))
        return path
    rewrite(path, buffer.getvalue(), {"archive/data.pkl": lambda data: change(data) + after})
    return path


def streams(data: bytes) -> list[bytes]:
    """The five pickles of the old format, and the storages behind them."""
    file = io.BytesIO(data)
    parts = []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(data[start : file.tell()])
    return [*parts, data[file.tell() :]]


def rewrite(path: Path, archive: bytes, changes: dict[str, object], extra: dict[str, bytes] | None = None) -> None:
    """A zip again, members changed or added, uncompressed."""
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            change = changes.get(info.filename, lambda data: data)
            assert callable(change)
            new.writestr(info.filename, change(old.read(info)))
        for name, data in (extra or {}).items():
            new.writestr(name, data)


def first(payload: bytes) -> object:
    """A change that does `payload` first and forgets its result."""
    return lambda data: data[:2] + payload + b"0" + data[2:]


def pickles(payload: bytes) -> Iterator[bytes]:
    """A payload as a whole pickle of each protocol's header; what a reader does not check, it would run."""
    for protocol in range(6):
        yield (b"\x80" + bytes([protocol]) if protocol > 1 else b"") + payload + b"."


def refusal(work: Callable[[], Any]) -> str | None:
    """What `work` says when it refuses, None when it is done; any other error comes through."""
    try:
        work()
    except (InputError, Refused) as error:
        return str(error)
    return None
