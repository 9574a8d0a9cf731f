"""The live evaluation."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import Tensor

from qi_core import Evaluated, Painter, Picture, QiError, Samples, Source
from qi_core.colours import nearest
from qi_core.glyphs import Legible, Reader, Reading
from qi_plugins.eval_glyphs.component import GlyphMatch


@frozen(kw_only=True)
class Task:
    """One string to paint."""

    prompt: str
    text: str
    colours: tuple[str, str]
    """Names of foreground and background."""
    size: tuple[int, int]
    """(height, width)."""


@frozen(kw_only=True)
class Matching:
    """A live ``glyph-match``."""

    settings: GlyphMatch
    tasks: tuple[Task, ...]
    reader: Reader

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        """See ``Evaluation.evaluate``."""
        images = painter.paint([task.prompt for task in self.tasks], [task.size for task in self.tasks], whole=True)
        readings = [self.reader.read(image.numpy()) for image in images]
        pairs = list(zip(self.tasks, readings, strict=True))
        right = [reading.text == task.text for task, reading in pairs]
        colour = [bool(reading.text) and colours(reading) == task.colours for task, reading in pairs]
        hits = [sum(a == b for a, b in zip(task.text, reading.text, strict=False)) for task, reading in pairs]
        shown = list(zip(images, pairs, right, strict=True))[: self.settings.shown]
        return Evaluated(
            step=step,
            name=self.settings.title,
            scalars={
                "exact": mean([a and b for a, b in zip(right, colour, strict=True)]),
                "right": mean(right),
                "colour": mean(colour),
                "characters": sum(hits) / sum(len(task.text) for task in self.tasks),
                "likeness": mean([reading.likeness for reading in readings]),
            },
            pictures=tuple(picture(image, *pair, good) for image, pair, good in shown),
        )


def build(settings: GlyphMatch, source: Source[Any]) -> Matching:
    """Draws the strings and checks that the reader reads the source's own pictures of them."""
    if not isinstance(source, Legible):
        raise QiError(
            f"glyph-match: pictures of {type(settings.source).__name__} cannot be read back; "
            "wanted a source of strings, such as rendered-text"
        )
    reader = Reader(typesets=source.typesets())
    samples: Samples = source.draw(settings.count)
    tasks: list[Task] = []
    for sample in samples:
        reading = reader.read(sample.image.float().div(127.5).sub(1.0).numpy())
        if reading.text != sample.text:
            raise QiError(
                f"glyph-match: the source's own picture of {sample.text!r} is read as {reading.text!r}; "
                "characters must differ in their glyphs: use another font, more pixels or fewer characters"
            )
        _, height, width = sample.image.shape
        tasks.append(Task(prompt=sample.prompt, text=sample.text, colours=colours(reading), size=(height, width)))
    return Matching(settings=settings, tasks=tuple(tasks), reader=reader)


def colours(reading: Reading) -> tuple[str, str]:
    """Names of foreground and background."""
    return nearest(reading.foreground), nearest(reading.background)


def mean(values: list[bool] | list[float]) -> float:
    return sum(values) / len(values)


def picture(image: Tensor, task: Task, reading: Reading, right: bool) -> Picture:
    """Captioned with what was asked, and what was read if that is something else."""
    read = "✓" if right else f"× {reading.text or '(nothing legible)'}"
    return Picture(image=image, caption=f"{task.prompt} {read}")
