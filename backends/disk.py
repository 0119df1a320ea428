"""Files that are kept between processes: each whole or not there, whoever writes at once or dies on the way.

A file is written under a name of its own, then renamed. What is read begins with the digest of what follows, so that a
file which the disk lost a part of counts as not there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

UNFINISHED = ".making-"
OLD = 86_400.0
"""seconds after which what was being written is no longer being written"""
ROOT = Path(__file__).parent.parent
SUFFIXES = (".py", ".c", ".h")


def folder(part: str) -> Path:
    """A folder in MIXER_IR_CACHE; or in mixer-ir in XDG_CACHE_HOME, or in ~/.cache."""
    own = os.environ.get("MIXER_IR_CACHE")
    place = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixer-ir"
    return place / part


def write(path: Path, data: bytes) -> None:
    """`data` as the file, whole or not at all. OSError where the folder takes nothing."""
    with tempfile.NamedTemporaryFile(prefix=UNFINISHED, dir=path.parent, delete=False) as f:
        f.write(data)
    os.replace(f.name, path)


def clean(place: Path) -> None:
    """What processes left half made long ago is taken away, unless another one was faster or it is not ours."""
    for left in place.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@cache
def emitter(backend: str) -> str:
    """The digest of the code that turns programs into a backend's text: what was kept hangs on all of it."""
    folders = (ROOT / "backends" / backend, ROOT / "backends", ROOT / "lowering")
    files = [f for place in folders for f in place.iterdir() if f.suffix in SUFFIXES]
    found = sha256()
    for file in sorted((*files, ROOT / "mixer_ir" / "nodes" / "functions.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


class Store:
    """Bytes by key (letters and digits), in one folder."""

    def __init__(self, part: str) -> None:
        self.part = part

    def get(self, key: str) -> bytes | None:
        """What is kept under `key`; None where nothing whole is."""
        try:
            head, _, data = (folder(self.part) / key).read_bytes().partition(b"\n")
        except OSError:
            return None
        return data if head.decode("ascii", "replace") == sha256(data).hexdigest() else None

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`; a folder that cannot be written to is told of, and nothing is kept."""
        place = folder(self.part)
        try:
            place.mkdir(parents=True, exist_ok=True)
            clean(place)
            write(place / key, sha256(data).hexdigest().encode() + b"\n" + data)
        except OSError as error:
            warnings.warn(
                f"nothing is kept for later processes, as {place} cannot be written to ({error.strerror}); "
                "name another folder with MIXER_IR_CACHE",
                stacklevel=2,
            )
