"""Reference pictures as the language model sees them.

Shapes: P patches of all pictures, N tokens of all pictures (P / 4: patches are merged 2x2), W width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLImageProcessorPil

from qi_core.data import Grid
from qi_core.errors import QiError
from qi_plugins.cond_qwen25vl.templates import Template
from qi_plugins.cond_qwen25vl.weights import read_vision

if TYPE_CHECKING:
    from qi_core.place import Place
    from qi_plugins.cond_qwen25vl.component import Qwen25VL


@frozen(kw_only=True, eq=False)
class Seen:
    """Pictures, encoded."""

    tokens_NW: Tensor
    grids: tuple[Grid, ...]
    """Tokens of each picture."""


class Eyes:
    """The picture processor and the vision tower."""

    def __init__(self, settings: Qwen25VL, config: Any, place: Place) -> None:
        folder = settings.folder("processor")
        try:
            # The PIL backend, whatever is installed: it needs no torchvision and gives the same pixels everywhere.
            self._processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise QiError(
                f"{folder}: no usable preprocessor_config.json; reference pictures need the processor of a "
                "Qwen-Image-Edit model; set conditioner.processor to its folder"
            ) from error
        self._tower = read_vision(settings.folder("text_encoder"), config, place.dtype).to(place.device)
        self._device, self._dtype = place.device, place.dtype

    def resize(self, picture: Tensor, template: Template) -> Image.Image:
        """(3, H, W) uint8 -> the picture at the template's area."""
        image = Image.fromarray(picture.permute(1, 2, 0).cpu().contiguous().numpy())
        return image.resize(template.size(*image.size), Image.Resampling.LANCZOS)

    def count(self, image: Image.Image) -> int:
        """Tokens that a resized picture will give."""
        patches: int = self._processor.get_number_of_image_patches(image.height, image.width, {})
        return patches // int(self._processor.merge_size) ** 2

    def see(self, images: Sequence[Image.Image]) -> Seen:
        """Resized pictures -> tokens, end to end."""
        made = self._processor(images=list(images), return_tensors="pt")
        pixels_PC, patches = made["pixel_values"], made["image_grid_thw"]
        out = self._tower(pixels_PC.to(self._device, self._dtype), grid_thw=patches.to(self._device))
        merge = int(self._processor.merge_size)
        grids = tuple((t, rows // merge, columns // merge) for t, rows, columns in patches.tolist())
        return Seen(tokens_NW=out.pooler_output, grids=grids)


def check_picture(picture: Tensor) -> None:
    """Raises QiError unless it is (3, H, W) uint8."""
    if picture.dtype != torch.uint8 or picture.dim() != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise QiError(
            f"reference picture: {tuple(picture.shape)} {picture.dtype}; (3, H, W) uint8 was wanted; "
            "give RGB pixels from 0 to 255"
        )


def positions(is_image_L: Sequence[bool], grids: Sequence[Grid]) -> Tensor:
    """(3, L) M-RoPE positions of one text with its pictures' ``grids`` in order (Qwen2-VL, section 2.1).

    Text counts up on all three axes at once. A picture that starts at s holds (s + t, s + row, s + column); what
    follows it starts at s + max(rows, columns).
    """
    pieces: list[Tensor] = []
    ahead = iter(grids)
    at = start = 0
    while at < len(is_image_L):
        if is_image_L[at]:
            frames, rows, columns = next(ahead)
            axes = [torch.arange(n) for n in (frames, rows, columns)]
            pieces.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1) + start)
            at += frames * rows * columns
            start += max(rows, columns)
        else:
            end = next((i for i in range(at, len(is_image_L)) if is_image_L[i]), len(is_image_L))
            pieces.append(torch.arange(start, start + end - at).expand(3, -1))
            start += end - at
            at = end
    return torch.cat(pieces, dim=1)
