"""What a file is, told from its bytes; its name says nothing.

safetensors    8 bytes n, then n bytes of JSON that begin with "{"
torch zip      "PK\\3\\4" (torch.save since 1.6)
torch legacy   a pickle of the number 0x1950a86a20f9469cfc6c, then four more and the storages
"""

from __future__ import annotations

import enum
import re
import stat
from pathlib import Path

from sfumato.errors import InputError

HEAD = 4096
_LEGACY = (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
_OLD_PICKLE = re.compile(rb"\(*(?:[ci][\w.]+\r?\n[\w.]+\r?\n|L\d+L\n|I\d+\n|[)\]}][.pq(]|S['\"]|V[^\n]*\np)|\(+[ldt]")


class Kind(enum.Enum):
    """Formats that are read, with the words that a message uses."""

    safetensors = "a safetensors file"
    torch_zip = "a torch.save file"
    torch_legacy = "a torch.save file of the format before 1.6"
    folder = "a diffusers folder"


def kind_of(path: Path) -> Kind:
    """The format of a file. Raises `InputError` that says what it is instead: a pointer, a page, an archive, nothing."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a pipe would make the reader wait
            raise InputError(f"{path} is a pipe or a device; expected a file.")
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a file.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read by this user; change its permissions.") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r} cannot be opened ({type(error).__name__}); check its name.") from None
    if head.startswith(b"PK\x03\x04"):
        return Kind.torch_zip
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**40:  # also one cut off: its reader says so
        return Kind.safetensors
    if head[:1] == b"\x80" or head.startswith(_LEGACY[1]) or _OLD_PICKLE.match(head):
        return Kind.torch_legacy
    raise InputError(f"{path} {_what(head, found.st_size)}")


_SIGNATURES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`."),
    (b"PK\x05\x06", "is an empty zip archive; expected a checkpoint."),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first."),
    (b"\xfd7zXZ\0", "is compressed by xz; unpack it first."),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first."),
    (b"Rar!", "is a RAR archive; unpack it first."),
    (b"GGUF", "is a GGUF file; expected .safetensors, .ckpt or a diffusers folder."),
    (b"\x89HDF", "is an HDF5 file (Keras?); expected .safetensors, .ckpt or a diffusers folder."),
    (b"\x93NUMPY", "is a NumPy array; expected .safetensors, .ckpt or a diffusers folder."),
    (b"\x89PNG", "is a picture; expected a checkpoint."),
    (b"\xff\xd8\xff", "is a picture; expected a checkpoint."),
)


def _what(head: bytes, size: int) -> str:
    """The rest of a sentence about a file that is no checkpoint."""
    if not size:
        return "is empty; the download or copy did not finish, get it again."
    for signature, sentence in _SIGNATURES:
        if head.startswith(signature):
            return sentence
    if head[257:262] == b"ustar":
        return "is a tar archive, as torch.save wrote before 0.1.10; expected .safetensors, .ckpt or a diffusers folder."
    if not head.strip(b"\0"):
        return "begins with zeros only; the download or copy did not finish, get it again."
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<")):
        return "is a web page, not the file itself; the download needs a login or another address."
    if text.startswith((b"{", b"[")):
        return "is JSON text; expected .safetensors, .ckpt or a diffusers folder."
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "is text; expected .safetensors, .ckpt or a diffusers folder."
    if size < 16:
        return f"has {size} bytes only; the download or copy did not finish, get it again."
    return "is in no format that is read here; expected .safetensors, .ckpt or a diffusers folder."
