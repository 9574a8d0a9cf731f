"""What qi's loop costs beside a bare loop written by hand: the same model, data, batch size and optimizer.

    python benchmarks/loop.py [--threads 1] [--rounds 15] [--block 20] [--json FILE] [--profile]

The tiny MMDiT on rendered words of 64 x 16 pixels, batch 32. One process trains both, in turns of ``--block`` steps;
medians of the turns are told. qi's side is ``qi_core.loop.train`` itself with the JSON log, the prefetching thread, the
live channel and every other chore. The bare side draws a batch from the same source, drops captions, encodes, draws
noise and times with one call each, and does forward, loss, backward, clip, step and average; it logs nothing.
Checkpoints are not timed (how often one is written is the user's choice): their own seconds are told apart.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve
from common import Clock, Timing, median, table, write

from qi_core import DenoiserModule, Encoders, Latents, Samples, Source, Start, StepDone
from qi_core.loop import train
from qi_core.run import Run
from qi_core.tracker import Change, Ended, Evaluated, Saved
from qi_registry.assemble import assemble
from qi_registry.reader import loads

AIM = 3.0
"""Per cent."""
SETTLE = 0.05
"""Seconds: by then the prefetching thread has filled its queue and sleeps."""
BATCH, DROPOUT, LR, BETAS, CLIP, DECAY = 32, 0.1, 1e-3, (0.9, 0.95), 1.0, 0.999
RECIPE = f"""
conditioner = "characters"
sampler = "euler"
autoencoder = {{ name = "patchify", patch = 8 }}
denoiser = {{ name = "mmdit", size = "tiny" }}
objective = {{ name = "flow-matching", caption_dropout = {DROPOUT} }}
source = {{ name = "rendered-text", height = 16, width = 64 }}
optimizer = {{ name = "adamw", lr = {LR}, betas = {list(BETAS)} }}
parallel = {{ name = "single", device = "cpu", precision = "fp32" }}
tracker = ["jsonl"]
train = {{ batch = {BATCH}, clip = {CLIP}, ema = {DECAY}, save_every = 0 }}
"""


class Bare:
    """A training script of one screen."""

    def __init__(self, model: DenoiserModule, source: Source[Samples], encoders: Encoders) -> None:
        self.model, self.source, self.encoders = model, source, encoders
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LR, betas=BETAS, weight_decay=0.0, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        batch = self.source.draw(BATCH)
        dropped = torch.rand(BATCH, generator=self.generator) < DROPOUT
        prompts = ["" if drop else sample.prompt for drop, sample in zip(dropped.tolist(), batch, strict=True)]
        with torch.no_grad():
            condition = self.encoders.conditioner.encode(prompts)
            data = self.encoders.autoencoder.encode([sample.image for sample in batch])
        x0 = data.tokens
        noise = torch.randn(x0.shape, generator=self.generator)
        t = torch.sigmoid(torch.randn(BATCH, generator=self.generator))
        t_tokens = t.repeat_interleave(len(x0) // BATCH)[:, None]
        x_t = Latents(tokens=t_tokens * x0 + (1 - t_tokens) * noise, grids=data.grids)
        v = self.model(x_t, t, condition).tokens
        loss = (v - (x0 - noise)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - DECAY)


class Turns:
    """A tracker that stops the clock of qi's loop every ``block`` steps and lets the bare loop have its turn."""

    def __init__(self, bare: Bare, block: int, warmup: int) -> None:
        self.bare, self.block, self.warmup = bare, block, warmup
        self.ours: list[Timing] = []
        self.theirs: list[Timing] = []
        self.parts: dict[str, float] = {}
        self.saved = 0.0

    def tell(self, event: Start | StepDone | Evaluated | Change | Saved | Ended) -> None:
        match event:
            case Start():
                self._clock = Clock()
            case StepDone() if event.step % self.block == 0:
                # The wall stops now; the CPU once the thread has made as many batches as were used up.
                wall = self._clock.read().wall
                time.sleep(SETTLE)
                ours = Timing(wall=wall, cpu=self._clock.read().cpu)
                clock = Clock()
                for _ in range(self.block):
                    self.bare.step()
                if event.step > self.warmup * self.block:
                    self.ours.append(ours)
                    self.theirs.append(clock.read())
                self._clock = Clock()
            case Saved():
                self.saved = event.seconds
            case _:
                pass
        if isinstance(event, StepDone) and event.step > self.warmup * self.block:
            for name, seconds in event.seconds.items():
                self.parts[name] = self.parts.get(name, 0.0) + seconds


