"""qi bench checkpointing"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from qi_core.errors import QiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qi_registry.benchmarks.step import Figures

MODES: tuple[str | int, ...] = ("none", "selective", 2, "all")
SCALE = 16
"""Pixels of a side that make one token."""

REPORT = """\
The Qwen-Image report (arXiv 2508.02324, section 4) says of its own machines, at 256 pixels: 11.3 % less memory (71 to
63 GB a GPU) for 3.75 times the time (2 to 7.5 s an iteration); they left checkpointing off."""


class Checkpointing:
    """Memory and time of a training step, by what denoiser.checkpointing computes again.

    A step is forward, backward, clipping and AdamW on random latents and captions of 64 to 256 tokens, with weights in
    float32. All ways share their weights and take turns. "kept": what the forward pass leaves for the backward pass.
    "peak": the most that is held in a step, weights and optimizer included. Time is a median: wall time on a GPU, on a
    CPU the process's own seconds.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("--size", help="preset of the mmdit (default: 1b on a GPU, small on a CPU)")
        parser.add_argument("--layers", type=int, help="another depth than the preset's")
        parser.add_argument("--pixels", type=int, default=256, help="side of the pictures (default: %(default)s)")
        parser.add_argument("--images", type=int, help="pictures in a batch (default: 32 on a GPU, 2 on a CPU)")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
        parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 (default: %(default)s)")
        parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's choice")
        parser.add_argument("--rounds", type=int, default=5, help="steps that count (default: %(default)s)")

    def run(self, args: Namespace) -> int:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read when torch is imported; the profiler tells what it does
        for name, least in (("pixels", SCALE), ("images", 1), ("rounds", 1), ("layers", 1)):
            value = getattr(args, name)
            if value is not None and value < least:
                raise QiError(f"--{name} {value}: wanted {least} at least")
        if args.pixels % SCALE:
            raise QiError(f"--pixels {args.pixels}: wanted a multiple of {SCALE}")
        parallel = _component("parallel", "single", device=args.device, precision=args.precision, threads=args.threads)
        strategy = parallel.build()
        gpu = strategy.device.type == "cuda"
        size, images = args.size or ("1b" if gpu else "small"), args.images or (32 if gpu else 2)
        networks = [
            _component("denoiser", "mmdit", size=size, layers=args.layers, checkpointing=mode) for mode in MODES
        ]

        from qi_registry.benchmarks.step import Workload, measure

        workload = Workload(pixels=args.pixels, images=images, scale=SCALE)
        objective, optimizer = _component("objective", "flow-matching"), _component("optimizer", "adamw")
        told = measure(networks, strategy, objective, optimizer, workload, args.rounds)
        _print(told, f"{size}{f', {args.layers} blocks' if args.layers else ''}, {images} pictures of {args.pixels}")
        return 0


def _component(kind: str, name: str, **settings: Any) -> Any:
    """With these settings, those that are None left to the component. Raises QiError for one that it doesn't take."""
    from qi_registry.kinds import KINDS, NAME
    from qi_registry.mistakes import dotted
    from qi_registry.registry import installed
    from qi_registry.structure import Structurer

    table = {NAME: name} | {key: value for key, value in settings.items() if value is not None}
    made, mistakes = Structurer(installed()).section(table, KINDS[kind], (kind,))
    if mistakes:
        raise QiError("; ".join(f"{dotted(mistake.path)}: {mistake.what}" for mistake in mistakes))
    return made


def _print(told: Sequence[Figures], what: str) -> None:
    from qi_registry.tables import print_table

    first = told[0]
    rows = []
    for mode, own in zip(MODES, told, strict=True):
        name = f"every {mode}nd block" if isinstance(mode, int) else mode
        if own.seconds is None:
            rows.append((name, "out of memory", "", "", "", "", ""))
            continue
        pairs = ((own.kept, first.kept), (own.peak, first.peak), (own.seconds, first.seconds))
        parts = ["" if base is None else f"{value / base:.0%}" for value, base in pairs]
        kept, peak = (f"{value / 2**20:,.0f} MiB" for value in (own.kept, own.peak))
        rows.append((name, kept, parts[0], peak, parts[1], f"{own.seconds:.3f} s", parts[2]))
    print(f"A training step of mmdit {what} pixels, {first.tokens} tokens, {first.device}, {first.precision}")
    print_table(("checkpointing", "kept", "of none", "peak", "of none", "a step", "of none"), rows)
    print(first.counted)
    print(REPORT)
