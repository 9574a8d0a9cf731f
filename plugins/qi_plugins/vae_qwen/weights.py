"""Between the files' film network and the picture network: names, shapes, reading, writing.

The files hold 3-D kernels (O, I, frames, rows, columns), gammas with trailing ones, and convolutions over time that a
picture never runs. All of it is checked by name and shape when it is read, and all of it is written back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qi_core.errors import QiError
from qi_plugins.vae_qwen.config import NO_FLOAT16, VaeConfig
from qi_plugins.vae_qwen.network import Halve, Norm, SliceConv, Twice, VaeNetwork

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TOLD = 8
"""How many names of a kind an error tells before it only counts."""


class _File(Protocol):
    """The part of safetensors' reader that is used here."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> Any: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def metadata(self) -> dict[str, str] | None: ...


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
    with torch.device("meta"):
        network = VaeNetwork(config)
    network.eval().requires_grad_(False)
    file = folder / WEIGHTS
    with _opened(file) as stored:
        _check(stored, file_shapes(network), file)
        for path, module in network.named_modules():
            for name, blank in list(module.named_parameters(recurse=False)):
                part = picture_part(stored.get_tensor(f"{path}.{name}"), blank.shape)
                # Channels last: on CPUs and on tensor cores the quicker layout for these convolutions.
                layout = torch.channels_last if blank.ndim == 4 else torch.contiguous_format
                live = torch.empty(blank.shape, device=device, dtype=dtype, memory_format=layout).copy_(part)
                setattr(module, name, nn.Parameter(live, requires_grad=False))
    return network


def save(network: VaeNetwork, source: Path, target: Path) -> None:
    """Write the folder ``target``: the files of ``source`` with what was trained since put in its place.

    A value that is still what was read is written as it was stored, byte for byte, whatever the dtype it is used in.
    """
    live = {name: parameter.detach() for name, parameter in network.named_parameters()}
    tensors: dict[str, Tensor] = {}
    with _opened(source / WEIGHTS) as stored:
        _check(stored, file_shapes(network), source / WEIGHTS)
        metadata = stored.metadata()
        for name in stored.keys():  # noqa: SIM118 (the reader is no dict)
            tensors[name] = tensor = stored.get_tensor(name).clone()
            if name in live:
                old, new = picture_part(tensor, live[name].shape), live[name].cpu()
                old.copy_(torch.where(old.to(new.dtype) == new, old, new.to(old.dtype)))
    target.mkdir(parents=True, exist_ok=True)
    _replace(target / WEIGHTS, lambda beside: save_file(tensors, beside, metadata))
    if source.resolve() != target.resolve():
        _replace(target / CONFIG, lambda beside: shutil.copyfile(source / CONFIG, beside))


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(beside)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(file)
    except (OSError, SafetensorError) as error:
        raise QiError(f"{file}: cannot be written ({error}); make room or choose another folder") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _opened(file: Path) -> Iterator[_File]:
    """Open a safetensors file; its troubles become errors that a person reads."""
    if not file.is_file():
        raise QiError(f"{file}: no such file; a checkpoint folder holds {CONFIG} and {WEIGHTS}")
    with ExitStack() as stack:
        try:
            stored: _File = stack.enter_context(safe_open(file, framework="pt"))
        except (OSError, SafetensorError) as error:
            raise QiError(f"{file}: damaged ({error}); copy the checkpoint again") from error
        yield stored


def _check(stored: _File, wanted: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Every name there, none more, every shape right, every dtype usable; or all that is wrong, by name."""
    found = set(stored.keys())
    shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in sorted(found & wanted.keys())}
    mistakes = [
        *_told("missing", sorted(wanted.keys() - found)),
        *_told("not of this network", sorted(found - wanted.keys())),
        *_told(
            "of another shape",
            [f"{name} {shape}, wanted {wanted[name]}" for name, shape in shapes.items() if shape != wanted[name]],
        ),
    ]
    if mistakes:
        raise QiError(f"{file}: {'; '.join(mistakes)}; the weights must be those of the {CONFIG} beside them")
    dtypes = {name: stored.get_slice(name).get_dtype() for name in shapes}
    if halves := [name for name, dtype in dtypes.items() if dtype == "F16"]:
        raise QiError(f"{file}: {halves[0]} is stored in float16; {NO_FLOAT16}; take the checkpoint as it was released")
    if others := [f"{name} {dtype}" for name, dtype in dtypes.items() if dtype not in ("BF16", "F32", "F64")]:
        raise QiError(f"{file}: {others[0]}: wanted bfloat16 or float32; convert the checkpoint")


def _told(what: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        yield f"{what}: {', '.join(names[:TOLD])}{more}"
