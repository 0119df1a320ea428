"""Work in the background: one thread takes what is asked for in turn, and ends with the interpreter.

The thread waits for compilers, which are processes; it never holds the interpreter up. A process that is forked
starts with nothing asked for.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from backends.native.compiler import RUNNING

T = TypeVar("T")
PATIENCE = 2.0
"""seconds that the end of the interpreter waits for the thread to clear up behind it"""


class Job(Generic[T]):
    """Something that is being made; `done` tells when `result` or `error` stands."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result = self._make()
        except Exception as error:
            self.error = error
        self.done = True


class Background:
    """The thread, started with the first job."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a process that was just forked: the thread is not there, and neither is what it was asked for."""
        self.age = getattr(self, "age", 0) + 1
        self._asked: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._last: Job[object] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being made: jobs are taken in turn, so the last one tells."""
        return self._last is not None and not self._last.done

    def ask(self, make: Callable[[], T]) -> Job[T]:
        """Has something made."""
        job = Job(make)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mixer-ir compiler", daemon=True)
                self._thread.start()
            self._last = job  # type: ignore[assignment]
            self._asked.put(job)  # type: ignore[arg-type]
        return job

    def _work(self) -> None:
        while (job := self._asked.get()) is not None:
            job.run()

    def stop(self) -> None:
        """Ends what is being compiled, and lets the thread clear up."""
        RUNNING.stop()
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(PATIENCE)


BACKGROUND = Background()
atexit.register(BACKGROUND.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=BACKGROUND.forget)
