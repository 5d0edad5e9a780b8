"""Work that is started ahead of its use."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Yields the items in order, each once `depth` further ones have been taken.

    Taking an item starts its work, so at most depth + 1 pieces of work are under way.
    """
    started: deque[Item] = deque()
    for item in items:
        started.append(item)
        if len(started) > depth:
            yield started.popleft()
    yield from started
