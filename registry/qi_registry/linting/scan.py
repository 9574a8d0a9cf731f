"""A recipe -> what is wrong with its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import attrs
from attrs import evolve, frozen

from qi_core.errors import QiError
from qi_core.listing import Counting, Listed, Listing, Problem, side_by_side
from qi_core.planning import Sized
from qi_registry.linting import captions, pictures
from qi_registry.linting.finding import Finding, Rule

if TYPE_CHECKING:
    from qi_registry.recipe import Recipe

MULTIPLE = 16
"""Of sides, where the autoencoder does not say."""
CHARACTERS = 4
"""In a token of English, about; a Chinese character is one."""


@frozen(kw_only=True)
class Looked:
    """What was looked at of one source, and what was found."""

    source: str
    """Where it stands in the recipe."""
    seen: int
    whole: bool
    """Whether that was all."""
    findings: tuple[Finding, ...]


def scan(
    recipe: Recipe, *, most: int = 0, decode: bool = False, told: Callable[[str, int], None] = lambda _, __: None
) -> list[Looked]:
    """Raises QiError where a recipe has no source that lists what it has, or one that cannot be looked at.

    ``most``: samples of a source that are looked at, from its first on; 0: all. ``decode``: all pictures are decoded.
    ``told``: called now and then with a source and how many were seen of it.
    """
    found = list(listed(recipe.source, "source"))
    weights = list(_weights(recipe.source, "source"))
    if not found and not weights:
        raise QiError(
            f"{type(recipe.source).__name__}: no source of the recipe has files to look at; wanted images, curated, "
            "pairs, webdataset or another that lists its entries (qi_core.listing.Listed)"
        )
    multiple = _multiple(recipe)
    looked = [_look(recipe, where, component, multiple, most, decode, told) for where, component in found]
    return [*weights, *looked]


def listed(part: Any, where: str) -> Iterator[tuple[str, Listed]]:
    """Components within a component that list their entries, each with its place in the recipe."""
    if isinstance(part, tuple | list):
        for number, each in enumerate(part):
            yield from listed(each, f"{where}[{number}]")
    elif attrs.has(type(part)):
        if isinstance(part, Listed):
            yield where, part
            return
        for field in attrs.fields(type(part)):
            yield from listed(getattr(part, field.name), f"{where}.{field.name}")


def _look(
    recipe: Recipe,
    where: str,
    component: Listed,
    multiple: int,
    most: int,
    decode: bool,
    told: Callable[[str, int], None],
) -> Looked:
    entries = component.entries(multiple)
    some = islice(entries, most) if most else entries
    inspected = side_by_side(_decoded, some, 4) if decode else some
    rules, seen = _rules(recipe, component), 0
    for listing in inspected:
        seen += 1
        for rule in rules:
            rule.see(listing)
        told(where, seen)
    whole = not most or seen < most or next(entries, None) is None
    findings = tuple(finding for rule in rules for finding in rule.findings(seen))
    return Looked(source=where, seen=seen, whole=whole, findings=findings)


def _rules(recipe: Recipe, component: Listed) -> list[Rule]:
    ground = getattr(component, "background", (255, 255, 255))
    rules: list[Rule] = [
        pictures.Unreadable(),
        pictures.Swapped(),
        pictures.Identical(),
        captions.Missing(),
        captions.FileNames(),
        captions.EditsWithoutPicture(),
        captions.SameCaption(),
        captions.Languages(),
        pictures.SameBytes(),
        pictures.Buckets(recipe.train.batch, len(getattr(component, "ratios", ()))),
        pictures.Enlarged(),
        pictures.Cropped(),
        pictures.Transparent(f"RGB {ground[0]}, {ground[1]}, {ground[2]}"),
    ]
    if long := _too_long(recipe):
        rules.insert(4, long)
    return rules


def _too_long(recipe: Recipe) -> captions.TooLong | None:
    """By the conditioner's own tokenizer; by a rule of thumb where its files are not here, and said so."""
    conditioner = recipe.conditioner
    if not isinstance(conditioner, Counting):
        return None
    try:
        conditioner.prompt_tokens(["a"])
    except (QiError, ImportError):
        return captions.TooLong(conditioner.max_length, _about, "estimated, for the tokenizer's files are not here")
    return captions.TooLong(conditioner.max_length, conditioner.prompt_tokens, "by the conditioner's tokenizer")


def _about(prompts: Sequence[str]) -> list[int]:
    """Tokens, estimated."""
    wide = [sum("\u2e80" <= character <= "\uffef" for character in prompt) for prompt in prompts]
    return [many + -(-(len(prompt) - many) // CHARACTERS) for prompt, many in zip(prompts, wide, strict=True)]


def _multiple(recipe: Recipe) -> int:
    autoencoder = recipe.autoencoder
    try:
        return autoencoder.plan_size().scale if isinstance(autoencoder, Sized) else MULTIPLE
    except QiError:
        return MULTIPLE


def _weights(part: Any, where: str) -> Iterator[Looked]:
    """Lists of records whose weights leave nothing to draw."""
    if isinstance(part, tuple | list):
        weights = [getattr(each, "weight", None) for each in part]
        numbers = [weight for weight in weights if isinstance(weight, int | float)]
        if numbers and not (all(map(isfinite, numbers)) and sum(numbers) > 0):
            finding = Finding(
                rule="weights",
                what=f"the weights {numbers} sum to nothing",
                count=len(numbers),
                of=len(numbers),
                examples=(),
                advice="give at least one of them a weight above 0",
            )
            yield Looked(source=where, seen=len(numbers), whole=True, findings=(finding,))
        for number, each in enumerate(part):
            yield from _weights(each, f"{where}[{number}]")
    elif attrs.has(type(part)):
        for field in attrs.fields(type(part)):
            yield from _weights(getattr(part, field.name), f"{where}.{field.name}")


def _decoded(listing: Listing) -> Listing:
    """With what comes of decoding its pictures whole."""
    from qi_core.blob import opened
    from qi_core.pixels import Unusable, decoding
    from qi_core.sizes import PILLOWS_OWN_LIMIT

    problems: list[Problem] = []
    for picture in (listing.image, listing.rival, *listing.references):
        if picture is None:
            continue
        try:
            with (
                opened(picture.stored, pictures.MOST, PILLOWS_OWN_LIMIT) as (image, _),
                decoding(image, 1.0, (255, 255, 255)),
            ):
                pass
        except Unusable as error:
            problems.append(Problem(reason=error.reason, detail=error.detail))
    return evolve(listing, problems=(*listing.problems, *problems)) if problems else listing
