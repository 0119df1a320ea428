"""A small cache: the most recently used things, made once even when several threads ask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """At most `size` things; the one that was not used for longest goes first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = RLock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing under `key`, made now if it is not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            made = self._held[key] = make()
            if len(self._held) > self.size:
                self._held.popitem(last=False)
            return made

    def held(self) -> list[T]:
        """What is there, the most recently used last."""
        with self._lock:
            return list(self._held.values())

    def __len__(self) -> int:
        return len(self._held)
