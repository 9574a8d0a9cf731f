"""Light on a scene: gradients, shadows and the noise of a sensor. No torch here."""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Any

from attrs import frozen
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from qi_core.strings import pick
from qi_plugins.source_synthetic.noise import clouds, grain

_TINTS = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.96, 0.87), (0.92, 0.96, 1.0))
"""White light twice as often as warm or cool one."""
_SMALL = 8
"""Shadows are blurred on a canvas so many times smaller: nobody can tell, and it takes a fraction of the time."""


@frozen(kw_only=True)
class Lamp:
    """Where light comes from and how even it is."""

    across: float
    """Shadows fall so many units to the right, and down."""
    down: float
    strength: float
    """Of shadows, 0 to 1."""
    dark: float
    """By how much the darkest place is darker than the lightest, 0 to 1."""
    tint: int
    barred: bool
    """Something out of sight throws a shadow across everything."""

    @staticmethod
    def of(dice: Random, shade: float) -> Lamp:
        return Lamp(
            across=0.5 * (2 * dice.random() - 1),
            down=0.1 + 0.4 * dice.random(),
            strength=0.25 + 0.45 * dice.random(),
            dark=0.75 * shade * dice.random(),
            tint=pick(dice, len(_TINTS)),
            barred=dice.random() < 0.4 * shade,
        )

    def cast(self, canvas: Any, outline: Any, at: tuple[int, int], unit: int) -> None:
        """The shadow of a thing whose outline (L) stands there."""
        blur = max(unit // 3, 2)
        rim = 2 * blur
        around = Image.new("L", (outline.width + 2 * rim, outline.height + 2 * rim))
        around.paste(outline, (rim, rim))
        size = (-(-around.width // _SMALL), -(-around.height // _SMALL))
        soft = around.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(blur / _SMALL))
        soft = soft.point(_times(round(self.strength * 100))).resize(around.size, Image.Resampling.BILINEAR)
        left, top = round(at[0] - rim + self.across * unit), round(at[1] - rim + self.down * unit)
        canvas.paste((0, 0, 0), (left, top, left + around.width, top + around.height), soft)

    def faced(self, thing: Any, facing: float) -> Any:
        """Lambert's law, half of it, for the rest of the light comes from everywhere."""
        return thing.point([*_times(round(100 * (0.5 + 0.5 * facing))) * 3, *range(256)])

    def shine(self, dice: Random, canvas: Any) -> Any:
        """Everything in its light."""
        small = (-(-canvas.width // 4), -(-canvas.height // 4))
        shade = clouds(dice, small[1], small[0], 1, 1).point(_between(round(100 * (1 - self.dark))))
        if self.barred:
            shade = ImageChops.multiply(shade, _bar(dice, small, round(100 * (1 - 0.6 * self.dark - 0.1))))
        shade = shade.resize(canvas.size, Image.Resampling.BILINEAR)
        tint = _TINTS[self.tint]
        bands = [shade if part == 1.0 else shade.point(_times(round(100 * part))) for part in tint]
        return ImageChops.multiply(canvas, Image.merge("RGB", bands))


def noisy(dice: Random, canvas: Any, spread: float) -> Any:
    """With white noise of that standard deviation, alike in red, green and blue."""
    noise = grain(dice, canvas.height, canvas.width, spread)
    return ImageChops.add(canvas, Image.merge("RGB", (noise, noise, noise)), 1, -128)


def _bar(dice: Random, size: tuple[int, int], least: int) -> Any:
    width, height = size
    bar = Image.new("L", size, 255)
    first, second = (width * (2 * dice.random() - 0.5) for _ in range(2))
    thick = width * (0.1 + 0.4 * dice.random())
    ImageDraw.Draw(bar).polygon(
        [(first, 0), (first + thick, 0), (second + thick, height), (second, height)], fill=round(2.55 * least)
    )
    return bar.filter(ImageFilter.GaussianBlur(max(width / 60, 1)))


@lru_cache(maxsize=128)
def _times(hundredths: int) -> list[int]:
    return [round(value * hundredths / 100) for value in range(256)]


@lru_cache(maxsize=128)
def _between(least: int) -> list[int]:
    """0 becomes so many hundredths of 255, and 255 stays."""
    return [round(2.55 * least + (255 - 2.55 * least) * value / 255) for value in range(256)]
