"""Templates as data: what a TOML file may say, and which templates are drawn in which sizes. No torch here."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec
from attrs import frozen

from qi_core import QiError
from qi_core.sizes import Size
from qi_plugins.source_synthetic.component import Templates
from qi_plugins.source_synthetic.lettering import Align, Valign
from qi_plugins.source_synthetic.vocabulary import FORMATS, Case, shipped

MOST_BYTES = 65_536
MOST_ELEMENTS = 200
MOST_REPEATS = 24
DEEPEST = 6
Chart = Literal["columns", "bars", "line", "pie"]
ROLES = ("ground", "ink", "accent", "on_accent", "soft", "on_soft", "faint", "line")
"""Colours that every palette has: the ground and letters on it, an accent and letters on it, a soft ground (cards,
fields) and letters on it, letters that stand back, and lines."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; a key that it doesn't know is a mistake."""


class Called(Record, frozen=True, kw_only=True):
    """What captions call something."""

    english: str
    chinese: str
    plural: str = ""
    """In English; empty: an s behind it."""

    @property
    def many(self) -> str:
        return self.plural or f"{self.english}s"


class Element(Record, frozen=True, kw_only=True):
    """A part of the picture. Lengths are parts of what it stands in; sizes of letters of the picture's shorter side."""

    kind: Literal["group", "box", "text", "list", "table", "chart", "picture", "button", "field", "switch"]
    box: tuple[float, float, float, float]
    """(left, top, width, height)."""
    chance: float = 1.0
    """Of being there at all."""
    repeat: tuple[int, int] = (1, 1)
    """It stands there so often, fewest and most, and shares the box evenly."""
    along: Literal["down", "across"] = "down"
    gap: float = 0.0
    """Between one and the next."""
    each: float = 1.0
    """Most that one takes."""
    called: Called | None = None
    """Without, captions tell only what is written there."""

    colour: str = "ink"
    ground: str = ""
    outline: str = ""
    radius: float = 0.0
    """Of corners, as a part of the picture's shorter side."""

    say: str = "words"
    """What is written: words, a format such as price or date, or the name of a list."""
    words: tuple[int, int] = (1, 3)
    case: Case = "sentence"
    size: float = 0.05
    """Largest size of letters."""
    lines: int = 1
    """Most lines; 0: as many as the box holds."""
    align: Align = "left"
    valign: Valign = "middle"
    bold: bool = False
    same: str = ""
    """Elements that name the same have letters of one size. What is repeated has so anyway."""

    items: tuple[int, int] = (3, 5)
    """Of a list: points; of a table: rows; of a chart: values."""
    columns: tuple[int, int] = (2, 4)
    """Of a table."""
    says: tuple[str, ...] = ("number", "percent")
    """What columns of a table after the first one say: each of them one of these."""
    charts: tuple[Chart, ...] = ("columns", "bars", "line", "pie")
    """One of these is drawn."""
    elements: tuple[Element, ...] = ()
    """Of a group: what stands in it."""


class Template(Record, frozen=True, kw_only=True):
    """A file."""

    called: Called
    category: str
    """Its kind, such as slide: the last part of the samples' category."""
    ratios: tuple[float, float]
    """Least and most width by height that it suits."""
    least: int = 64
    """Pixels of the shorter side of the smallest picture in which its letters can be read."""
    elements: tuple[Element, ...]
    palettes: tuple[str, ...] = ()
    """Names of shipped palettes, or of its own; empty: all shipped ones."""
    colours: dict[str, dict[str, str]] = {}
    """Palettes of its own: name -> role -> #rrggbb."""
    english: dict[str, tuple[str, ...]] = {}
    """Lists of its own, by language: name -> what to choose from."""
    chinese: dict[str, tuple[str, ...]] = {}

    def lists(self, language: str) -> dict[str, tuple[str, ...]]:
        return self.english if language == "english" else self.chinese

    def suits(self, size: Size) -> bool:
        return self.ratios[0] <= size.ratio <= self.ratios[1] and min(size) >= self.least


