"""What is in the shards, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator

from qi_core.listing import Listing, Problem, looked_at, side_by_side
from qi_core.pixels import Unusable, prepare
from qi_plugins.source_webdataset.component import WebDataset
from qi_plugins.source_webdataset.names import shards
from qi_plugins.source_webdataset.shelf import Opened, Shelf


def entries(settings: WebDataset, multiple: int) -> Iterator[Listing]:
    """Raises QiError at once where there is no shard by those names."""
    return _entries(settings, Shelf.of(settings, shards(settings.shards)), multiple)


def _entries(settings: WebDataset, shelf: Shelf, multiple: int) -> Iterator[Listing]:
    prepare()
    fit = settings.fit(0, multiple)

    def listing(where: tuple[Opened, int]) -> Listing:
        opened, number = where
        try:
            return looked_at(fit, opened.entry(number, fit.limits))
        except Unusable as error:
            return Listing(key=opened.key(number), problems=(Problem(reason=error.reason, detail=error.detail),))

    try:
        for number, shard in enumerate(shelf.shards):
            if number + 1 < len(shelf.shards):
                shelf.begin(number + 1)
            try:
                opened = shelf.opened(number)
            except Unusable as error:
                problem = Problem(reason=f"shard: {error.reason}", detail=error.detail)
                yield Listing(key=shard.name, problems=(problem,))
                continue
            for key, reason, detail in opened.told:
                yield Listing(key=shard.name + key, problems=(Problem(reason=reason, detail=detail),))
            yield from side_by_side(listing, ((opened, n) for n in range(len(opened))), settings.workers)
    finally:
        shelf.close()