def assembled(folder: Path, steps: int, threads: int) -> Run:
    sets = (f"train.steps={steps}", f"parallel.threads={threads}")
    return assemble(loads(RECIPE, where="benchmarks/loop.py", sets=sets), folder)


def measure(rounds: int, block: int, threads: int) -> Turns:
    warmup = 1
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        other = assembled(Path(second), 1, threads)
        turns = Turns(Bare(other.model, other.source, other.encoders), block, warmup)
        run = assembled(Path(first), block * (rounds + warmup), threads)
        run.trackers.append(turns)
        train(run)
    return turns


def profile(steps: int, threads: int) -> None:
    """Where Python spends its time in qi's loop; without the thread, so that all of it is seen."""
    with tempfile.TemporaryDirectory() as folder:
        run = assembled(Path(folder), steps, threads)
        run.train = evolve(run.train, prefetch=0)
        watch = cProfile.Profile()
        watch.runcall(train, run)
    pstats.Stats(watch).sort_stats("tottime").print_stats(30)


def over(ours: float, theirs: float) -> float:
    """Per cent more."""
    return 100 * (ours / theirs - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of one operation (1)")
    parser.add_argument("--rounds", type=int, default=15, help="turns that count (15)")
    parser.add_argument("--block", type=int, default=20, help="steps in a turn (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--profile", action="store_true", help="profile qi's loop instead")
    args = parser.parse_args()
    if args.profile:
        profile(args.rounds * args.block, args.threads)
        return
    turns = measure(args.rounds, args.block, args.threads)
    ours, theirs = median(turns.ours), median(turns.theirs)
    # Of pairs of neighbouring turns, so that what the machine does over minutes falls out.
    pairs = list(zip(turns.ours, turns.theirs, strict=True))
    overhead = Timing(
        wall=median(Timing(over(a.wall, b.wall), 0) for a, b in pairs).wall,
        cpu=median(Timing(0, over(a.cpu, b.cpu)) for a, b in pairs).cpu,
    )
    figures: list[tuple[str, Any, Any, Any]] = [
        ("CPU", ours.cpu, theirs.cpu, overhead.cpu),
        ("wall", ours.wall, theirs.wall, overhead.wall),
    ]
    table(
        f"One step of the tiny MMDiT, batch {BATCH}, {args.threads} thread(s), milliseconds",
        ("", "qi", "bare loop", "overhead", "aim"),
        (
            (name, f"{1e3 * a / args.block:.1f}", f"{1e3 * b / args.block:.1f}", f"{c:+.1f} %", f"<= {AIM:g} %")
            for name, a, b, c in figures
        ),
        caption=f"medians of {args.rounds} turns of {args.block} steps; a checkpoint takes {turns.saved:.2f} s",
    )
    shares = {name: seconds / sum(turns.parts.values()) for name, seconds in turns.parts.items()}
    print("qi's own account of its wall time: " + ", ".join(f"{name} {part:.0%}" for name, part in shares.items()))
    write(
        args.json,
        {
            "threads": args.threads,
            "rounds": args.rounds,
            "block": args.block,
            "aim_percent": AIM,
            "qi": asdict(ours),
            "bare": asdict(theirs),
            "overhead_percent": asdict(overhead),
            "checkpoint_seconds": turns.saved,
            "shares": shares,
        },
    )


if __name__ == "__main__":
    main()
