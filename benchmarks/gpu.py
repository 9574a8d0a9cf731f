"""What one CUDA card does: training steps of a large MMDiT with their MFU, rollouts and updates of GRPO, and the VAE.

    python benchmarks/gpu.py [--size 1b] [--pixels 256 512 1024] [--tokens 16384] [--checkpointing none|all|N]
                             [--compile] [--peak TFLOPS] [--rounds 10] [--json FILE]

A step is what a run does once pictures and captions are encoded: noise and times drawn, forward, loss and backward in
bfloat16 with float32 weights, clip, AdamW. Captions of 64 to 256 tokens stand in one batch, packed.
MFU is matrix products and attention of three forward passes (see qi_plugins/mmdit/cost.py) in the time of the step, as
a part of the card's dense bfloat16 peak as its maker states it. Rollouts and updates: see gpu_rl.py. Nothing is
downloaded; weights are random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import asdict, frozen
from card import CAPTIONS, CHANNELS, SCALE, TEXT_WIDTH, fresh_memory, most_memory, seconds, shown
from common import table, write
from gpu_rl import reinforce

from qi_core import Condition, Dice, Examples, Latents, Place, Strategy
from qi_core.planning import Tokens
from qi_plugins.mmdit.architecture import PRESETS
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.cost import training_flops
from qi_plugins.objective_flow.flow_matching import FlowMatching
from qi_plugins.optimizer_adamw.component import AdamW
from qi_plugins.parallel_single.component import Single
from qi_plugins.vae_qwen.autoencoder import QwenVae
from qi_plugins.vae_qwen.config import VaeConfig
from qi_plugins.vae_qwen.network import VaeNetwork
from qi_registry.planning.cards import peak_of


@frozen(kw_only=True)
class Step:
    """One training workload."""

    pixels: int
    pictures: int
    tokens: int
    """Image and text tokens of the batch."""
    seconds: float | None
    """Median of a step; None: the card has too little memory."""
    images_per_second: float | None
    teraflop: float
    """Counted for one picture."""
    teraflops: float | None
    mfu: float | None
    memory: float | None
    """Most that was ever held, GiB."""


@frozen(kw_only=True)
class Pictures:
    """The VAE on pictures of one size."""

    pixels: int
    pictures: int
    encode: float | None
    """Pictures a second."""
    decode: float | None


def batch(pixels: int, pictures: int, device: torch.device) -> tuple[Examples, list[Tokens]]:
    side = pixels // SCALE
    sizes = [Tokens(text=CAPTIONS[i % len(CAPTIONS)], target=side * side) for i in range(pictures)]
    text = torch.randn(sum(s.text for s in sizes), TEXT_WIDTH, device=device)
    examples = Examples(
        latents=Latents(
            tokens=torch.randn(pictures * side * side, CHANNELS, device=device), grids=((1, side, side),) * pictures
        ),
        condition=Condition(text=text, lengths=tuple(s.text for s in sizes)),
        slots=tuple(range(pictures)),
        keys=("",) * pictures,
    )
    return examples, sizes


def train(
    settings: MMDiT, strategy: Strategy, place: Place, pixels: Sequence[int], tokens: int, rounds: int, peak: float
) -> list[Step]:
    """Every size on one model, largest last, so that an overflow of memory spoils nothing before it."""
    model = strategy.place(settings.build(place, CHANNELS, TEXT_WIDTH))
    optimizer = AdamW(lr=1e-5).build(model, 1000)
    objective, done = FlowMatching(), 0
    arch = settings.architecture(CHANNELS, TEXT_WIDTH)
    rows: list[Step] = []
    for size in pixels:
        pictures = max(1, tokens // (size // SCALE) ** 2)
        examples, sizes = batch(size, pictures, place.device)

        def step(examples: Examples = examples) -> None:
            nonlocal done
            with strategy.autocast():
                loss = objective.loss(model, examples, Dice(0, done))
            strategy.backward(loss.value)
            strategy.clip(model.parameters(), 1.0)
            optimizer.step(done)
            done += 1

        fresh_memory(place.device)
        took = seconds(step, place.device, rounds)
        model.zero_grad(set_to_none=True)
        flop = training_flops(arch, sizes)
        speed = flop / took / 1e12 if took else None
        rows.append(
            Step(
                pixels=size,
                pictures=pictures,
                tokens=sum(s.text + s.target for s in sizes),
                seconds=took,
                images_per_second=pictures / took if took else None,
                teraflop=flop / pictures / 1e12,
                teraflops=speed,
                mfu=speed / peak if speed and peak else None,
                memory=most_memory(place.device),
            )
        )
    return rows


def vae(place: Place, pixels: Sequence[int], tokens: int, rounds: int) -> list[Pictures]:
    """The released geometry; an eighth of the training batch at once."""
    torch.manual_seed(0)
    config = VaeConfig()
    network = VaeNetwork(config).eval().requires_grad_(False)
    network.to(place.device, place.dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    coder = QwenVae(network=network, config=config, tiling=None, batch_pixels=1 << 22)
    rows: list[Pictures] = []
    for size in pixels:
        pictures = max(1, tokens // 8 // (size // SCALE) ** 2)
        images = [torch.rand(3, size, size, device=place.device) * 2 - 1 for _ in range(pictures)]
        with torch.no_grad():
            latents = coder.encode(images)
            encode = seconds(lambda images=images: coder.encode(images), place.device, rounds)  # type: ignore[misc]
            decode = seconds(lambda latents=latents: coder.decode(latents), place.device, rounds)  # type: ignore[misc]
        rows.append(
            Pictures(
                pixels=size,
                pictures=pictures,
                encode=pictures / encode if encode else None,
                decode=pictures / decode if decode else None,
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(PRESETS), default="1b", help="preset of the MMDiT (1b)")
    parser.add_argument("--layers", type=int, help="another depth than the preset's (3b with 12 layers: 1.8 billion)")
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 512, 1024], help="sides of the pictures")
    parser.add_argument("--tokens", type=int, default=16384, help="image tokens in a batch (16384)")
    parser.add_argument("--checkpointing", default="none", help="none, all, or n for every n-th block")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks")
    parser.add_argument("--peak", type=float, help="dense bfloat16 TFLOP/s of a card that is not in the list")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count (10)")
    parser.add_argument("--device", default="cuda", help='a card; "cpu" only tries the script, its figures say nothing')
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"benchmarks/gpu.py needs a CUDA card; torch {torch.__version__} sees none here", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (no measurement)"
    peak = args.peak or peak_of(name)
    checkpointing = int(args.checkpointing) if args.checkpointing.isdigit() else args.checkpointing
    settings = MMDiT(size=args.size, layers=args.layers, checkpointing=checkpointing)
    strategy = Single(device=args.device, precision="bf16", compile=args.compile).build()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=Path(folder))
        steps = train(settings, strategy, place, args.pixels, args.tokens, args.rounds, peak or 0.0)
        drawn = reinforce(settings, strategy, place, args.pixels, args.tokens, args.rounds, peak or 0.0)
        fresh_memory(device)
        coded = vae(place, args.pixels, args.tokens, args.rounds)
    parameters = billions(settings)
    table(
        f"Training step, MMDiT of {parameters:.2f} billion, {name}",
        ("px", "images", "tokens", "s/step", "images/s", "TFLOP each", "TFLOP/s", "MFU", "GiB"),
        (
            (
                str(row.pixels),
                str(row.pictures),
                str(row.tokens),
                shown(row.seconds, ".3f", "no memory"),
                shown(row.images_per_second, ".1f"),
                f"{row.teraflop:.2f}",
                shown(row.teraflops, ".0f"),
                shown(row.mfu, ".1%"),
                shown(row.memory, ".1f"),
            )
            for row in steps
        ),
        caption=f"bfloat16, peak {peak:g} TFLOP/s dense; products and attention of 3 forward passes counted"
        if peak
        else "no peak is known for this card: give --peak",
    )
    table(
        f"Reinforcement learning, MMDiT of {parameters:.2f} billion, {name}",
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
    table(
        f"Autoencoder vae-qwen, bfloat16, {name}",
        ("px", "images", "encoded/s", "decoded/s"),
        ((str(r.pixels), str(r.pictures), shown(r.encode, ".1f"), shown(r.decode, ".1f")) for r in coded),
    )
    write(
        args.json,
        {
            "device": name,
            "peak_tflops": peak,
            "torch": torch.__version__,
            "billion_parameters": parameters,
            "checkpointing": checkpointing,
            "compile": args.compile,
            "steps": [asdict(row) for row in steps],
            "reinforcement": [asdict(row) for row in drawn],
            "vae": [asdict(row) for row in coded],
        },
    )


def billions(settings: MMDiT) -> float:
    """Parameters of the network, without building it."""
    from qi_plugins.mmdit.network import MMDiTNetwork

    with torch.device("meta"):
        network = MMDiTNetwork(settings.architecture(CHANNELS, TEXT_WIDTH))
    return sum(p.numel() for p in network.parameters()) / 1e9


if __name__ == "__main__":
    main()
