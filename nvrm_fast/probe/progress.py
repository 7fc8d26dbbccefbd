"""A progress bar where the package tqdm is installed and the output is a terminal; else nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

try:
    from tqdm import tqdm
except ModuleNotFoundError:
    tqdm = None


def progress_bar(total: int, done: int, shown: bool) -> contextlib.AbstractContextManager[Callable[[], object]]:
    """A block that gets a function to call after every step."""
    if tqdm is None or not shown:
        return contextlib.nullcontext(lambda: None)

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[], object]]:
        with tqdm(total=total, initial=done, unit=" steps", disable=None, dynamic_ncols=True) as shown_bar:
            yield shown_bar.update

    return bar()
