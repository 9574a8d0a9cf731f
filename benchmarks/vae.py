"""Encode and decode one picture: the autoencoder ``vae-qwen`` beside diffusers, same weights, same threads.

    python benchmarks/vae.py [--size 256] [--threads N] [--rounds 5] [--json FILE]

The released geometry with random weights, float32 and bfloat16. Both sides go from pixels to normalised, packed latents
and back. Rounds alternate between the two, so that whatever else the machine does falls on both; medians are told.
CPU seconds are those of the process, all threads together: on a busy machine trust them more than the wall time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from attrs import asdict, frozen
from common import in_turn, median, table, write
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from qi_core import Latents, Place
from qi_plugins.vae_qwen.autoencoder import QwenVae
from qi_plugins.vae_qwen.component import VaeQwen
from qi_plugins.vae_qwen.packing import pack, unpack

AIMS = {torch.float32: 3.0, torch.bfloat16: 3.5}


@frozen(kw_only=True)
class Row:
    """One comparison: medians of seconds, and how many times quicker ours is."""

    dtype: str
    what: str
    ours_cpu: float
    theirs_cpu: float
    ours_wall: float
    theirs_wall: float
    ratio_cpu: float
    ratio_wall: float
    aim: float
    apart: float
    """Largest absolute difference of the two results."""


class Theirs:
    """What a pipeline of diffusers does around its autoencoder."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model = AutoencoderKLQwenImage.from_pretrained(folder, torch_dtype=dtype).eval()
        self.mean = torch.tensor(self.model.config.latents_mean).view(1, -1, 1, 1, 1).to(dtype)
        self.std = 1.0 / torch.tensor(self.model.config.latents_std).view(1, -1, 1, 1, 1).to(dtype)

    def encode(self, image: Tensor) -> Tensor:
        z = self.model.encode(image[None, :, None].to(self.model.dtype)).latent_dist.mode()
        return pack(((z - self.mean) * self.std)[:, :, 0])[0]

    def decode(self, tokens: Tensor, side: int) -> Tensor:
        z = unpack(tokens[None].to(self.model.dtype), side, side)[:, :, None] / self.std + self.mean
        picture: Tensor = self.model.decode(z).sample[0, :, 0]
        return picture


def compare(folder: Path, dtype: torch.dtype, size: int, rounds: int) -> list[Row]:
    place = Place(device=torch.device("cpu"), dtype=dtype, seed=0, folder=folder)
    ours: QwenVae = VaeQwen(path=folder).build(place)
    theirs = Theirs(folder, dtype)
    image = torch.rand(3, size, size) * 2 - 1
    side = size // ours.scale
    latents = Latents(tokens=torch.randn(side * side, ours.width), grids=((1, side, side),))
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "encode": (lambda: ours.encode([image]).tokens, lambda: theirs.encode(image)),
        "decode": (lambda: ours.decode(latents)[0], lambda: theirs.decode(latents.tokens, side)),
    }
    rows = []
    for what, (mine, other) in pairs.items():
        apart = (mine() - other()).abs().max().item()
        taken = in_turn({"ours": mine, "theirs": other}, rounds)
        own, their = median(taken["ours"]), median(taken["theirs"])
        rows.append(
            Row(
                dtype=str(dtype).removeprefix("torch."),
                what=what,
                ours_cpu=own.cpu,
                theirs_cpu=their.cpu,
                ours_wall=own.wall,
                theirs_wall=their.wall,
                ratio_cpu=their.cpu / own.cpu,
                ratio_wall=their.wall / own.wall,
                aim=AIMS[dtype],
                apart=apart,
            )
        )
    return rows


def show(rows: list[Row], title: str) -> None:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        aim = f"{row.aim:.1f} {'met' if row.ratio_cpu >= row.aim else 'missed'}"
        cpu = (f"{row.ours_cpu:.2f}", f"{row.theirs_cpu:.2f}", f"{row.ratio_cpu:.2f}")
        wall = (f"{row.ours_wall:.2f}", f"{row.theirs_wall:.2f}", f"{row.ratio_wall:.2f}")
        lines.append((f"{row.dtype} {row.what}", "CPU", *cpu, aim, f"{row.apart:.0e}"))
        lines.append(("", "wall", *wall, "", ""))
    columns = ("", "clock", "ours", "diffusers", "ratio", "aim", "apart")
    table(title, columns, lines, caption="median seconds; ratio: diffusers / ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels along one side (256)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of both (torch's default)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        AutoencoderKLQwenImage().save_pretrained(folder)
        rows = [row for dtype in AIMS for row in compare(Path(folder), dtype, args.size, args.rounds)]
    # Without AMX a CPU multiplies bfloat16 no quicker than float32, which says much about the rows of bfloat16.
    amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    show(rows, f"vae-qwen at {args.size}x{args.size}, {args.threads} threads, AMX: {'yes' if amx else 'no'}")
    write(
        args.json,
        {
            "size": args.size,
            "rounds": args.rounds,
            "threads": args.threads,
            "amx": bool(amx),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "rows": [asdict(row) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