Palette = dict[str, tuple[int, int, int]]


@frozen(kw_only=True, eq=False)
class Choice:
    """A template, the sizes in which it is drawn, and its palettes."""

    name: str
    template: Template
    sizes: tuple[Size, ...]
    palettes: tuple[Palette, ...]


def chosen(
    settings: Templates, own: Mapping[str, Template], sizes: Sequence[Size], skipped: Counter[str]
) -> tuple[Choice, ...]:
    """The templates that are asked for. ``own``: those of the user's folder. Raises QiError where none is left."""
    found: dict[str, Template] = {**(shipped_templates() if settings.shipped else {}), **own}
    if settings.only:
        known = {*found, *(template.category for template in found.values())}
        if unknown := [name for name in settings.only if name not in known]:
            raise QiError(f"templates: only = {unknown}: no such template or kind; wanted some of {sorted(known)}")
        found = {
            name: template
            for name, template in found.items()
            if name in settings.only or template.category in settings.only
        }
    choices: list[Choice] = []
    for name, template in found.items():
        suitable = tuple(size for size in sizes if template.suits(size))
        if suitable:
            choices.append(Choice(name=name, template=template, sizes=suitable, palettes=palettes_of(template)))
        else:
            skipped["templates that suit none of the sizes"] += 1
    if not choices:
        told = ", ".join(
            f"{name} {one.ratios[0]:g} to {one.ratios[1]:g} and {one.least} pixels" for name, one in found.items()
        )
        raise QiError(
            f"templates: none suits side = {settings.side} and ratios = {list(settings.ratios)} (they suit, width by "
            f"height and shorter side: {told or 'there is none at all'}); name other ratios, a larger side or other "
            "templates"
        )
    return tuple(choices)


@cache
def shipped_templates() -> dict[str, Template]:
    """By name, in the order of names."""
    folder = files("qi_plugins.source_synthetic") / "templates"
    found = sorted((file.name, file.read_bytes()) for file in folder.iterdir() if file.name.endswith(".toml"))
    return {name.removesuffix(".toml"): read(content, name) for name, content in found}


def own_templates(folder: Path) -> dict[str, Template]:
    """Of the user's folder, by name, in the order of names. Raises QiError where one is wrong."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise QiError(f"templates: folder = '{folder}': no such folder; name one that holds templates (.toml)")
    found = sorted(folder.glob("*.toml"))
    if not found:
        raise QiError(f"templates: folder = '{folder}': no template there; wanted files that end in .toml")
    templates: dict[str, Template] = {}
    for path in found:
        if path.stat().st_size > MOST_BYTES:
            raise QiError(f"{path}: {path.stat().st_size} bytes; a template has at most {MOST_BYTES}")
        templates[path.stem] = read(path.read_bytes(), str(path))
    return templates


def read(content: bytes, where: str) -> Template:
    """A file's content. Raises QiError that says what is wrong and where."""
    try:
        template = msgspec.convert(tomllib.loads(content.decode("utf-8")), Template)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise QiError(f"{where}: no template: {error}; docs/synthesis.md tells what one looks like") from error
    for mistake in _mistakes(template):
        raise QiError(f"{where}: {mistake}")
    return template


@cache
def shipped_palettes() -> dict[str, Palette]:
    text = (files("qi_plugins.source_synthetic") / "palettes.toml").read_text(encoding="utf-8")
    return {name: _palette(roles) for name, roles in tomllib.loads(text).items()}


def palettes_of(template: Template) -> tuple[Palette, ...]:
    known = {**shipped_palettes(), **{name: _palette(roles) for name, roles in template.colours.items()}}
    return tuple(known[name] for name in template.palettes or known)


def _palette(roles: dict[str, str]) -> Palette:
    return {role: _rgb(value) for role, value in roles.items()}


