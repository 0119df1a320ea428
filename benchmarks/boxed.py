"""Work in processes of its own: what hangs, dies or takes too long is cut off and named, and the rest goes on."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

Result: TypeAlias = dict[str, Any]
Alone: TypeAlias = Callable[[], AbstractContextManager[None]]
Work: TypeAlias = Callable[[Any, Alone], Result]
Done: TypeAlias = Callable[[Any, Result], None]


class Boxes:
    """`count` processes that do one task at a time each; tasks and results are pickled.

    work   a function of a task, importable by its module's name, and of `alone`: inside `with alone():` no other task
           is inside its own, so that what is timed there has the device to itself
    """

    def __init__(self, work: Work, count: int) -> None:
        self.work = work
        self.context = multiprocessing.get_context("spawn")
        self.boxes = [_Box(self) for _ in range(count)]
        self.queue: list[_Box] = []

    def __enter__(self) -> Boxes:
        return self

    def __exit__(self, *error: object) -> None:
        for box in self.boxes:
            box.stop()

    def run(
        self, tasks: Iterable[Any], done: Done, *, each: float, until: float, count: int | None = None
    ) -> list[Any]:
        """`done(task, result)` for every task as it ends; returns those that had not ended by `until`.

        each   seconds that a task may work (waiting to be alone is not counted); then its process is ended, and the
               result is {"error": …}        until   a time of time.monotonic()
        count  how many processes take part (default: all)
        """
        boxes = self.boxes[:count]
        left, broken = list(tasks), list[Any]()
        while True:
            now = time.monotonic()
            for box in boxes:
                if box.task is not None and now >= box.due:
                    done(self.lose(box), {"error": f"cut off after {now - box.began:.0f} s"})
                elif box.task is not None and now >= until:
                    broken.append(self.lose(box))
                if box.task is None and box.ready and left and now < until:
                    box.begin(left.pop(0), each)
            starting = bool(left) and now < until
            awaited = [b for b in boxes if b.task is not None or (starting and not b.ready)]
            if not awaited:
                return broken + left
            ends = [min(b.due, until) if b.task is not None else until for b in awaited]
            told = wait([b.pipe for b in awaited], timeout=max(0.0, min(ends) - now))
            for box in awaited:
                if box.pipe in told:
                    self.hear(box, done)

    def hear(self, box: _Box, done: Done) -> None:
        try:
            what, result = box.pipe.recv()
        except (EOFError, OSError):
            box.process.join()
            if box.task is None:
                raise RuntimeError(
                    f"a process ended with status {box.process.exitcode} before its first task"
                ) from None
            status = box.process.exitcode
            done(self.lose(box), {"error": f"its process died with status {status}"})
            return
        match what:
            case "ready":
                box.ready = True
            case "alone":
                self.queue.append(box)
                box.rest()
                self.grant()
            case "together":
                self.queue.remove(box)
                self.grant()
            case "done":
                task, box.task = box.task, None
                done(task, result)

    def grant(self) -> None:
        """The first in the queue may be alone."""
        if self.queue and self.queue[0].resting is not None:
            self.queue[0].resume()

    def lose(self, box: _Box) -> Any:
        """The task that a process is taken from; a fresh one takes the next."""
        task = box.task
        box.stop()
        box.start()
        if box in self.queue:
            self.queue.remove(box)
            self.grant()
        return task


class _Box:
    """One process and what it does: `resting` is the time left to it when it began to wait."""

    def __init__(self, of: Boxes) -> None:
        self.of = of
        self.start()

    def start(self) -> None:
        self.pipe, other = self.of.context.Pipe()
        self.process = self.of.context.Process(target=_serve, args=(other, self.of.work), daemon=True)
        self.process.start()
        other.close()
        self.task: Any = None
        self.ready = False
        self.began = self.due = 0.0
        self.resting: float | None = None

    def begin(self, task: Any, seconds: float) -> None:
        self.task, self.began = task, time.monotonic()
        self.due = self.began + seconds
        self.pipe.send(task)

    def rest(self) -> None:
        self.resting = self.due - time.monotonic()
        self.due = float("inf")

    def resume(self) -> None:
        assert self.resting is not None
        self.due, self.resting = time.monotonic() + self.resting, None
        with suppress(BrokenPipeError):  # it has died: `hear` finds the pipe's end
            self.pipe.send("alone")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Work) -> None:
    @contextmanager
    def alone() -> Iterator[None]:
        pipe.send(("alone", None))
        pipe.recv()
        try:
            yield
        finally:
            pipe.send(("together", None))

    pipe.send(("ready", None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(("done", work(task, alone)))
