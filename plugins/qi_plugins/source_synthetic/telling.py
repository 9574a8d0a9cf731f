"""What is said about a filled template: all that is written, and where it stands. No torch here."""

from __future__ import annotations

from random import Random

from attrs import frozen

from qi_core.colours import CHINESE
from qi_core.sizes import Size
from qi_core.strings import pick
from qi_plugins.source_synthetic.sheet import Box
from qi_plugins.source_synthetic.template import Called, Palette
from qi_plugins.source_synthetic.wheres import colour, listed, where

Group = tuple[str, ...]


@frozen(kw_only=True)
class Told:
    """Something in the picture."""

    box: Box
    groups: tuple[Group, ...] = ()
    """What is written, by what belongs together: a repeat, a row, a value with its label."""
    called: Called | None = None
    kind: str = ""
    """table, picture, columns, bars, line or pie; empty: plain text."""
    note: str = ""
    """What a picture shows."""


_CHARTS = {
    "columns": ("column chart", "柱状图"),
    "bars": ("bar chart", "条形图"),
    "line": ("line chart", "折线图"),
    "pie": ("pie chart", "饼图"),
}
_ENGLISH = (
    "{A} {name} in {ink} on {ground_a} {ground} ground{accent}.",
    "{A} {name}, {ink} on {ground}{accent}.",
    "The picture shows {a} {name} on {ground_a} {ground} ground, its text {ink}{accent}.",
)
_ACCENT = (" with {accent} accents", "")
_CHINESE = (
    "一张{name}，{ground}色背景，{ink}色文字{accent}。",
    "{ground}底{ink}字的{name}{accent}。",
    "画面是一张{ground}色背景的{name}，文字是{ink}色的{accent}。",
)
_CHINESE_ACCENT = ("，{accent}色点缀", "，以{accent}色强调", "")


def caption(dice: Random, called: Called, palette: Palette, told: list[Told], size: Size, language: str) -> str:
    """A sentence of the whole, then one of each part."""
    names = {role: colour(palette[role]) for role in ("ground", "ink", "accent")}
    if language == "english":
        form, accent = _ENGLISH[pick(dice, len(_ENGLISH))], _ACCENT[pick(dice, len(_ACCENT))]
        first = form.format(
            A=_a(called.english).capitalize(),
            a=_a(called.english),
            name=called.english,
            ink=names["ink"],
            ground=names["ground"],
            ground_a=_a(names["ground"]),
            accent=accent.format(accent=names["accent"]) if names["accent"] != names["ink"] else "",
        )
        return " ".join([first, *(_in_english(one, size) for one in told)])
    form, accent = _CHINESE[pick(dice, len(_CHINESE))], _CHINESE_ACCENT[pick(dice, len(_CHINESE_ACCENT))]
    first = form.format(
        name=called.chinese,
        ink=CHINESE[names["ink"]],
        ground=CHINESE[names["ground"]],
        accent=accent.format(accent=CHINESE[names["accent"]]) if names["accent"] != names["ink"] else "",
    )
    return "".join([first, *(_in_chinese(one, size) for one in told)])


def _in_english(told: Told, size: Size) -> str:
    place = _place(told, size, "english")
    place = place[0].upper() + place[1:]
    groups = [list(group) for group in told.groups]
    if told.kind == "picture":
        return f"{place} is a picture of {told.note}." if told.note else f"{place} is a photograph."
    if told.kind == "table":
        rows = "; ".join(listed(row, "english") for row in groups[1:])
        return f"{place} is a table with the columns {listed(groups[0], 'english')} and the rows {rows}."
    if told.kind:
        shown = ", ".join(_valued(group, "english") for group in groups)
        return f"{place} is a {_CHARTS[told.kind][0]} of {shown}."
    name = told.called
    if len(groups) == 1:
        if name is None:
            return f"{place} stands {listed(groups[0], 'english')}."
        link = "" if len(groups[0]) == 1 else "with "
        return f"{place} is the {name.english} {link}{listed(groups[0], 'english')}."
    texts = listed([group[0] for group in groups], "english")
    if any(len(group) > 1 for group in groups):
        texts = "; ".join(listed(group, "english") for group in groups)
    if name is None:
        return f"{place} stand {texts}."
    return f"{place} are {len(groups)} {name.many}: {texts}."


def _in_chinese(told: Told, size: Size) -> str:
    place = _place(told, size, "chinese")
    groups = [list(group) for group in told.groups]
    if told.kind == "picture":
        return f"{place}是{told.note}的图片。" if told.note else f"{place}是一张照片。"
    if told.kind == "table":
        rows = "；".join(listed(row, "chinese") for row in groups[1:])
        return f"{place}是一个表格，表头为{listed(groups[0], 'chinese')}，各行为{rows}。"
    if told.kind:
        shown = "、".join(_valued(group, "chinese") for group in groups)
        return f"{place}是{_CHARTS[told.kind][1]}，标有{shown}。"
    name = told.called.chinese if told.called else ""
    if len(groups) == 1:
        link = "" if len(groups[0]) == 1 else "，写着"
        return (
            f"{place}是{name}{link}{listed(groups[0], 'chinese')}。"
            if name
            else (f"{place}写着{listed(groups[0], 'chinese')}。")
        )
    many = any(len(group) > 1 for group in groups)
    texts = (
        "；".join(listed(group, "chinese") for group in groups)
        if many
        else (listed([group[0] for group in groups], "chinese"))
    )
    return f"{place}依次是{name}：{texts}。" if name else f"{place}依次写着{texts}。"


def _place(told: Told, size: Size, language: str) -> str:
    left, top, width, height = told.box
    return where((left + width / 2) / size.width, (top + height / 2) / size.height, language)


def _valued(group: list[str], language: str) -> str:
    """A label, and its value where it has one."""
    label = listed(group[:1], language)
    if len(group) == 1:
        return label
    return (
        f"{label} with {listed(group[1:], language)}"
        if language == "english"
        else (f"{label}（{listed(group[1:], language)}）")
    )


def _a(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
