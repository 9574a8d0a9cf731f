"""Components with a place in a released pipeline's folder (diffusers' layout): for ``qi import``, ``qi export``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from qi_core.errors import QiError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class Released(Protocol):
    """An autoencoder's or conditioner's settings: frozen parts, which are read where they lie and copied back."""

    def at(self, pipeline: Path) -> Self:
        """These settings, reading their part of a pipeline's folder. Raises QiError if it isn't there."""
        ...

    def export(self, pipeline: Path) -> None:
        """Put this part into a pipeline's folder."""
        ...


@runtime_checkable
class ReleasedDenoiser(Protocol):
    """A denoiser's settings: trained weights, which go into checkpoints and come out of them."""

    def at(self, pipeline: Path) -> Self:
        """These settings with the architecture of a pipeline's folder; they don't need the folder afterwards."""
        ...

    def stored(self, pipeline: Path) -> Mapping[str, Tensor]:
        """The folder's weights, each read when it is asked for.

        Raises QiError naming what is missing, extra, misshapen or of a dtype that cannot be used.
        """
        ...

    def export(self, pipeline: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
        """Write weights (in ``dtype``, or as they are), one in memory at a time, and what describes the pipeline."""
        ...


def copy_part(source: Path, target: Path) -> None:
    """Copy a folder of released files. Raises QiError where there is no room."""
    try:
        shutil.copytree(source, target)
    except (OSError, shutil.Error) as error:
        raise QiError(f"{target}: could not be written ({error}); make room or choose another folder") from error


def read_json(path: Path, wanted: str) -> dict[str, Any]:
    """An object in a file; ``wanted`` says in errors what it is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QiError(f"{path}: {error.strerror}; want {wanted}") from None
    except ValueError as error:
        raise QiError(f"{path}: not JSON ({error}); want {wanted}") from None
    if not isinstance(found, dict):
        raise QiError(f"{path}: a {type(found).__name__}; want {wanted}")
    return found
