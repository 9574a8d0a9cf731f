"""The geometry of the autoencoder, as the checkpoint's config.json tells it. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from qi_core.errors import QiError
from qi_core.release import read_json
from qi_core.weights import NO_FLOAT16

CLASS = "AutoencoderKLQwenImage"
# Notes that writers leave in the file; they say nothing about the network.
NOTES = frozenset({"dtype", "torch_dtype"})

# fmt: off
RELEASED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
RELEASED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on


@frozen(kw_only=True)
class VaeConfig:
    """The fields of config.json; the defaults are the released geometry.

    The first Qwen-Image checkpoint was written before some of the keys existed: a missing one means its default.
    """

    base_dim: int = 96
    """Channels at full resolution."""
    z_dim: int = 16
    """Channels of a latent pixel."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each stage, in units of base_dim; between two stages the sides are halved."""
    num_res_blocks: int = 2
    """Residual blocks a stage of the encoder; a stage of the decoder has one more."""
    attn_scales: tuple[float, ...] = ()
    """Attention inside the stages. No release has any."""
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    """Which of the halvings also halve the frames of a film (the key is spelt so in the files)."""
    dropout: float = 0.0
    """Only active when the network is trained."""
    input_channels: int = 3
    """3: RGB. 4: RGBA (Qwen-Image-Layered)."""
    latents_mean: tuple[float, ...] = RELEASED_MEAN
    """Of each latent channel: what is subtracted before the denoiser sees it."""
    latents_std: tuple[float, ...] = RELEASED_STD
    """Of each latent channel: what it is then divided by."""

    @property
    def shrink(self) -> int:
        """Pixels along one side of a latent pixel (released: 8)."""
        return 1 << (len(self.dim_mult) - 1)


def read_config(file: Path) -> VaeConfig:
    """Read config.json. Raises QiError naming the file and the key that is wrong."""
    raw = read_json(file, f"the settings of {CLASS}")
    name = raw.get("_class_name", CLASS)
    if name != CLASS:
        raise QiError(f"{file}: this is the config of a {name}; vae-qwen reads {CLASS}; choose the vae/ folder of one")
    for key in NOTES & raw.keys():
        if str(raw[key]).removeprefix("torch.") in ("float16", "half"):
            raise QiError(f"{file}: {key} = {raw[key]!r}; {NO_FLOAT16}")
    keys = {key for key in raw if not key.startswith("_")} - NOTES
    known = {one.name for one in fields(VaeConfig)}
    if keys - known:
        raise QiError(
            f"{file}: unknown {', '.join(sorted(keys - known))}; this network has {', '.join(sorted(known))}; "
            "a checkpoint with more than these is another network"
        )
    config = VaeConfig(**{key: READ[key](raw[key], f"{file}: {key}") for key in keys})
    _check(config, file)
    return config


def _check(config: VaeConfig, file: Path) -> None:
    stages = len(config.dim_mult)
    wrong = [
        (min(config.dim_mult, default=0) < 1, "dim_mult", "at least one stage, each of 1 or more"),
        (config.base_dim < 2 or config.base_dim % 2 != 0, "base_dim", "an even number, the decoder halves channels"),
        (config.z_dim < 1, "z_dim", "1 or more"),
        (config.num_res_blocks < 1, "num_res_blocks", "1 or more"),
        (bool(config.attn_scales), "attn_scales", "[]: attention inside the stages exists in no release"),
        (len(config.temperal_downsample) != stages - 1, "temperal_downsample", f"{stages - 1}, one between two stages"),
        (not 0 <= config.dropout < 1, "dropout", "a number from 0 up to 1"),
        (config.input_channels not in (3, 4), "input_channels", "3 (RGB) or 4 (RGBA)"),
        (len(config.latents_mean) != config.z_dim, "latents_mean", f"{config.z_dim} numbers, one a latent channel"),
        (len(config.latents_std) != config.z_dim, "latents_std", f"{config.z_dim} numbers, one a latent channel"),
        (min(config.latents_std, default=1) <= 0, "latents_std", "numbers above 0"),
    ]
    for is_wrong, key, wanted in wrong:
        if is_wrong:
            raise QiError(f"{file}: {key} = {getattr(config, key)!r}; wanted {wanted}")


def _int(value: object, where: str) -> int:
    if type(value) is not int:
        raise QiError(f"{where} = {value!r}; wanted a whole number")
    return value


def _float(value: object, where: str) -> float:
    if type(value) not in (int, float):
        raise QiError(f"{where} = {value!r}; wanted a number")
    return float(value)  # type: ignore[arg-type]


def _bool(value: object, where: str) -> bool:
    if type(value) is not bool:
        raise QiError(f"{where} = {value!r}; wanted true or false")
    return value


def _several(one: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    def read(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise QiError(f"{where} = {value!r}; wanted a list")
        return tuple(one(item, f"{where}[{i}]") for i, item in enumerate(value))

    return read


READ: dict[str, Callable[[object, str], Any]] = {
    "base_dim": _int,
    "z_dim": _int,
    "dim_mult": _several(_int),
    "num_res_blocks": _int,
    "attn_scales": _several(_float),
    "temperal_downsample": _several(_bool),
    "dropout": _float,
    "input_channels": _int,
    "latents_mean": _several(_float),
    "latents_std": _several(_float),
}
