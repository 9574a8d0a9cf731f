"""What a source of files says of its samples before any of them is made: for those who look for what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from attrs import evolve, field, frozen

from qi_core.blob import Blob, opened
from qi_core.entries import Entry
from qi_core.fit import Fit
from qi_core.pixels import Unusable, refuse_misfit, size_of
from qi_core.sizes import Size, cropped, nearest, own_size, scale

_AT_ONCE = 256
T = TypeVar("T")
U = TypeVar("U")


@frozen(kw_only=True)
class Problem:
    """Why a sample, or what lies beside samples, is not used."""

    reason: str
    detail: str = ""


@frozen(kw_only=True)
class Pictured:
    """A stored picture."""

    length: int
    """Bytes of its file."""
    size: Size | None = None
    """Upright; None if that cannot be told."""
    target: Size | None = None
    """What it would be made to fit."""
    scaled: float = 1.0
    """The factor by which it would be; above 1 it is enlarged."""
    cropped: float = 0.0
    """Share of it that would be cut off."""
    alpha: bool = False
    """Whether it can be transparent."""
    stored: Blob = field(repr=False)
    """Its bytes."""

    @classmethod
    def fitted(cls, blob: Blob, length: int, size: Size, target: Size, alpha: bool) -> Pictured:
        """One that would be made to fit ``target``."""
        return cls(
            length=length,
            size=size,
            target=target,
            scaled=scale(size, target),
            cropped=cropped(size, target),
            alpha=alpha,
            stored=blob,
        )

    def digest(self, most: int) -> bytes:
        """Of its bytes. Raises Unusable."""
        return hashlib.blake2b(self.stored.read(most), digest_size=16).digest()


@frozen(kw_only=True)
class Listing:
    """A sample, or what might have been one."""

    key: str
    caption: str | None = None
    """None if there is none."""
    image: Pictured | None = None
    """What is trained towards; None if it cannot be read."""
    references: tuple[Pictured, ...] = ()
    """Pictures to edit, those that can be read."""
    names: tuple[str, ...] = ()
    """What the files are called, with their folders: the picture's, then the references'."""
    rival: Pictured | None = None
    """Of a pair, the picture that lost."""
    problems: tuple[Problem, ...] = ()
    """Why the source would not use it; none if it would."""


@runtime_checkable
class Listed(Protocol):
    """The settings of a source that can list what it would draw from, in one order."""

    def entries(self, multiple: int) -> Iterator[Listing]:
        """All samples, and what is no sample and should have been one. ``multiple``: as ``build`` gets it.

        Raises QiError where there is nothing at all.
        """
        ...


@runtime_checkable
class Counting(Protocol):
    """The settings of a conditioner that knows how many tokens a prompt has, without its weights."""

    @property
    def max_length(self) -> int:
        """Tokens that a prompt without reference pictures may have; what is longer is cut or refused."""
        ...

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Of each, as they count against ``max_length``. Raises QiError where the tokenizer's files are not there."""
        ...


def looked_at(fit: Fit, entry: Entry) -> Listing:
    """By caption and headers; nothing is decoded."""
    problems: list[Problem] = []
    caption: str | None = None
    try:
        caption = evolve(fit, captions="empty").caption(entry) or None
    except Unusable as error:
        problems.append(Problem(reason=error.reason, detail=error.detail))
    if caption is None and not problems and fit.captions == "require":
        problems.append(Problem(reason="caption missing"))
    pictures: list[Pictured | None] = []
    for number, blob in enumerate((entry.image, *entry.references)):
        picture, problem = pictured(fit, blob, reference=number > 0)
        pictures.append(picture)
        if problem:
            problems.append(problem)
    return Listing(
        key=entry.key,
        caption=caption,
        image=pictures[0],
        references=tuple(picture for picture in pictures[1:] if picture),
        names=tuple(_name(blob) for blob in (entry.image, *entry.references)),
        problems=tuple(problems),
    )


def pictured(fit: Fit, blob: Blob, *, reference: bool) -> tuple[Pictured | None, Problem | None]:
    """A picture by its header, and why it would not be used."""
    prefix = "reference: " if reference else ""
    try:
        with opened(blob, fit.limits.file, fit.limits.pixels) as (image, size):
            picture, alpha = size_of(image), bool(image.has_transparency_data)
    except Unusable as error:
        return None, Problem(reason=prefix + error.reason, detail=error.detail)
    if reference:
        target = own_size(fit.reference_area, picture, fit.multiple, fit.enlarge)
    else:
        target = nearest(fit.buckets, picture)
    told = Pictured.fitted(blob, size, picture, target, alpha)
    try:
        refuse_misfit(picture, target, fit.enlarge, fit.max_cropped)
    except Unusable as error:
        return told, Problem(reason=prefix + error.reason, detail=error.detail)
    return told, None


def side_by_side(work: Callable[[T], U], things: Iterable[T], workers: int) -> Iterator[U]:
    """``work`` on each, in threads, in order; as many as are asked for and few more."""
    waiting = iter(things)
    with ThreadPoolExecutor(workers, thread_name_prefix="qi-looking") as pool:
        while some := list(islice(waiting, _AT_ONCE)):
            yield from pool.map(work, some)


def _name(blob: Blob) -> str:
    """With its folder, which may say what it is."""
    return "/".join(blob.path.replace("\\", "/").split("/")[-2:])
