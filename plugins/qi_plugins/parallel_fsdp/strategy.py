"""Ranks at work: FSDP over replicas, tensor parallelism within them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from qi_core import QiError, Whole, devices
from qi_core.team import MARGIN, Alone, join, seat
from qi_plugins.parallel_fsdp import tensor
from qi_plugins.parallel_fsdp.grid import Grid
from qi_plugins.parallel_fsdp.held import Pieces, local

if TYPE_CHECKING:
    from qi_core import DenoiserModule, Held, Latents, Sharding
    from qi_core.parallel import Team
    from qi_plugins.parallel_fsdp.component import Fsdp


class LiveFsdp:
    """See ``qi_core.parallel.Strategy``."""

    def __init__(self, settings: Fsdp) -> None:
        here = seat()
        self._settings = settings
        self._grid = Grid.of(here.ranks, settings.tensor, settings.shard)
        self.device = devices.device(settings.device, here.local_rank)
        self.dtype = devices.dtype(settings.precision, self.device)
        self._refuse()
        devices.settle(self.device, self.dtype, settings.threads)
        self._shards = self._grid.divides or settings.offload
        self._alone = here.ranks == 1 and not self._shards
        self.timeout = 0.0 if self._alone else settings.timeout
        self.team: Team = Alone() if self._alone else join(self.device, settings.timeout)
        self.replica, self.replicas = self.team.rank // self._grid.tensor, self._grid.replicas
        copying = self._group(self._grid.copying())
        sharding = self._group(self._grid.sharding(), always=self._shards)
        self._computing = self._group(self._grid.computing())
        self._mesh = self._make_mesh(copying, sharding)
        self._placed: tuple[DenoiserModule, Pieces] | None = None
        self._partial: list[nn.Parameter] = []

    def _refuse(self) -> None:
        if self._settings.compile and self.device.type == "cpu":
            devices.need_compiler()
        if self._settings.offload and self.device.type == "cpu":
            raise QiError("parallel.offload: weights are in the CPU's memory already, on a CPU; use offload = false")

    def _group(self, every: list[list[int]], *, always: bool = False) -> dist.ProcessGroup | None:
        """That of the given groups which this rank is in; None where groups have one rank (unless ``always``)."""
        if len(every[0]) == 1 and not always:
            return None
        # As of the group of all (a new one has torch's own, else): a watch over steps comes first, and tells more.
        limit = timedelta(seconds=1.5 * self._settings.timeout + MARGIN)
        own: dist.ProcessGroup = dist.new_subgroups_by_enumeration(every, timeout=limit)[0]  # type: ignore[no-untyped-call]
        return own

    def _make_mesh(self, copying: dist.ProcessGroup | None, sharding: dist.ProcessGroup | None) -> DeviceMesh | None:
        if sharding is None and copying is None:
            return None
        kind, grid = self.device.type, self._grid
        if copying is None:
            assert sharding is not None
            return DeviceMesh.from_group(sharding, kind, mesh_dim_names=("shard",))
        own = grid.at(self.team.rank)[2]
        ranks = [[grid.rank(c, s, own) for s in range(grid.shards)] for c in range(grid.copies)]
        sharding = sharding or self._group([[rank] for rank in range(grid.ranks)], always=True)
        assert sharding is not None
        return DeviceMesh.from_group([copying, sharding], kind, mesh=ranks, mesh_dim_names=("copy", "shard"))

    @property
    def cradle(self) -> torch.device:
        """See ``qi_core.parallel.Dividing``: a GPU may be too small for all weights in float32."""
        return self.device if self._alone else torch.device("cpu")

    def place(self, model: DenoiserModule, sharding: Sharding | None = None) -> DenoiserModule:
        """Divided, on the device, trained weights in float32.

        Weights are cut block by block, so that no more than one block beside the parts is whole on a GPU if the model
        comes on the CPU.
        """
        sharding = sharding or model.sharding()
        shapes = {name: tuple(each.shape) for name, each in model.state_dict().items()}
        divided = tensor.Divided(dimensions={}, partial=frozenset())
        if self._computing is not None:
            divided = tensor.divide(model, sharding, self._computing.rank(), self._computing)
        blocks = list(model.get_submodule(sharding.blocks).children())
        if self._settings.compile:
            for block in blocks:
                block.compile()
        for unit in (*blocks, model):
            _float_trained(unit)
            if self._mesh is not None:
                self._shard(unit)
        if self._mesh is None:
            model.to(self.device)
        else:
            _keep_hooks(model)
        pieces = Pieces(model, shapes, divided.dimensions, self._grid, self.team.rank)
        self._placed = model, pieces
        self._partial = [pieces.live[name] for name in sorted(divided.partial)]
        return model

    def _shard(self, unit: nn.Module) -> None:
        bf16 = self.dtype == torch.bfloat16
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32 if bf16 else None,
            cast_forward_inputs=False,  # autocast casts for products; what flows between blocks stays as it is
        )
        offload = CPUOffloadPolicy() if self._settings.offload else OffloadPolicy()
        # The root is freed after its forward pass too: left gathered, an evaluation's weights would be the next step's.
        fully_shard(unit, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy, offload_policy=offload)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)  # sums and not means: the loop weighs samples by the global batch
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no premultiplied sum

    def held(self, model: DenoiserModule) -> Held:
        """Of the model that was placed last."""
        if self._alone:
            return Whole(model)
        assert self._placed is not None
        assert self._placed[0] is model
        return self._placed[1]

    def autocast(self) -> AbstractContextManager[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Gradients are divided over ranks with every micro-batch, for whole ones take more memory than they save
        time; only copies (HSDP) wait for the last."""
        if self._placed is not None and isinstance(self._placed[0], FSDPModule) and self._grid.copies > 1:
            self._placed[0].set_requires_all_reduce(last)
        before = [parameter.grad for parameter in self._partial]
        for parameter in self._partial:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        self._sum_partial(before)

    def _sum_partial(self, before: Sequence[Tensor | None]) -> None:
        """New gradients of weights that each tensor-parallel rank used on its own heads or columns; then what was
        there before."""
        new = [local(parameter.grad) for parameter in self._partial if parameter.grad is not None]
        if self._computing is not None and new:
            flat = torch.cat([grad.flatten() for grad in new])
            dist.all_reduce(flat, group=self._computing)
            for grad, total in zip(new, torch.split(flat, [grad.numel() for grad in new]), strict=True):
                grad.copy_(total.view_as(grad))
        for parameter, old in zip(self._partial, before, strict=True):
            if parameter.grad is None:
                parameter.grad = old
            elif old is not None:
                local(parameter.grad).add_(local(old))

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """The norm of all gradients of all ranks together, before they were scaled down to ``limit``.

        A norm that is not finite is returned as it is and nothing is scaled (it would make every gradient NaN).
        """
        live = [(parameter, local(parameter.grad)) for parameter in parameters if parameter.grad is not None]
        norm = math.sqrt(self._square(live))
        if limit and math.isfinite(norm) and norm > limit:
            torch._foreach_mul_([grad for _, grad in live], limit / (norm + 1e-6))
        if self._placed is not None:
            self._placed[1].show_gradients()
        return norm

    def _square(self, live: Sequence[tuple[nn.Parameter, Tensor]]) -> float:
        """A value that several ranks hold counts once. One sum over all ranks, so that all get the same bits."""
        held = {} if self._placed is None else {p: name for name, p in self._placed[1].live.items()}
        copies = [self._placed[1].copies(held[p]) if self._placed and p in held else 1 for p, _ in live]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        if live:
            norms = torch.stack(torch._foreach_norm([grad for _, grad in live])).double()
            total += (norms.square() / torch.tensor(copies, device=norms.device)).sum().to(self.device)
        if not self._alone:
            dist.all_reduce(total)
        return float(total)

    def sum(self, values: Tensor) -> Tensor:
        """Over all ranks, divided by those of a replica: these have the same values, or one alone was told something
        (a signal, a request), and every rank must come to the same."""
        if self._alone:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self._grid.tensor


def _float_trained(unit: nn.Module) -> None:
    for parameter in unit.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _keep_hooks(model: DenoiserModule) -> None:
    """Let FSDP see each forward pass. Its hooks run when a module is called, but samplers call ``velocity``; and they
    look for tensors in what comes out, but that is a record."""
    velocity = model.velocity

    def forward(latents: Latents, t: Tensor, condition: Any) -> Tensor:
        return velocity(latents, t, condition).tokens

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tokens: Tensor) -> Latents:
        latents: Latents = args[0] if args else kwargs["latents"]
        return latents.with_tokens(tokens)

    def call(latents: Latents, t: Tensor, condition: Any) -> Latents:
        out: Latents = model(latents, t, condition)
        return out

    # Blocks may give views. What FSDP fears of that, a change in place, is made by nobody.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    model.forward = forward  # type: ignore[assignment]
    model.velocity = call  # type: ignore[method-assign]
    model.register_forward_hook(record, with_kwargs=True)  # after FSDP's own
