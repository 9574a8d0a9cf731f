"""A training step (forward and backward, float32) of the MMDiT against diffusers' with the same weights.

    python benchmarks/mmdit.py [--threads 1] [--rounds 7] [--json FILE]

Three batches: pictures of 256 pixels with captions of very different lengths, which diffusers pads and masks and we
pack; and two with almost no padding. The sides take turns within one process; medians are told, and the outputs are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from attrs import asdict, frozen
from common import Timing, in_turn, median, table, write
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from qi_core import Condition, Latents, Place
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.network import MMDiTNetwork

LAYERS, HEADS, HEAD_DIM, AXES = 4, 8, 64, (8, 28, 28)
CHANNELS, TEXT_WIDTH = 64, 3584


@frozen
class Workload:
    """A batch, by its shapes."""

    name: str
    side: int
    """Rows and columns of tokens of each picture."""
    captions: tuple[int, ...]
    aim: float
    """Times faster than diffusers."""


WORKLOADS = (
    Workload("256 px, captions 512/60/100/180", 16, (512, 60, 100, 180), 1.6),
    Workload("256 px, captions 180/176/178/172", 16, (180, 176, 178, 172), 1.05),
    Workload("512 px, captions 128/120", 32, (128, 120), 1.05),
)


@frozen
class Result:
    """What was measured on one workload."""

    workload: str
    diffusers: Timing
    qi: Timing
    wall_ratio: float
    cpu_ratio: float
    aim: float
    largest_difference: float


def networks() -> tuple[QwenImageTransformer2DModel, MMDiTNetwork]:
    """Both, with the same random weights."""
    torch.manual_seed(0)
    theirs = QwenImageTransformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS // 4,
        num_layers=LAYERS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=AXES,
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=Path(folder))
        ours = MMDiT(weights=Path(folder)).build(place, CHANNELS, TEXT_WIDTH)
    return theirs, ours


Step = Callable[[], Tensor]


def steps(theirs: QwenImageTransformer2DModel, ours: MMDiTNetwork, load: Workload) -> tuple[Step, Step]:
    """Forward, loss and backward of each side; both give their velocity (samples * tokens, C)."""
    generator = torch.Generator().manual_seed(1)
    samples, tokens, longest = len(load.captions), load.side**2, max(load.captions)
    x = torch.randn(samples, tokens, CHANNELS, generator=generator)
    target = torch.randn(samples, tokens, CHANNELS, generator=generator)
    t = torch.rand(samples, generator=generator)
    texts = [torch.randn(length, TEXT_WIDTH, generator=generator) for length in load.captions]
    padded = torch.stack([F.pad(text, (0, 0, 0, longest - len(text))) for text in texts])
    mask = torch.arange(longest) < torch.tensor(load.captions)[:, None]
    shapes = [[(1, load.side, load.side)]] * samples
    latents = Latents(tokens=x.flatten(0, 1), grids=((1, load.side, load.side),) * samples)
    condition = Condition(text=torch.cat(texts), lengths=load.captions)

    def diffusers() -> Tensor:
        theirs.zero_grad()
        out = theirs(
            hidden_states=x,
            encoder_hidden_states=padded,
            encoder_hidden_states_mask=mask,
            timestep=1 - t,
            img_shapes=shapes,
            return_dict=False,
        )[0]
        torch.autograd.backward(F.mse_loss(-out, target))
        velocity: Tensor = -out.detach().flatten(0, 1)
        return velocity

    def qi() -> Tensor:
        ours.zero_grad()
        out = ours.velocity(latents, t, condition).tokens
        torch.autograd.backward(F.mse_loss(out, target.flatten(0, 1)))
        return out.detach()

    return diffusers, qi


def measure(load: Workload, sides: tuple[Step, Step], rounds: int) -> Result:
    """Sides in turn, so that a neighbour on the machine disturbs both."""
    difference = (sides[0]() - sides[1]()).abs().max().item()
    taken = in_turn({"diffusers": sides[0], "qi": sides[1]}, rounds)
    theirs, ours = median(taken["diffusers"]), median(taken["qi"])
    return Result(
        workload=load.name,
        diffusers=theirs,
        qi=ours,
        wall_ratio=theirs.wall / ours.wall,
        cpu_ratio=theirs.cpu / ours.cpu,
        aim=load.aim,
        largest_difference=difference,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    theirs, ours = networks()
    results = [measure(load, steps(theirs, ours, load), args.rounds) for load in WORKLOADS]
    table(
        f"MMDiT {LAYERS} x {HEADS} x {HEAD_DIM}, float32, forward and backward, {args.threads} thread(s), seconds",
        ("", "diffusers", "qi", "ratio", "aim"),
        [
            row
            for r in results
            for row in (
                (r.workload, "", "", "", f">= {r.aim:.2f}"),
                ("  CPU", f"{r.diffusers.cpu:.3f}", f"{r.qi.cpu:.3f}", f"{r.cpu_ratio:.2f}", ""),
                ("  wall", f"{r.diffusers.wall:.3f}", f"{r.qi.wall:.3f}", f"{r.wall_ratio:.2f}", ""),
            )
        ],
        caption=f"medians of {args.rounds}; outputs differ by {max(r.largest_difference for r in results):.0e} at most",
    )
    write(args.json, {"threads": args.threads, "rounds": args.rounds, "results": [asdict(r) for r in results]})


if __name__ == "__main__":
    main()
