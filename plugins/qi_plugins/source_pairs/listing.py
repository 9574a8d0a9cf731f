"""What is in the rows, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from qi_core.blob import Blob, opened
from qi_core.listing import Listing, Pictured, Problem, side_by_side
from qi_core.pixels import Unusable, prepare, size_of
from qi_core.sizes import nearest, own_size
from qi_plugins.source_pairs.fit import Fit
from qi_plugins.source_pairs.rows import Couple


def listed(found: Sequence[Couple], told: Sequence[Listing], fit: Fit, workers: int) -> Iterator[Listing]:
    """``told``: what was skipped when it was found."""
    prepare()
    yield from told
    yield from side_by_side(partial(looked_at, fit), found, workers)


def looked_at(fit: Fit, couple: Couple) -> Listing:
    """By headers; nothing is decoded."""
    problems: list[Problem] = []
    try:
        fit.check(couple)
    except Unusable as error:
        problems.append(Problem(reason=error.reason, detail=error.detail))
    pictures = [
        _pictured(fit, number, blob) for number, blob in enumerate((couple.winner, couple.loser, *couple.references))
    ]
    return Listing(
        key=couple.key,
        caption=couple.prompt or None,
        image=pictures[0],
        rival=pictures[1],
        references=tuple(picture for picture in pictures[2:] if picture),
        problems=tuple(problems),
    )


def _pictured(fit: Fit, number: int, blob: Blob) -> Pictured | None:
    try:
        with opened(blob, fit.max_file, fit.max_pixels) as (image, length):
            size, alpha = size_of(image), bool(image.has_transparency_data)
    except Unusable:
        return None
    if number > 1:
        target = own_size(fit.reference_area, size, fit.multiple, fit.enlarge)
    else:
        target = nearest(fit.buckets, size)
    return Pictured.fitted(blob, length, size, target, alpha)
