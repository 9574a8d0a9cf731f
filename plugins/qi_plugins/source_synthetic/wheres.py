"""Places in a picture, and colours, in words. No torch here."""

from __future__ import annotations

import colorsys

from qi_core.colours import RGB

_ENGLISH = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
_CHINESE = (("左上方", "上方", "右上方"), ("左侧", "中间", "右侧"), ("左下方", "下方", "右下方"))


def where(x: float, y: float, language: str) -> str:
    """Of a point, both coordinates as parts of the picture, 0 to 1."""
    names = _ENGLISH if language == "english" else _CHINESE
    return names[_third(y)][_third(x)]


def listed(texts: list[str], language: str) -> str:
    """Each in double quotes, one after another."""
    if language == "chinese":
        return "、".join(f"“{text}”" for text in texts)
    quoted = [f'"{text}"' for text in texts]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def colour(rgb: RGB) -> str:
    """The name in ``qi_core.colours.NAMED`` that people would give it: by its hue where it has one."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in rgb))
    if value < 0.2:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.85 else "black" if value < 0.3 else "grey"
    if value < 0.7 and 0.03 < hue < 0.13:
        return "brown"
    return next(name for most, name in _HUES if hue <= most)


_HUES = (
    (0.04, "red"),
    (0.11, "orange"),
    (0.18, "yellow"),
    (0.44, "green"),
    (0.53, "cyan"),
    (0.72, "blue"),
    (0.82, "purple"),
    (0.94, "pink"),
    (1.0, "red"),
)


def _third(part: float) -> int:
    return min(max(int(part * 3), 0), 2)
