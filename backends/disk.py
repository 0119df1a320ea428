"""Files that are kept between processes: each whole or not there, whoever writes at once or dies on the way.

A file is written under a name of its own, then renamed. What is read begins with the digest of what follows, so that a
file which the disk lost a part of counts as not there.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from hashlib import sha256
from pathlib import Path

UNFINISHED = ".making-"
OLD = 3600.0
"""seconds after which what was being written is no longer being written"""


def folder(part: str) -> Path:
    """A folder in MIXER_IR_CACHE; or in mixer-ir in XDG_CACHE_HOME, or in ~/.cache."""
    own = os.environ.get("MIXER_IR_CACHE")
    place = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixer-ir"
    return place / part


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
            _clean(place)
            with tempfile.NamedTemporaryFile(prefix=UNFINISHED, dir=place, delete=False) as f:
                f.write(sha256(data).hexdigest().encode() + b"\n" + data)
            os.replace(f.name, place / key)
        except OSError as error:
            warnings.warn(
                f"nothing is kept for later processes, as {place} cannot be written to ({error.strerror}); "
                "name another folder with MIXER_IR_CACHE",
                stacklevel=2,
            )


def _clean(place: Path) -> None:
    """Files that processes left half written long ago are taken away."""
    for path in place.glob(f"{UNFINISHED}*"):
        try:
            if time.time() - path.stat().st_mtime > OLD:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was faster
