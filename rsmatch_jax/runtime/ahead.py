"""Work that is started ahead of its use: taking an item from an iterator starts it."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Yields the items in order, each once `depth` further ones have been taken."""
    started: deque[Item] = deque()
    for item in items:
        started.append(item)
        if len(started) > depth:
            yield started.popleft()
    yield from started
