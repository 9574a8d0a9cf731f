"""qi export"""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from qi_registry.recipe import Recipe
    from qi_registry.weights import Weights


class Export:
    """Write a run's model as a folder that diffusers loads, or its adapter alone.

    The model of a run with an adapter is written with the adapter worked in, as any other.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of the run")
        parser.add_argument("folder", help="the folder (or an adapter's file) to write; it must not exist")
        parser.add_argument("--adapter", metavar="LAYOUT",
                            help="write the adapter alone, for who reads such: peft, diffusers, comfyui")  # fmt: skip
        parser.add_argument("--dtype", choices=("as-is", "bf16", "fp32", "fp16"), default="as-is",
                            help="of the weights; as-is: trained ones are float32 (default: %(default)s)")  # fmt: skip
        parser.add_argument("--live-weights", action="store_true", help="the trained weights, not their average")

    def run(self, args: Namespace) -> int:
        import torch

        from qi_registry.runs import read_run
        from qi_registry.weights import AVERAGED, TRAINED

        folder, target = Path(args.run), Path(args.folder)
        recipe = read_run(folder)
        group = TRAINED if args.live_weights else AVERAGED
        dtype = {"as-is": None, "bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}[args.dtype]
        if args.adapter:
            return _adapter(recipe, folder, target, group, args.adapter, dtype)
        return _pipeline(recipe, folder, target, group, dtype)


def _adapter(recipe: Recipe, folder: Path, target: Path, group: str, layout: str, dtype: torch.dtype | None) -> int:
    from qi_core.errors import QiError
    from qi_registry.weights import stored

    if recipe.adapter is None:
        raise QiError(f"{folder}: its recipe has no adapter; leave --adapter out to export the whole model")
    weights = stored(recipe, folder, group)
    recipe.adapter.export(target, weights.tensors, layout, dtype)
    print(f"{target}: adapter for {layout}, {_told(weights)}")
    return 0


def _pipeline(recipe: Recipe, folder: Path, target: Path, group: str, dtype: torch.dtype | None) -> int:
    from qi_core.errors import QiError
    from qi_core.release import Released, ReleasedDenoiser
    from qi_registry.weights import plain

    parts = (recipe.autoencoder, recipe.conditioner)
    denoiser = recipe.denoiser
    if not isinstance(denoiser, ReleasedDenoiser):
        raise QiError(f"{folder}: its denoiser has no released layout; nothing that diffusers could load")
    if target.exists():
        raise QiError(f"{target}: is there already; choose another folder")
    weights = plain(recipe, folder, group)
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        left_out = [component for component in parts if not isinstance(component, Released)]
        for component in parts:
            if isinstance(component, Released):
                component.export(beside)
        denoiser.export(beside, weights.tensors, dtype)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{target}: {_told(weights)}")
    for component in left_out:
        print(f"left out: {type(component).__name__} is qi's own and has no place in diffusers' layout")
    return 0


def _told(weights: Weights) -> str:
    from qi_registry.weights import AVERAGED

    return f"step {weights.step}, {'averaged' if weights.group == AVERAGED else 'trained'} weights"
