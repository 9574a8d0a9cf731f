"""qi import"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any


class Import:
    """Make a run out of a released model, ready to be trained or drawn with.

    The denoiser's weights go into the run's first checkpoint, byte for byte, one tensor in memory at a time. The
    autoencoder and the conditioner are frozen: they are read where they lie.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("pipeline", help="the model's folder, in diffusers' layout (transformer/, vae/, ...)")
        parser.add_argument("run", help="the folder of the run to make")
        parser.add_argument(
            "--recipe", default="recipes/finetune.toml", help="what it will train (default: %(default)s)"
        )
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")

    def run(self, args: Namespace) -> int:
        from attrs import evolve

        from qi_core import checkpoint
        from qi_core.errors import QiError
        from qi_core.files import locked
        from qi_core.release import ReleasedDenoiser
        from qi_registry import runs
        from qi_registry.reader import read
        from qi_registry.recipe import to_toml
        from qi_registry.weights import base_store

        pipeline, folder = Path(args.pipeline), Path(args.run)
        if not pipeline.is_dir():
            raise QiError(f"{pipeline}: no such folder; wanted a model in diffusers' layout (transformer/, vae/, ...)")
        if runs.is_run(folder):
            raise QiError(f"{folder}: a run is there already; choose another folder")
        recipe = read(args.recipe, tuple(args.set))
        denoiser = recipe.denoiser
        if not isinstance(denoiser, ReleasedDenoiser):
            raise QiError(f"{args.recipe}: its denoiser has no released layout; wanted one such as 'mmdit'")
        tensors = denoiser.stored(pipeline)
        recipe = evolve(
            recipe,
            name=folder.name,
            folder="",
            denoiser=denoiser.at(pipeline),
            autoencoder=_at(recipe.autoencoder, pipeline),
            conditioner=_at(recipe.conditioner, pipeline),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "a run"):
            runs.refuse_foreign(folder)
            store = recipe.store.build(folder) if recipe.adapter is None else base_store(recipe, folder)
            path = store.save(checkpoint.first(tensors, to_toml(recipe)))
            runs.keep(recipe, folder)  # last: a run without its weights would begin from chance
        print(f"{path}: {len(tensors)} tensors; train it with: qi run {folder}")
        return 0


def _at(component: Any, pipeline: Path) -> Any:
    """The settings of a frozen part, reading from the pipeline's folder if they know how."""
    from qi_core.release import Released

    return component.at(pipeline) if isinstance(component, Released) else component
