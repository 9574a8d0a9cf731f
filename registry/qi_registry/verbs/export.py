"""qi export"""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path


class Export:
    """Write a run's model as a folder that diffusers loads."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of the run")
        parser.add_argument("folder", help="the folder to write; it must not exist")
        parser.add_argument("--dtype", choices=("as-is", "bf16", "fp32", "fp16"), default="as-is",
                            help="of the weights; as-is: trained ones are float32 (default: %(default)s)")  # fmt: skip
        parser.add_argument("--live-weights", action="store_true", help="the trained weights, not their average")

    def run(self, args: Namespace) -> int:
        import torch

        from qi_core.errors import QiError
        from qi_core.release import Released, ReleasedDenoiser
        from qi_registry.runs import read_run
        from qi_registry.weights import AVERAGED, TRAINED, plain

        folder, target = Path(args.run), Path(args.folder)
        recipe = read_run(folder)
        parts = (recipe.autoencoder, recipe.conditioner)
        denoiser = recipe.denoiser
        if not isinstance(denoiser, ReleasedDenoiser):
            raise QiError(f"{folder}: its denoiser has no released layout; nothing that diffusers could load")
        if target.exists():
            raise QiError(f"{target}: is there already; choose another folder")
        weights = plain(recipe, folder, TRAINED if args.live_weights else AVERAGED)
        dtype = {"as-is": None, "bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}[args.dtype]
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
        print(f"{target}: step {weights.step}, {'averaged' if weights.group == AVERAGED else 'trained'} weights")
        for component in left_out:
            print(f"left out: {type(component).__name__} is qi's own and has no place in diffusers' layout")
        return 0
