"""Between the files' film network and the picture network: names, shapes, reading.

The files hold 3-D kernels (O, I, frames, rows, columns), gammas with trailing ones, and convolutions over time that a
picture never runs. All of it is checked by name and shape when it is read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from qi_core.tensorfiles import StoredTensors
from qi_core.weights import refuse_mismatch, refuse_unusable
from qi_plugins.vae_qwen.config import VaeConfig
from qi_plugins.vae_qwen.network import Halve, Norm, SliceConv, Twice, VaeNetwork

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def file_shapes(network: VaeNetwork) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the files, those that pictures never use included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            if isinstance(module, SliceConv) and name == "weight":
                frames = shape[-1]  # the kernels are cubes
                shape = (*shape[:2], frames, *shape[2:])
            elif isinstance(module, Norm):
                shape = shape + (1,) * module.dims
            shapes[f"{path}.{name}"] = shape
        if isinstance(module, Halve | Twice) and module.time_shape is not None:
            shapes[f"{path}.time_conv.weight"] = module.time_shape
            shapes[f"{path}.time_conv.bias"] = module.time_shape[:1]
    return shapes


def picture_part(stored: Tensor, shape: torch.Size) -> Tensor:
    """The view of a stored tensor that a picture uses; ``shape``: as the picture network has it."""
    return stored[:, :, -1] if stored.ndim == 5 and len(shape) == 4 else stored.view(shape)


def load(config: VaeConfig, folder: Path, device: torch.device, dtype: torch.dtype) -> VaeNetwork:
    """The network with the folder's weights, frozen. Each tensor goes straight to its place, one at a time."""
    network, stored = _blank(config), read_weights(config, folder)
    for path, module in network.named_modules():
        for name, blank in list(module.named_parameters(recurse=False)):
            part = picture_part(stored[f"{path}.{name}"], blank.shape)
            # Channels last: on CPUs and on tensor cores the quicker layout for these convolutions.
            layout = torch.channels_last if blank.ndim == 4 else torch.contiguous_format
            live = torch.empty(blank.shape, device=device, dtype=dtype, memory_format=layout).copy_(part)
            setattr(module, name, nn.Parameter(live, requires_grad=False))
    return network.eval().requires_grad_(False)


def read_weights(config: VaeConfig, folder: Path) -> StoredTensors:
    """The folder's weights, found whole and usable by the file's header alone; none is read yet.

    Raises QiError that names what is missing, extra, misshapen or of a dtype that cannot be used.
    """
    file = folder / WEIGHTS
    stored = StoredTensors([file])
    refuse_mismatch(
        file_shapes(_blank(config)), stored.forms, str(file), f"want the weights of the {CONFIG} beside them"
    )
    refuse_unusable(stored.forms, str(file))
    return stored


def _blank(config: VaeConfig) -> VaeNetwork:
    with torch.device("meta"):
        return VaeNetwork(config)


def parameters(config: VaeConfig) -> int:
    """Of the picture network. Nothing is allocated."""
    return sum(parameter.numel() for parameter in _blank(config).parameters())
