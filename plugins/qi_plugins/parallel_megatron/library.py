"""megatron-core and TransformerEngine: imported when they are asked for, told of plainly when they are not there.

Whatever of megatron-core's settings objects is needed is made here; none of it leaves this plugin.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from attrs import frozen

from qi_core import QiError
from qi_core.planning import replicas_of
from qi_core.team import MARGIN

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DEVICES: tuple[str, ...] = ("cuda",)
"""Kinds of devices that megatron-core's sources name, in plain letters."""


def load() -> None:
    """Import megatron-core. Raises QiError where it isn't there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells of every optional package that it finds missing
            import megatron.core.distributed
            import megatron.core.optimizer.distrib_optimizer  # noqa: F401
    except ImportError as error:
        raise QiError(
            f"parallel: megatron-core could not be imported ({error}); install it: pip install 'qi[megatron]'"
        ) from error


def refuse_device(device: torch.device) -> None:
    """Raises QiError for one on which megatron-core cannot train."""
    if device.type not in DEVICES:
        raise QiError(
            f"parallel: megatron trains on GPUs, but its device is {device.type!r}; "
            "use --set parallel=fsdp (or single) on the CPU, with fewer GPUs, or where torch sees none"
        )


def has_te() -> bool:
    """Whether TransformerEngine can be imported: its package can be there without the extension for torch."""
    try:
        import transformer_engine.pytorch as te
    except (ImportError, OSError):
        return False
    return hasattr(te, "Linear")


def choose_engine(asked: str, fp8: bool, device: torch.device) -> bool:
    """Whether linear layers are TransformerEngine's. Raises QiError where it was asked for and is not there."""
    if asked == "torch":
        return False
    there = device.type == "cuda" and has_te()
    if not there and (asked == "te" or fp8):
        setting = 'engine = "te"' if asked == "te" else "fp8 = true"
        why = "transformer-engine cannot be imported" if device.type == "cuda" else "it works on GPUs alone"
        raise QiError(
            f"parallel: {setting} was asked for, but {why}; install it: pip install 'qi[te]', "
            'or set engine = "torch" and fp8 = false'
        )
    if there and fp8 and torch.cuda.get_device_capability(device) < (8, 9):
        raise QiError(
            f"parallel: fp8 was asked for, but {torch.cuda.get_device_name(device)} has no 8-bit products "
            "(Ada, Hopper or newer was wanted); set fp8 = false"
        )
    return there


@frozen(kw_only=True, eq=False)
class Grid:
    """Where this rank stands, and who its neighbours are."""

    tensor: ProcessGroup
    """The ranks of this replica."""
    data: ProcessGroup
    """The ranks that hold the same part of the model, one of each replica."""

    @property
    def split(self) -> int:
        """Tensor-parallel degree."""
        return self.tensor.size()

    @property
    def place(self) -> int:
        """This rank's number within the replica."""
        return self.tensor.rank()


def make_grid(tensor: int, timeout: float) -> Grid:
    """Ranks of a replica are neighbours: rank = replica * tensor + tensor rank. Raises QiError if it doesn't fit."""
    from megatron.core import parallel_state

    replicas_of(dist.get_world_size(), tensor)
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor,
        distributed_timeout_minutes=(1.5 * timeout + MARGIN) / 60,  # as of all ranks: the watch over steps comes first
        create_gloo_process_groups=False,
    )
    return Grid(
        tensor=parallel_state.get_tensor_model_parallel_group(),
        data=parallel_state.get_data_parallel_group(with_context_parallel=True),
    )


def model_config(tensor: int, dtype: torch.dtype, *, sequence: bool = False) -> Any:
    """What megatron-core's layers and buffers ask of a model. Sums stay sums: the loop has weighted its losses."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    return TransformerConfig(
        num_layers=1,  # it insists on some; nothing here looks at these three
        hidden_size=tensor,
        num_attention_heads=tensor,
        tensor_model_parallel_size=tensor,
        sequence_parallel=sequence and tensor > 1,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        use_cpu_initialization=True,  # and none at all: weights are put in afterwards
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        calculate_per_token_loss=True,
    )


def buffers_config(overlap: bool, replicas: int) -> Any:
    """How gradients are summed: in float32, and each replica keeps its own stretch."""
    from megatron.core.distributed import DistributedDataParallelConfig

    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap and replicas > 1,
        overlap_param_gather=overlap and replicas > 1,
    )


def optimizer_config(dtype: torch.dtype, overlap: bool) -> Any:
    """Its own learning rate, decay and clipping are not used: those are the recipe's."""
    from megatron.core.optimizer import OptimizerConfig

    return OptimizerConfig(
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=overlap,
        clip_grad=0.0,
    )