def _rgb(value: str) -> tuple[int, int, int]:
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def _mistakes(template: Template) -> Iterator[str]:
    """What msgspec cannot see."""
    if not 0 < template.ratios[0] <= template.ratios[1]:
        yield f"ratios = {list(template.ratios)}; wanted [least, most] of width by height"
    if template.least < 1:
        yield f"least = {template.least}; wanted pixels of the shorter side, at least 1"
    if not re.fullmatch(r"[a-z0-9-]+", template.category):
        yield f"category = {template.category!r}; wanted small letters, digits and hyphens, such as slide"
    for name, roles in template.colours.items():
        if set(roles) != set(ROLES) or not all(re.fullmatch(r"#[0-9a-fA-F]{6}", value) for value in roles.values()):
            yield f"colours.{name}: wanted a #rrggbb for each of {', '.join(ROLES)} and for nothing else"
    if unknown := [name for name in template.palettes if name not in {*shipped_palettes(), *template.colours}]:
        yield f"palettes names {unknown[0]!r}; wanted some of {', '.join({**shipped_palettes(), **template.colours})}"
    if set(template.english) != set(template.chinese):
        yield "english and chinese don't have the same lists; give each list in both languages"
    for language in ("english", "chinese"):
        for name, texts in template.lists(language).items():
            if not texts or any(not text.strip() or set(text) & set('"“”\n') for text in texts):
                yield f"{language}.{name}: wanted texts without line ends and double quotes, at least one"
    elements = list(_all(template.elements, "elements", 1))
    if len(elements) > MOST_ELEMENTS:
        yield f"{len(elements)} elements; at most {MOST_ELEMENTS}"
    for where, depth, element in elements:
        yield from (f"{where}: {mistake}" for mistake in _wrong(element, depth, template))


def _all(elements: Sequence[Element], where: str, depth: int) -> Iterator[tuple[str, int, Element]]:
    for place, element in enumerate(elements):
        yield f"{where}[{place}]", depth, element
        yield from _all(element.elements, f"{where}[{place}].elements", depth + 1)


def _wrong(element: Element, depth: int, template: Template) -> Iterator[str]:
    left, top, width, height = element.box
    if min(left, top) < 0 or min(width, height) <= 0 or left + width > 1.001 or top + height > 1.001:
        yield f"box = {list(element.box)}; wanted [left, top, width, height] within 0 to 1"
    if depth > DEEPEST:
        yield f"groups stand {depth} deep; at most {DEEPEST}"
    if bool(element.elements) != (element.kind == "group"):
        yield f"kind = '{element.kind}' with {len(element.elements)} elements; a group has some, nothing else has any"
    for name in ("repeat", "words", "items", "columns"):
        fewest, most = getattr(element, name)
        if not 1 <= fewest <= most <= MOST_REPEATS:
            yield f"{name} = [{fewest}, {most}]; wanted [fewest, most] within 1 to {MOST_REPEATS}"
    for name, least, largest in (("chance", 0, 1), ("gap", 0, 1), ("each", 0.01, 1), ("radius", 0, 0.5)):
        if not least <= getattr(element, name) <= largest:
            yield f"{name} = {getattr(element, name):g}; wanted {least:g} to {largest:g}"
    if not 0.01 <= element.size <= 0.5 or element.lines < 0:
        yield f"size = {element.size:g}, lines = {element.lines}; wanted a size of 0.01 to 0.5 and lines of 0 or more"
    for name in ("colour", "ground", "outline"):
        role = getattr(element, name)
        if role not in ROLES and (role or name == "colour"):
            yield f"{name} = {role!r}; wanted one of {', '.join(ROLES)}"
    known = {"words", *FORMATS, *shipped("english")["lists"], *template.english}
    for say in (element.say, *element.says):
        if say not in known:
            yield f"{say!r} cannot be said; wanted one of {', '.join(sorted(known))}, or give a list of that name"
    if not element.says or not element.charts:
        yield "says or charts is empty; leave it out or name one"
