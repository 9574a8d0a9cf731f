"""qi sample"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 64_000_000
WHITE = (255, 255, 255)
"""Under transparent references."""


class Sample:
    """Draw pictures with a run's newest checkpoint."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of a run")
        parser.add_argument("prompt", nargs="+", help="what to draw; several prompts make several pictures")
        parser.add_argument("-o", "--output", default="sample.png", help="PNG file; several pictures are numbered")
        parser.add_argument("--size", metavar="WxH", help="pixels (default: the recipe's preview size)")
        parser.add_argument("--reference", action="append", default=[], metavar="FILE", help="a picture to edit")
        parser.add_argument("--reference-side", metavar="N", help="scale them to about NxN pixels (default: to --size)")
        parser.add_argument("--seed", type=int, help="another seed gives another picture")
        parser.add_argument("--live-weights", action="store_true", help="the trained weights, not their average")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="sampler=heun and the like")

    def run(self, args: Namespace) -> int:
        from attrs import evolve

        from qi_core.pictures import save_png, to_image
        from qi_registry.assemble import painter
        from qi_registry.runs import read_run_now

        folder, paths = Path(args.run), names(Path(args.output), len(args.prompt))
        recipe = read_run_now(folder, tuple(args.set))
        if args.seed is not None:
            recipe = evolve(recipe, train=evolve(recipe.train, seed=args.seed))
        height, width = size(args.size) if args.size else (recipe.preview.height, recipe.preview.width)
        area = side(args.reference_side) ** 2 if args.reference_side else height * width
        brush = painter(recipe, folder, "model" if args.live_weights else "ema")
        shown = [load_reference(Path(name), area, brush.encoders.autoencoder.scale) for name in args.reference]
        count = len(args.prompt)
        images = brush.paint(args.prompt, [(height, width)] * count, [shown] * count if shown else ())
        for image, path in zip(images, paths, strict=True):
            save_png(to_image(image), path)
            print(path)
        return 0


def size(text: str) -> tuple[int, int]:
    """``64x16`` (width x height) -> (16, 64)."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or int(match[1]) * int(match[2]) > MAX_PIXELS:
        raise QiError(f"--size {text}: want WIDTHxHEIGHT in pixels, at most {MAX_PIXELS // 10**6} million: 1328x1328")
    return int(match[2]), int(match[1])


def side(text: str) -> int:
    """``1024`` -> 1024."""
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise QiError(f"--reference-side {text}: want pixels, 1 to 9999: 1024")
    return int(text)


def names(path: Path, count: int) -> list[Path]:
    """One file a picture. Raises QiError if it is to be no PNG, or the folder isn't there."""
    if path.suffix.lower() != ".png":
        raise QiError(f"{path}: pictures are written as PNG; let -o end in .png")
    if not path.parent.is_dir():
        raise QiError(f"{path}: the folder {path.parent} does not exist; make it, or choose another -o")
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def load_reference(path: Path, area: int, multiple: int) -> Tensor:
    """A picture file -> (3, H, W) uint8, treated as in training: upright, on white, its own shape at about ``area``."""
    import torch

    from qi_core.pixels import Unusable, decode, prepare, read_header, resize, size_of
    from qi_core.sizes import Size, crop_box, own_size, scale

    prepare()
    try:
        with path.open("rb") as file:
            image = read_header(file, MAX_PIXELS)
            picture = size_of(image)
            target = own_size(area, picture, multiple, enlarge=True)
            rgb = decode(image, scale(picture, target), WHITE)
    except (OSError, Unusable) as error:
        why = ": ".join(error.args) if isinstance(error, Unusable) else error.strerror
        raise QiError(f"{path}: no picture that can be read ({why}); give a PNG, JPEG or WebP file") from error
    box = crop_box(Size(height=rgb.height, width=rgb.width), target, 0.5, 0.5)
    return torch.from_numpy(resize(rgb, target, box, flip=False))
