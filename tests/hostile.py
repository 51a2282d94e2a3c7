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
