"""Templates filled in: who stands where, and what is written there. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from attrs import define, evolve, field, frozen

from qi_core import typeface
from qi_core.colours import RGB
from qi_core.drawing import Rejected
from qi_core.sizes import Size
from qi_core.strings import pick
from qi_plugins.source_synthetic import charts
from qi_plugins.source_synthetic.lettering import Align, fit
from qi_plugins.source_synthetic.painted import Painted
from qi_plugins.source_synthetic.photos import Photos
from qi_plugins.source_synthetic.sheet import Box, Sheet, Slot, part, shrunk
from qi_plugins.source_synthetic.surfaces import SURFACES
from qi_plugins.source_synthetic.telling import Told, caption
from qi_plugins.source_synthetic.template import Choice, Element, Palette
from qi_plugins.source_synthetic.vocabulary import Vocabulary, shipped

_TRIES = 8
"""Texts that are tried for a place, shorter and shorter ones."""
_PASSWORD = ("Password", "密码")


@frozen(kw_only=True, eq=False)
class Forms:
    """Draws ``templates``."""

    vocabularies: tuple[Vocabulary, ...]
    choices: tuple[Choice, ...]
    photos: Photos | None
    skipped: Counter[str]
    _own: dict[tuple[str, str], Vocabulary] = field(init=False)
    """Vocabularies with the lists of a template, by its name and the language."""

    @_own.default
    def _with_lists(self) -> dict[tuple[str, str], Vocabulary]:
        return {
            (choice.name, vocabulary.language): self._with_list(choice, vocabulary)
            for choice in self.choices
            for vocabulary in self.vocabularies
        }

    def size(self, form: Random) -> Size:
        return self._chosen(form)[1]

    def paint(self, n: int, form: Random, dice: Random) -> Painted:
        """See ``Painter``."""
        choice, size = self._chosen(form)
        vocabulary = self.vocabularies[pick(dice, len(self.vocabularies))]
        palette = choice.palettes[pick(dice, len(choice.palettes))]
        sheet = Sheet(height=size.height, width=size.width, ground=palette["ground"])
        filler = Filler(
            dice=dice,
            vocabulary=self._own[choice.name, vocabulary.language],
            palette=palette,
            sheet=sheet,
            photos=self.photos,
            font=vocabulary.font(dice),
            short=min(size),
        )
        told = filler.fill(choice.template.elements, (0, 0, size.width, size.height), "")
        if not sheet.slots:
            raise Rejected("nothing is written", choice.name)
        return Painted(
            picture=sheet.drawn(),
            prompt=caption(dice, choice.template.called, palette, told, size, vocabulary.language),
            text="\n".join(slot.text for slot in sheet.slots),
            category=f"text/complex/{choice.template.category}",
        )

    def _chosen(self, form: Random) -> tuple[Choice, Size]:
        choice = self.choices[pick(form, len(self.choices))]
        return choice, choice.sizes[pick(form, len(choice.sizes))]

    def _with_list(self, choice: Choice, vocabulary: Vocabulary) -> Vocabulary:
        """A text with a character that a font has not is dropped whole."""
        lists: dict[str, tuple[str, ...]] = {}
        for name, texts in choice.template.lists(vocabulary.language).items():
            lists[name] = tuple(text for text in texts if all(_covers(font, text) for font in vocabulary.fonts))
            if dropped := len(texts) - len(lists[name]):
                self.skipped["holds a character that a font has not"] += dropped
        return evolve(vocabulary, lists=vocabulary.with_lists(lists))


@define(kw_only=True)
class Filler:
    """Fills one template."""

    dice: Random
    vocabulary: Vocabulary
    palette: Palette
    sheet: Sheet
    photos: Photos | None
    font: str
    short: int
    """The picture's shorter side; sizes of letters are parts of it."""
    _used: set[str] = field(factory=set)

    def fill(self, elements: Sequence[Element], box: Box, path: str) -> list[Told]:
        """Draws elements in a box, and says what is where. ``path``: stands for the element that holds them."""
        told: list[Told] = []
        for place, element in enumerate(elements):
            if element.chance < 1 and self.dice.random() >= element.chance:
                continue
            told += self._times(element, part(box, element.box), f"{path}/{place}")
        return told

    def _times(self, element: Element, area: Box, path: str) -> list[Told]:
        """An element, as often as it stands there."""
        count = self.count(element.repeat)
        boxes = divided(area, count, element)
        if element.kind != "group":
            return self._joined([self._one(element, box, path) for box in boxes], element)
        inner = [self.fill(element.elements, box, path) for box in boxes]
        if element.called is None:
            return [one for told in inner for one in told]
        whole = [
            Told(groups=(tuple(text for one in told for group in one.groups for text in group),), box=box)
            for told, box in zip(inner, boxes, strict=True)
        ]
        return self._joined(whole, element)

    def _joined(self, parts: list[Told], element: Element) -> list[Told]:
        """Repeated elements are told together."""
        said = [one for one in parts if one.kind or any(one.groups)]
        if not said:
            return []
        if len(said) == 1 or said[0].kind:
            return [evolve(one, called=element.called) for one in said]
        groups = tuple(group for one in said for group in one.groups)
        return [Told(called=element.called, groups=groups, box=around([one.box for one in said]))]

    def _one(self, element: Element, box: Box, path: str) -> Told:
        ground, outline = self.colour(element.ground), self.colour(element.outline)
        radius = round(element.radius * self.short)
        if element.kind in ("box", "text", "button") and (ground or outline):
            self.sheet.box(box, ground, outline, radius)
        if element.kind == "box":
            return Told(box=box)
        if element.kind in ("text", "button"):
            inner = shrunk(box, round(0.02 * self.short), 0) if ground or outline else box
            align: Align = "centre" if element.kind == "button" else element.align
            text = self.write(element, inner, path, align=align)
            return Told(groups=((text,),), box=box)
        if element.kind == "list":
            return self._list(element, box, path)
        if element.kind == "picture":
            return self._picture(box)
        if element.kind == "field":
            return self._field(element, box, path)
        if element.kind == "switch":
            return self._switch(element, box, path)
        if element.kind == "table":
            return charts.table(self, element, box, path)
        return charts.chart(self, element, box, path)

    def write(
        self,
        element: Element,
        box: Box,
        path: str,
        *,
        say: str = "",
        text: str = "",
        align: Align | None = None,
        colour: str = "",
        size: float = 1.0,
        bold: bool | None = None,
    ) -> str:
        """Text that fits a box, and is written there. ``text``: that one and no other; ``say``: in the place of the
        element's; ``size``: of the element's. Raises Rejected where nothing fits."""
        largest = max(round(element.size * size * self.short), self.smallest)
        bold = element.bold if bold is None else bold
        for attempt in range(1 if text else _TRIES):
            most = max(element.words[1] - attempt // 2, 1)
            tried = text or self.text(say or element.say, (min(element.words[0], most), most), element)
            block = fit(
                tried,
                self.font,
                box[2],
                box[3],
                largest=largest,
                smallest=self.smallest,
                most=element.lines,
                bold=bold,
            )
            if block is not None:
                self._used.add(tried)
                self.sheet.write(
                    Slot(
                        text=tried,
                        block=block,
                        box=box,
                        align=align or element.align,
                        valign=element.valign,
                        colour=self.palette[colour or element.colour],
                        together=element.same or path,
                    )
                )
                return tried
        raise Rejected("does not fit its place in the template", f"{tried[:80]!r} in {box[2]}x{box[3]} pixels")

    def text(self, say: str, words: tuple[int, int], element: Element) -> str:
        """What stands there already is not said again where there is something else to say."""
        for _ in range(_TRIES):
            text = self.vocabulary.say(say, self.dice, words, element.case, self.font)
            if text not in self._used:
                break
        return text

    @property
    def smallest(self) -> int:
        """Pixels an em that can still be read."""
        return max(9, round(0.018 * self.short))

    def count(self, span: tuple[int, int]) -> int:
        return span[0] + pick(self.dice, span[1] - span[0] + 1)

    def colour(self, role: str) -> RGB | None:
        return self.palette[role] if role else None

    def _list(self, element: Element, box: Box, path: str) -> Told:
        """Points, each behind a mark of one kind."""
        count, shape = self.count(element.items), pick(self.dice, 3)
        row = min(box[3] / count, 2.2 * max(element.lines, 1) * element.size * self.short)
        mark = max(round(0.3 * min(element.size * self.short, row)), 3)
        texts: list[str] = []
        for place in range(count):
            top, bottom = box[1] + round(place * row), box[1] + round((place + 1) * row)
            text = (box[0] + 3 * mark, top, box[2] - 3 * mark, bottom - top)
            texts.append(self.write(element, text, path))
            spot = (box[0], (top + bottom - mark) // 2, mark, mark)
            if shape == 0:
                self.sheet.dot(spot, self.palette["accent"])
            else:
                self.sheet.box(spot if shape == 1 else (spot[0], spot[1] + mark // 3, mark, max(mark // 3, 2)),
                               self.palette["accent"])  # fmt: skip
        return Told(groups=tuple((text,) for text in texts), box=box)

    def _picture(self, box: Box) -> Told:
        """A photograph, or a surface."""
        if self.photos is not None:
            name = self.photos.choose(self.dice)
            self.sheet.picture(box, self.photos.picture(name, box[3], box[2], self.dice))
            return Told(kind="picture", note=self.photos.caption(name), box=box)
        names = list(SURFACES)
        surface = SURFACES[names[pick(self.dice, len(names))]]
        self.sheet.picture(box, surface.picture(self.dice, box[3], box[2], max(min(box[2:]) // 5, 4)))
        english = self.vocabulary.language == "english"
        return Told(kind="picture", note=surface.english if english else surface.chinese, box=box)

    def _field(self, element: Element, box: Box, path: str) -> Told:
        """A label and under it a frame with what was typed in."""
        label_box, frame = part(box, (0, 0, 1, 0.36)), part(box, (0, 0.4, 1, 0.6))
        label = self.write(element, label_box, f"{path}/label", say="label", colour="faint", size=0.85, bold=False)
        self.sheet.box(
            frame,
            self.colour(element.ground or "soft"),
            self.colour(element.outline or "line"),
            round(element.radius * self.short),
        )
        inner = shrunk(frame, round(0.03 * self.short), 1)
        if label in _PASSWORD:
            dot = max(inner[3] // 5, 2)
            for place in range(8):
                spot = (inner[0] + 2 * place * dot, inner[1] + (inner[3] - dot) // 2, dot, dot)
                self.sheet.dot(spot, self.palette["on_soft"])
            return Told(groups=((label,),), box=box)
        say = shipped(self.vocabulary.language)["values"].get(label, element.say)
        return Told(groups=((label, self.write(element, inner, f"{path}/value", say=say, colour="on_soft")),), box=box)

    def _switch(self, element: Element, box: Box, path: str) -> Told:
        """A text and at its right a switch."""
        tall = min(round(0.055 * self.short), round(0.7 * box[3]))
        wide = round(1.8 * tall)
        text = self.write(element, (box[0], box[1], box[2] - wide - tall, box[3]), path)
        left, top = box[0] + box[2] - wide, box[1] + (box[3] - tall) // 2
        on = self.dice.random() < 0.5
        self.sheet.box((left, top, wide, tall), self.palette["accent" if on else "line"], None, tall // 2)
        rim = max(tall // 8, 1)
        knob = tall - 2 * rim
        self.sheet.dot((left + (wide - knob - rim if on else rim), top + rim, knob, knob), self.palette["ground"])
        return Told(groups=((text,),), box=box)


def divided(area: Box, count: int, element: Element) -> list[Box]:
    """A box for each repeat, evenly, with gaps between them."""
    length = area[3] if element.along == "down" else area[2]
    gap = element.gap * length
    each = min((length - gap * (count - 1)) / count, element.each * length)
    boxes: list[Box] = []
    for place in range(count):
        start = round(place * (each + gap))
        extent = round(place * (each + gap) + each) - start
        down = element.along == "down"
        boxes.append(
            (area[0], area[1] + start, area[2], extent) if down else (area[0] + start, area[1], extent, area[3])
        )
    return boxes


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _covers(font: str, text: str) -> bool:
    return typeface.covers(font, text.replace(" ", ""))
