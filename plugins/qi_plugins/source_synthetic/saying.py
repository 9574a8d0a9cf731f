"""What is said about a scene. No torch here."""

from __future__ import annotations

from random import Random

from attrs import frozen

from qi_core.colours import CHINESE
from qi_core.strings import pick
from qi_plugins.source_synthetic.surfaces import SURFACES
from qi_plugins.source_synthetic.things import KINDS
from qi_plugins.source_synthetic.wheres import where


@frozen(kw_only=True)
class Seen:
    """A thing in a picture."""

    kind: str
    text: str
    ground: str
    """Its colour; empty where it is not worth telling."""
    ink: str
    x: float
    """Its middle, as parts of the picture."""
    y: float
    from_left: bool
    from_right: bool


_ENGLISH = (
    '{Where} of the picture is {thing}{at}. The words "{text}" are {manner} on it in {ink}{turn}.',
    '{Thing}{at}, {where}. It says "{text}" in {ink} letters{turn}.',
    '{Where}, {thing}{at} reads "{text}", {manner} in {ink}{turn}.',
)
_ENGLISH_WALL = (
    '{Where} of the picture, the words "{text}" are painted in {ink} on {wall}{turn}.',
    'On {wall}, {where}, stands "{text}" in {ink} letters{turn}.',
)
_CHINESE = (
    "{at}，画面{where}有{thing}，上面{manner}着{ink}色的字“{text}”{turn}。",
    "画面{where}是{at_of}{thing}，{ink}色的文字{manner}着“{text}”{turn}。",
)
_CHINESE_WALL = (
    "{wall}上，画面{where}漆着{ink}色的大字“{text}”{turn}。",
    "画面{where}的{wall}上写着“{text}”，字是{ink}色的{turn}。",
)


def caption(dice: Random, things: list[Seen], surface: str, said: str, language: str) -> str:
    """``surface``: the ground's; none: a photograph, of which ``said`` is said. A sentence a thing."""
    sentences = [
        (_in_english if language == "english" else _in_chinese)(dice, thing, surface, first=place == 0)
        for place, thing in enumerate(things)
    ]
    if not said:
        return _space(language).join(sentences)
    ending = "" if said[-1] in ".!?。！？" else "." if language == "english" else "。"
    return f"{said}{ending} {_space(language).join(sentences)}"


def _in_english(dice: Random, seen: Seen, surface: str, first: bool) -> str:
    thing = KINDS[seen.kind]
    name = thing.english
    if seen.ground:
        bare = name.removeprefix("an ").removeprefix("a ")
        name = f"{'an' if seen.ground[0] in 'aeiou' else 'a'} {seen.ground} {bare}"
    place = where(seen.x, seen.y, "english")
    turn = ", seen from the left" if seen.from_left else ", seen from the right" if seen.from_right else ""
    forms = _ENGLISH_WALL if seen.kind == "wall" else _ENGLISH
    ground = SURFACES.get(surface)
    return forms[pick(dice, len(forms))].format(
        Where=_capital(place),
        where=place,
        Thing=_capital(name),
        thing=name,
        at=f" {ground.at[0]} {ground.english}" if ground and first else "",
        wall=ground.english if ground else "",
        manner=thing.manner[0],
        ink=seen.ink,
        text=seen.text,
        turn=turn,
    )


def _in_chinese(dice: Random, seen: Seen, surface: str, first: bool) -> str:
    thing = KINDS[seen.kind]
    name = thing.chinese
    if seen.ground:  # a measure word stands before the colour: 一张 + 黄色的 + 便利贴
        name = f"{name[:2]}{CHINESE[seen.ground]}色的{name[2:]}"
    turn = "，从左侧看去" if seen.from_left else "，从右侧看去" if seen.from_right else ""
    forms = _CHINESE_WALL if seen.kind == "wall" else _CHINESE
    ground = SURFACES.get(surface)
    at = f"{ground.chinese}{ground.at[1]}" if ground and first else ""
    said = forms[pick(dice, len(forms))].format(
        where=where(seen.x, seen.y, "chinese"),
        thing=name,
        at=at,
        at_of=f"{at}的" if at else "",
        wall=ground.chinese if ground else "",
        manner=thing.manner[1],
        ink=CHINESE[seen.ink],
        text=seen.text,
        turn=turn,
    )
    return said.removeprefix("，")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _space(language: str) -> str:
    return " " if language == "english" else ""
