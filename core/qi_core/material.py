"""What samples are made of besides the settings: files, told by their content. So it shows when one was edited.

A material is told as pairs of what messages call it, such as ``text = 'lines.txt'``, and a digest, which is the same on
every machine with the same files, wherever they lie there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from qi_core.blob import stamp_of
from qi_core.errors import QiError
from qi_core.pixels import Unusable
from qi_core.source import OfFiles

Told = tuple[tuple[str, str], ...]
"""A material in an order, as orders carry it."""


def told(source: object) -> Told:
    """What a live source is made of; nothing where it does not say."""
    return tuple(sorted(source.made_of().items())) if isinstance(source, OfFiles) else ()


def digest(parts: Iterable[str | bytes]) -> str:
    """Of all of them, in their order."""
    hashed = blake2b(digest_size=8)
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()


def of_all(sources: Mapping[str, object]) -> dict[str, str]:
    """What several live sources are made of together, under their labels."""
    return {f"{label}: {name}": digest for label, source in sources.items() for name, digest in told(source)}


def refuse_others(trainers: Told, source: object) -> None:
    """Raises QiError where a producer's own source is made of other files than the trainer's: it would make other
    samples of the same tickets."""
    if not trainers or (own := told(source)) == trainers:
        return
    differing = sorted({name for name, _ in set(own) ^ set(trainers)})
    raise QiError(
        f"version skew: {_some(differing)}: the producer's files are not the trainer's, and would make other samples; "
        "have the same files on both sides, and start both anew"
    )


def unchanged(
    kept: Mapping[str, str] | None, now: Mapping[str, str], changed: Literal["refuse", "next-epoch"]
) -> list[str]:
    """At a resume: which of the files that a checkpoint was made with, and that the settings still name, are not what
    they were. Raises QiError where there are any and ``changed`` refuses that. ``kept``: None in a checkpoint from
    before it was told."""
    others = [name for name, told in (kept or {}).items() if now.get(name, told) != told]
    if others and changed == "refuse":
        raise QiError(
            f"source: {_some(others)} changed since the checkpoint; put back what was there, or set source.changed = "
            "'next-epoch' to go on with what is there"
        )
    return others


def next_round(n: int, before: int, now: int) -> int:
    """Where the next time round begins, for who was at ``n`` of a list that was ``before`` long and is ``now``."""
    return -(-n // max(before, 1)) * now


@frozen(kw_only=True)
class Found:
    """Files of a folder as they were when it was listed."""

    folder: Path
    files: tuple[str, ...]
    """Paths within it with the endings that were asked for, in the order of names."""
    digest: str
    """Of names and sizes of these and of those that may lie beside them: nothing was opened."""
    stamps: Mapping[str, int] = field(repr=False)
    """What each of them was, for ``refuse_changed``."""

    def refuse_changed(self, name: str, descriptor: int) -> None:
        """Raises Unusable if an open file is not what was found under this name."""
        if stamp_of(os.fstat(descriptor)) != self.stamps.get(name):
            raise Unusable("changed since it was found", f"{name}: another size or time of the last change")


def listed(folder: Path, endings: tuple[str, ...], beside: tuple[str, ...] = ()) -> Found:
    """What lies in a folder and those within it, names that begin with a dot left alone. ``endings`` in small letters;
    ``beside``: of files that are told in the digest without being listed, such as captions."""
    files: list[str] = []
    sizes: dict[str, int] = {}
    stamps: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(place, folder)
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if name.startswith(".") or ending not in endings + beside:
                continue
            path = name if within == "." else f"{within}/{name}".replace(os.sep, "/")
            try:
                status = os.stat(os.path.join(place, name))
            except OSError:  # a link that leads nowhere
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            sizes[path], stamps[path] = status.st_size, stamp_of(status)
            if ending in endings:
                files.append(path)
    told = digest(f"{path} {size}" for path, size in sorted(sizes.items()))
    return Found(folder=folder, files=tuple(sorted(files)), digest=told, stamps=stamps)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
