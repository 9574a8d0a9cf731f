"""What the source finds, and what lies beside it and should have been something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from qi_core.entries import EXTENSIONS
from qi_core.fit import Fit
from qi_core.listing import Listing, Problem, looked_at, side_by_side
from qi_plugins.source_images.find import Found


def listed(
    found: Found, told: list[Listing], path: Path, caption_extension: str, fit: Fit, workers: int
) -> Iterator[Listing]:
    """``told``: what was skipped when it was found."""
    yield from told
    if path.is_dir():
        yield from _beside(path, caption_extension)
    yield from side_by_side(partial(looked_at, fit), found.entries, workers)


def _beside(root: Path, caption_extension: str) -> Iterator[Listing]:
    """Captions without a picture, and folders with nothing in them."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        under = os.path.relpath(folder, root).replace(os.sep, "/")
        if not folders and not names:
            yield Listing(key=under, problems=(Problem(reason="folder without pictures"),))
        pictures = {os.path.splitext(name)[0] for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS}
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension == caption_extension and stem not in pictures:
                key = name if under == "." else f"{under}/{name}"
                yield Listing(key=key, problems=(Problem(reason="caption without a picture"),))
