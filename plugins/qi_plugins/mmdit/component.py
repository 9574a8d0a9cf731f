"""The recipe's side of the network: settings, and how it is built. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, fields_dict, frozen, validators

from qi_core import QiError
from qi_plugins.mmdit.architecture import PRESETS, Architecture, Axes, Predicts, Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import Place
    from qi_plugins.mmdit.cost import MMDiTCosts
    from qi_plugins.mmdit.network import MMDiTNetwork

_POSITIVE = validators.optional(validators.gt(0))


def _checkpointing(_: MMDiT, attribute: Attribute[Any], value: str | int) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"{attribute.name}: {value}; give none, selective, all, or n >= 1 for every n-th block")


@frozen(kw_only=True)
class MMDiT:
    """Double-stream diffusion transformer of Qwen-Image (arXiv 2508.02324, section 2.4), on packed sequences."""

    size: Size | None = None
    """Preset of depth and width; each of the numbers below can be set apart. Unset: what ``weights`` say, else tiny."""
    layers: int | None = field(default=None, validator=_POSITIVE)
    """Blocks."""
    heads: int | None = field(default=None, validator=_POSITIVE)
    """Attention heads."""
    head_dim: int | None = field(default=None, validator=_POSITIVE)
    """Channels of a head; the width is heads x head_dim."""
    axes_dims_rope: Axes | None = None
    """Channels of a head that turn with (frame, row, column): even numbers, in all head_dim."""
    mlp_ratio: int = field(default=4, validator=validators.gt(0))
    """Hidden features of the MLPs, in widths. The released weights have 4."""
    in_channels: int | None = field(default=None, validator=_POSITIVE)
    """Values in an image token; unset: what the autoencoder gives."""
    out_channels: int | None = field(default=None, validator=_POSITIVE)
    """Values the network gives for one; unset: as many as go in."""
    text_width: int | None = field(default=None, validator=_POSITIVE)
    """Values in a text token; unset: what the conditioner gives."""
    predicts: Predicts = "velocity"
    """What comes out of the last layer. ``data`` is turned into v = (x0_hat - x_t) / max(1 - t, 0.05), so the loss
    stays that of equation 2; small networks learn crisper pictures by it. Released weights predict the velocity."""
    checkpointing: Literal["none", "selective", "all"] | int = field(default="none", validator=_checkpointing)
    """What is computed again in the backward pass instead of being kept. ``selective``: norms, GELU and modulation,
    which hold much memory and cost little. ``all``: whole blocks, the least memory and about a third more work; a
    number n: every n-th block. ``qi bench checkpointing`` prints the trade-off."""
    zero_cond_t: bool | None = None
    """References are modulated as clean pictures (Qwen-Image-Edit-2511). Unset: what ``weights`` say, else false."""
    use_additional_t_cond: bool | None = None
    """An embedding of the kind of picture is added to the time's (Qwen-Image-Layered)."""
    use_layer3d_rope: bool | None = None
    """Each frame is a layer; the last picture is the condition, at frame -1 (Qwen-Image-Layered)."""
    attention: Literal["auto", "sdpa", "varlen"] = "auto"
    """``sdpa``: torch's attention, one call for each group of equally long samples. ``varlen``: one call for all of
    them, on CUDA in bfloat16. ``auto``: varlen where it works."""
    weights: Path | None = None
    """A diffusers ``transformer`` folder (config.json and safetensors). Its config.json fixes the architecture;
    settings that say otherwise are refused. Unset: new weights from the run's seed."""

    def architecture(self, latent_width: int, text_width: int) -> Architecture:
        """The whole architecture. Raises QiError where numbers don't fit each other, the encoders or ``weights``."""
        arch = self._chosen(latent_width, text_width) if self.weights is None else self._released(self.weights)
        check_architecture(arch, latent_width, text_width)
        return arch

    def _chosen(self, latent_width: int, text_width: int) -> Architecture:
        preset = PRESETS[self.size or "tiny"]
        return Architecture(
            layers=self.layers or preset.layers,
            heads=self.heads or preset.heads,
            head_dim=self.head_dim or preset.head_dim,
            axes_dims_rope=self.axes_dims_rope or preset.axes_dims_rope,
            mlp_ratio=self.mlp_ratio,
            in_channels=self.in_channels or latent_width,
            out_channels=self.out_channels or self.in_channels or latent_width,
            text_width=self.text_width or text_width,
            zero_cond_t=bool(self.zero_cond_t),
            use_additional_t_cond=bool(self.use_additional_t_cond),
            use_layer3d_rope=bool(self.use_layer3d_rope),
        )

    def _released(self, folder: Path) -> Architecture:
        from qi_plugins.mmdit.weights import read_config

        self._need_velocity(folder)
        arch = read_config(folder)
        preset = PRESETS[self.size] if self.size else None
        for name in fields_dict(Architecture):
            found, said = getattr(arch, name), getattr(self, name)
            if said is None and preset is not None:
                said = getattr(preset, name, None)
            if said is not None and said != found:
                raise QiError(
                    f"{folder / 'config.json'}: {name} is {found}, but the recipe's denoiser says {said}; "
                    f"leave {name} unset to take it from the weights"
                )
        return arch

    def _need_velocity(self, folder: Path) -> None:
        if self.predicts != "velocity":
            raise QiError(
                f"denoiser.predicts is {self.predicts!r}, but the released weights in {folder} give the velocity; "
                'use predicts = "velocity"'
            )

    def build(self, place: Place, latent_width: int, text_width: int) -> MMDiTNetwork:
        """The network on ``place.device``, float32 unless ``place`` reserves another dtype for weights to come."""
        import torch

        from qi_plugins.mmdit.network import MMDiTNetwork, initialise
        from qi_plugins.mmdit.weights import load_weights

        arch = self.architecture(latent_width, text_width)
        with torch.device("meta"):
            network = MMDiTNetwork(
                arch, predicts=self.predicts, checkpointing=self.checkpointing, backend=self.attention
            )
        if place.reserve is not None:
            network.to(place.reserve).to_empty(device=place.device)
        elif self.weights is None:
            initialise(network, place.seed, place.device)
        else:
            load_weights(network, self.weights, place.device)
        return network

    def costs(self, latent_width: int, text_width: int) -> MMDiTCosts:
        """See ``qi_core.planning.Costed``."""
        from qi_plugins.mmdit.cost import MMDiTCosts

        return MMDiTCosts(arch=self.architecture(latent_width, text_width), checkpointing=self.checkpointing)

    def at(self, pipeline: Path) -> MMDiT:
        """See ``qi_core.release.ReleasedDenoiser``."""
        from qi_plugins.mmdit.release import fixed, tell_other_scheduler
        from qi_plugins.mmdit.weights import read_config

        self._need_velocity(pipeline / "transformer")
        tell_other_scheduler(pipeline)
        made: MMDiT = fixed(self, read_config(pipeline / "transformer"))
        return made

    def stored(self, pipeline: Path) -> Mapping[str, Tensor]:
        """See ``qi_core.release.ReleasedDenoiser``."""
        from qi_plugins.mmdit.release import names_and_shapes
        from qi_plugins.mmdit.weights import read_config, read_weights

        folder = pipeline / "transformer"
        return read_weights(folder, names_and_shapes(read_config(folder)))

    def export(self, pipeline: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
        """See ``qi_core.release.ReleasedDenoiser``."""
        from qi_plugins.mmdit.release import write_pipeline

        if self.predicts != "velocity":
            raise QiError(
                f"denoiser.predicts is {self.predicts!r}: released pipelines take one that gives the velocity; "
                'train with predicts = "velocity" to export'
            )
        latents, text = (tensors[name].shape[1] for name in ("img_in.weight", "txt_in.weight"))
        write_pipeline(pipeline, self.architecture(latents, text), tensors, dtype)


def check_architecture(arch: Architecture, latent_width: int, text_width: int) -> None:
    """Raises QiError where the numbers don't fit each other or the encoders."""
    axes = arch.axes_dims_rope
    if sum(axes) != arch.head_dim or any(dim <= 0 or dim % 2 for dim in axes):
        raise QiError(
            f"denoiser.axes_dims_rope: {axes} for head_dim {arch.head_dim}; "
            "want three positive even numbers whose sum is head_dim"
        )
    for name, found, wanted, whose in (
        ("in_channels", arch.in_channels, latent_width, "the autoencoder's latents"),
        ("out_channels", arch.out_channels, latent_width, "the autoencoder's latents"),
        ("text_width", arch.text_width, text_width, "the conditioner's tokens"),
    ):
        if found != wanted:
            raise QiError(
                f"denoiser.{name}: {found}, but {whose} are {wanted} wide; choose parts that fit, or leave {name} unset"
            )
