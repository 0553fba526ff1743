"""Items of a stream taken together until there is enough of them.

Main entry: `in_batches`. Invariant: the order stays, no batch is empty, and each but the last is enough.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


def in_batches(items: Iterable[_Item], enough: int, size: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Lists of items whose sizes first add up to `enough`, and what is left in the end."""
    batch: list[_Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= enough:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
