"""The settings of the autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import Attribute, evolve, field, frozen, validators

from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.release import copy_part
from qi_core.weights import NO_FLOAT16
from qi_plugins.vae_qwen.config import VaeConfig, read_config

if TYPE_CHECKING:
    from qi_core.planning import Size
    from qi_plugins.vae_qwen.autoencoder import QwenVae


def _below_size(component: VaeQwen, attribute: Attribute[int], value: int) -> None:
    if not 0 <= value <= component.tile_size // 2:
        raise ValueError(f"'tile_overlap' must be from 0 to half of tile_size ({component.tile_size}): {value}")


@frozen(kw_only=True)
class VaeQwen:
    """The released Qwen-Image VAE (Wan-2.1 architecture) on pictures: 8x smaller sides, 16 channels, 2 x 2 a token.

    The geometry is read from the checkpoint's config.json, so every released one loads (RGB, and RGBA of Layered).
    """

    path: Path
    """Folder of config.json and diffusion_pytorch_model.safetensors, or the folder whose ``vae/`` it is."""
    tiling: bool = False
    """Decode pictures larger than a tile in overlapping tiles: less memory, and faint seams. Keep it off where pictures
    are scored; training is never tiled."""
    tile_size: int = field(default=1024, validator=validators.gt(0))
    """Pixels along one side of a tile; a multiple of the autoencoder's scale (16)."""
    tile_overlap: int = field(default=256, validator=_below_size)
    """Pixels over which two tiles are blended; a multiple of the autoencoder's scale (16), at most half a tile."""
    batch_pixels: int = field(default=4 * 1024 * 1024, validator=validators.gt(0))
    """Pictures of one size run together, up to so many pixels."""

    def build(self, place: Place) -> QwenVae:
        """Read the checkpoint. Raises QiError where it is none, or doesn't fit its own config."""
        import torch

        from qi_plugins.vae_qwen.autoencoder import QwenVae
        from qi_plugins.vae_qwen.tiles import Tiling
        from qi_plugins.vae_qwen.weights import CONFIG, load

        folder = self._folder(CONFIG)
        config = read_config(folder / CONFIG)
        if place.dtype == torch.float16:
            raise QiError(f"vae-qwen: asked to compute in float16; {NO_FLOAT16}")
        scale = 2 * config.shrink
        for name in ("tile_size", "tile_overlap"):
            if getattr(self, name) % scale:
                raise QiError(f"vae-qwen: {name} = {getattr(self, name)}; wanted a multiple of {scale}")
        return QwenVae(
            network=load(config, folder, place.device, place.dtype),
            config=config,
            tiling=Tiling(size=self.tile_size // config.shrink, overlap=self.tile_overlap // config.shrink)
            if self.tiling
            else None,
            batch_pixels=self.batch_pixels,
        )

    def plan_size(self) -> Size:
        """See ``qi_core.planning.Sized``."""
        from qi_core.planning import Size
        from qi_plugins.vae_qwen.weights import CONFIG, parameters

        try:
            config, note = read_config(self._folder(CONFIG) / CONFIG), ""
        except QiError:
            config, note = VaeConfig(), f"autoencoder: nothing in {self.path}; taken as released"
        return Size(width=4 * config.z_dim, scale=2 * config.shrink, parameters=parameters(config), note=note)

    def at(self, pipeline: Path) -> VaeQwen:
        """See ``qi_core.release.Released``."""
        from qi_plugins.vae_qwen.weights import CONFIG, read_weights

        there = evolve(self, path=(pipeline / "vae").resolve())
        folder = there._folder(CONFIG)
        read_weights(read_config(folder / CONFIG), folder)
        return there

    def export(self, pipeline: Path) -> None:
        """See ``qi_core.release.Released``."""
        from qi_plugins.vae_qwen.weights import CONFIG

        copy_part(self._folder(CONFIG), pipeline / "vae")

    def _folder(self, config: str) -> Path:
        path = self.path.expanduser()
        for folder in (path, path / "vae"):
            if (folder / config).is_file():
                return folder
        raise QiError(
            f"{path}: no {config} here nor in {path / 'vae'}; wanted the vae/ folder of a diffusers checkpoint; "
            "set autoencoder.path to one"
        )
