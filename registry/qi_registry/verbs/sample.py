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


class Sample:
    """Draw pictures with a run's newest checkpoint."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of a run")
        parser.add_argument("prompt", nargs="+", help="what to draw; several prompts make several pictures")
        parser.add_argument("-o", "--output", default="sample.png", help="PNG file; several pictures are numbered")
        parser.add_argument("--size", metavar="WxH", help="pixels (default: the recipe's preview size)")
        parser.add_argument("--reference", action="append", default=[], metavar="FILE", help="a picture to edit")
        parser.add_argument("--seed", type=int, help="another seed gives another picture")
        parser.add_argument("--live-weights", action="store_true", help="the trained weights, not their average")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="sampler=heun and the like")

    def run(self, args: Namespace) -> int:
        from attrs import evolve

        from qi_core.pictures import save_png, to_image
        from qi_registry.assemble import painter
        from qi_registry.runs import read_run_now

        folder = Path(args.run)
        recipe = read_run_now(folder, tuple(args.set))
        if args.seed is not None:
            recipe = evolve(recipe, train=evolve(recipe.train, seed=args.seed))
        height, width = size(args.size) if args.size else (recipe.preview.height, recipe.preview.width)
        brush = painter(recipe, folder, "model" if args.live_weights else "ema")
        shown = [load_reference(Path(name), brush.encoders.autoencoder.scale) for name in args.reference]
        count = len(args.prompt)
        images = brush.paint(args.prompt, [(height, width)] * count, [shown] * count if shown else ())
        for image, path in zip(images, names(Path(args.output), count), strict=True):
            save_png(to_image(image), path)
            print(path)
        return 0


def size(text: str) -> tuple[int, int]:
    """``64x16`` (width x height) -> (16, 64)."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match or int(match[1]) * int(match[2]) > MAX_PIXELS:
        raise QiError(f"--size {text}: want WIDTHxHEIGHT in pixels, at most {MAX_PIXELS // 10**6} million: 1328x1328")
    return int(match[2]), int(match[1])


def names(path: Path, count: int) -> list[Path]:
    """One file a picture. Raises QiError if the folder isn't there."""
    if not path.parent.is_dir():
        raise QiError(f"{path}: the folder {path.parent} does not exist; make it, or choose another -o")
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i + 1}{path.suffix or '.png'}") for i in range(count)]


def load_reference(path: Path, multiple: int) -> Tensor:
    """A picture file -> (3, H, W) uint8, upright, cut to multiples of what the autoencoder wants."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise QiError(f"{path}: {opened.width}x{opened.height} pixels; at most {MAX_PIXELS // 10**6} million")
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise QiError(f"{path}: no picture that can be read ({error}); give a PNG, JPEG or WebP file") from error
    height, width = image.height // multiple * multiple, image.width // multiple * multiple
    if not height or not width:
        raise QiError(f"{path}: {image.width}x{image.height} pixels; at least {multiple} on each side are wanted")
    return torch.from_numpy(np.asarray(image.crop((0, 0, width, height))).copy()).permute(2, 0, 1)
