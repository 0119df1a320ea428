"""Methods that torch.compile takes as one operator: it need not follow the Python that plans a program.

The operator is `mixer_ir::run` (backends/ops.py). What happens on the way to it is run once, while the graph is made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import torch

from mixer_ir.errors import too_deep

COUNT = count()
LIVE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""what graphs name by a word, as they hold no objects"""

Method = TypeVar("Method", bound=Callable[..., Any])


def handle_of(x: object) -> str:
    """A word for x, as long as it lives."""
    word = f"mixer {next(COUNT)}"
    LIVE[word] = x
    return word


def traceable(method: Method) -> Method:
    """The method; inside torch.compile, what it comes to. The object that it is of has its word as `handle`.

    DeclarationError for a `mixer` that is nested too deep.
    """

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            from mixer_ir.driver import graphs  # it costs seconds, which only a process that compiles graphs has paid

            given = {n: x for n, x in kwargs.items() if x is not None}
            return graphs.call(self.handle, method.__name__, [x for x in args if x is not None], given)
        try:
            return method(self, *args, **kwargs)
        except RecursionError as error:
            raise too_deep(self.mixer.name) from error

    return cast(Method, call)
