"""What one CUDA card does: training steps of large MMDiTs beside diffusers', rollouts and updates of GRPO, and the VAE.

    python benchmarks/gpu.py [--models 1b 20b] [--pixels 256 640 1328] [--tokens 16384] [--compile] [--peak TFLOPS]
                             [--only steps rl vae] [--rounds 10] [--json FILE]

A step is what a run does once pictures and captions are encoded: noise and times drawn, forward, loss and backward in
bfloat16 with float32 weights, clip, AdamW. Captions of 64 to 256 tokens stand in one batch: packed, diffusers' padded.
A model is a preset, or one of another depth: 20b:8 is the released one's width in 8 blocks; without a number, 20b gets
as many blocks as the plan says fill three quarters of the card.
MFU is matrix products and attention of three forward passes (see qi_plugins/mmdit/cost.py) in the time of the step, as
a part of the card's dense bfloat16 peak as its maker states it. Nothing is downloaded; weights are random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import asdict
from card import CHANNELS, TEXT_WIDTH, fresh_memory, shown
from common import table, write
from gpu_rl import Work, reinforce
from gpu_steps import Batch, Step, attempt, planned, profiled, train, ways
from gpu_vae import Pictures, vae

from qi_core import Place
from qi_plugins.mmdit.architecture import PRESETS
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.parallel_single.component import Single
from qi_registry.planning.cards import peak_of

PARTS = ("steps", "rl", "vae")
AIM_MFU, AIM_RATIO, AIM_PLAN = 0.40, 1.5, 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1b", "20b"], metavar="SIZE[:BLOCKS]", help="(1b 20b)")
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 640, 1328], help="sides of the pictures")
    parser.add_argument("--tokens", type=int, default=16384, help="image tokens in a batch (16384)")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the blocks")
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s of a card that is not in the list")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count (10)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (all)")
    parser.add_argument("--device", default="cuda", help='a card; "cpu" only tries the script, its figures say nothing')
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"benchmarks/gpu.py needs a CUDA card; torch {torch.__version__} sees none here", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (no measurement)"
    peak = args.peak or peak_of(name)
    models = [model(word, device, args.pixels, args.tokens) for word in args.models]
    figures: dict[str, object] = {"device": name, "peak_tflops": peak, "torch": torch.__version__}
    if "steps" in args.only:
        figures["steps"] = [steps(each, args, name, peak) for each in models]
    if "rl" in args.only:
        figures["reinforcement"] = rl(models[0], args, name, peak)
    if "vae" in args.only:
        figures["vae"] = autoencoder(args, name)
    write(args.json, figures)


def model(word: str, device: torch.device, pixels: Sequence[int], tokens: int) -> MMDiT:
    """Of ``SIZE`` or ``SIZE:BLOCKS``."""
    size, _, blocks = word.partition(":")
    if size not in PRESETS or (blocks and not (blocks.isdecimal() and int(blocks))):
        print(
            f"--models {word}: wanted one of {', '.join(PRESETS)}, or with a number of blocks: 20b:8", file=sys.stderr
        )
        sys.exit(2)
    settings = MMDiT(size=size, layers=int(blocks) if blocks else None)  # type: ignore[arg-type]
    if blocks or size != "20b":
        return settings
    room = 0.75 * (torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 8 * 2**30) / 2**30
    single, fitting = Single(device=device.type, precision="bf16"), 1
    batches = [Batch.of(size, tokens, torch.device("meta")).sizes for size in pixels]
    for layers in range(2, PRESETS[size].layers + 1):
        cut = MMDiT(size="20b", layers=layers)
        if max(planned(cut, single, sizes) or 0.0 for sizes in batches) > room:
            break
        fitting = layers
    return MMDiT(size="20b", layers=fitting)


def steps(settings: MMDiT, args: argparse.Namespace, name: str, peak: float | None) -> dict[str, object]:
    """Training steps in every way, diffusers', and where the time of one goes."""
    import gpu_diffusers

    rows: list[Step] = []
    notes: list[str] = []
    common = (args.pixels, args.tokens, args.rounds, peak or 0.0)
    for way in ways(args.device, compiled=args.compile):
        attempt(lambda way=way: train(way, settings, *common), way.name, rows, notes)  # type: ignore[misc]
    device = Single(device=args.device).build().device
    attempt(lambda: gpu_diffusers.train(settings, device, *common), gpu_diffusers.NAME, rows, notes)
    if not any("megatron" in row.way for row in rows):
        notes.append("qi, megatron, te: not measured; it wants a card, megatron-core and TransformerEngine")
    theirs = {row.pixels: row.seconds for row in rows if row.way == gpu_diffusers.NAME}
    parameters = billions(settings)
    table(
        f"Training step, MMDiT of {parameters:.3g} billion, {name}",
        ("", "px", "images", "tokens", "s/step", "images/s", "TFLOP/s", "MFU", "GiB", "plan", "diffusers / qi"),
        [line(row, theirs.get(row.pixels)) for row in sorted(rows, key=lambda row: row.pixels)],
        caption=(f"peak {peak:g} TFLOP/s dense" if peak else "no peak is known for this card: give --peak")
        + "; products and attention of 3 forward passes counted; float32 weights, bfloat16 products; diffusers pads "
        f"captions. Aims: MFU {AIM_MFU:.0%}, {AIM_RATIO} x diffusers, plan within {AIM_PLAN:.0%}",
    )
    for note in notes:
        print(f"* {note}")
    pixels = sorted(args.pixels)[len(args.pixels) // 2]
    try:
        spent = profiled(settings, args.device, pixels, args.tokens)
    except torch.OutOfMemoryError:
        spent = []
    table(
        f"A step at {pixels} pixels: where its time goes (torch.profiler, its own time of each operation)",
        ("", "calls", "ms", "share"),
        [(key[:70], str(calls), f"{took:.2f}", f"{share:.1%}") for key, calls, took, share in spent],
    )
    return {
        "billion_parameters": parameters,
        "blocks": settings.architecture(CHANNELS, TEXT_WIDTH).layers,
        "rows": [asdict(row) for row in rows],
        "notes": notes,
        "profile": [{"operation": k, "calls": c, "ms": m, "share": s} for k, c, m, s in spent],
    }


def line(row: Step, theirs: float | None) -> tuple[str, ...]:
    """A row of the table."""
    ratio = theirs / row.seconds if theirs and row.seconds and row.way != "diffusers" else None
    plan = shown(row.planned, ".1f")
    if row.planned and row.memory:
        plan += f" ({row.planned / row.memory - 1:+.0%})"
    return (
        row.way,
        str(row.pixels),
        str(row.pictures),
        str(row.tokens),
        shown(row.seconds, ".3f", "no memory"),
        shown(row.images_per_second, ".1f"),
        shown(row.teraflops, ".0f"),
        shown(row.mfu, ".1%"),
        shown(row.memory, ".1f"),
        plan,
        shown(ratio, ".2f"),
    )


def rl(settings: MMDiT, args: argparse.Namespace, name: str, peak: float | None) -> list[dict[str, object]]:
    """Rollouts and updates of GRPO: see gpu_rl.py."""
    strategy = Single(device=args.device, precision="bf16", compile=args.compile).build()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=Path(folder))
        drawn: list[Work] = reinforce(settings, strategy, place, args.pixels, args.tokens, args.rounds, peak or 0.0)
    table(
        f"Reinforcement learning, MMDiT of {billions(settings):.3g} billion, {name}",
        ("", "px", "images", "passes", "s", "images/s", "TFLOP/s", "MFU", "GiB"),
        (
            (
                row.part,
                str(row.pixels),
                str(row.pictures),
                str(row.passes),
                shown(row.seconds, ".3f", "no memory"),
                shown(row.images_per_second, ".2f"),
                shown(row.teraflops, ".0f"),
                shown(row.mfu, ".1%"),
                shown(row.memory, ".1f"),
            )
            for row in drawn
        ),
        caption="rollout: exact-sde, guided, trajectories kept; update: grpo with a KL on two steps a picture; forward "
        "passes of single pictures are counted, a backward pass as two",
    )
    return [asdict(row) for row in drawn]


def autoencoder(args: argparse.Namespace, name: str) -> list[dict[str, object]]:
    """Encoding and decoding."""
    strategy = Single(device=args.device, precision="bf16").build()
    fresh_memory(strategy.device)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=Path(folder))
        coded: list[Pictures] = vae(place, args.pixels, args.tokens, args.rounds)
    table(
        f"Autoencoder vae-qwen, bfloat16, {name}",
        ("px", "images", "encoded/s", "decoded/s"),
        ((str(r.pixels), str(r.pictures), shown(r.encode, ".1f"), shown(r.decode, ".1f")) for r in coded),
    )
    return [asdict(row) for row in coded]


def billions(settings: MMDiT) -> float:
    """Parameters of the network, without building it."""
    from qi_plugins.mmdit.network import MMDiTNetwork

    with torch.device("meta"):
        network = MMDiTNetwork(settings.architecture(CHANNELS, TEXT_WIDTH))
    return sum(p.numel() for p in network.parameters()) / 1e9


if __name__ == "__main__":
    main()
