"""The released prompt templates (diffusers, QwenImagePipeline, QwenImageEditPipeline, QwenImageEditPlusPipeline)."""

from __future__ import annotations

import math

from attrs import frozen

from qi_core.errors import QiError

IMAGE = "<|image_pad|>"
"""Stands once for each picture in the text and once for each of its tokens in the ids."""
_PICTURE = f"<|vision_start|>{IMAGE}<|vision_end|>"
_SYSTEM, _USER, _END = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_DRAW = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
_EDIT = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain how "
    "the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
_ROUND = 32
_SLIMMEST = 200  # the processor refuses sides further apart


@frozen(kw_only=True)
class Template:
    """What stands around a prompt, and how large its pictures are shown."""

    name: str
    system: str
    drop: int
    """Tokens of ``prefix``; the released models never see them."""
    area: int = 0
    """Pixels of a reference picture as the vision tower sees it; 0: the template has no pictures."""
    numbered: bool = False
    """Whether pictures are announced as "Picture 1: "."""

    @property
    def prefix(self) -> str:
        """All that stands before the user's part."""
        return _SYSTEM + self.system + _USER

    def text(self, prompt: str, pictures: int) -> str:
        """The whole text for one prompt."""
        shown = "".join((f"Picture {i + 1}: " if self.numbered else "") + _PICTURE for i in range(pictures))
        return self.prefix + shown + prompt + _END

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which a picture is shown: its aspect ratio, about ``area`` pixels, sides of 32 k."""
        ratio = width / height
        exact = math.sqrt(self.area * ratio)
        shown = round(exact / _ROUND) * _ROUND, round(exact / ratio / _ROUND) * _ROUND
        if min(shown) == 0 or max(shown) / min(shown) > _SLIMMEST:
            raise QiError(
                f"reference picture of {width}x{height} pixels: one side is more than {_SLIMMEST} times the other, "
                "which the vision tower cannot be shown; crop it or leave it out"
            )
        return shown


TEXT_TO_IMAGE = Template(name="text-to-image", system=_DRAW, drop=34)
EDIT = Template(name="edit", system=_EDIT, drop=64, area=1024 * 1024)
EDIT_PLUS = Template(name="edit-plus", system=_EDIT, drop=64, area=384 * 384, numbered=True)
