"""Several ranks on this machine, started once for many checks; and a small training run that any strategy can do.

``together`` forks ranks from one process that has imported everything. ``train`` is four steps of the real loop on a
tiny MMDiT; what it saw is told in parts of whole tensors, so that any two strategies can be compared (``whole``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, field, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import DenoiserModule, Held, Objective, Optimizer, Strategy
    from qi_core.adapter import Adapter
    from qi_core.place import Place
    from qi_core.run import Run
    from qi_core.shards import Part
    from qi_core.store import Checkpoint


def together(
    ranks: int, work: Callable[..., Any], *args: Any, preload: Sequence[str] = (), limit: float = 480
) -> list[Any]:
    """``work(*args)`` on so many ranks, which find one another as those of torchrun do; what each gives back.

    ``work``: a function of a module's top level. What it gives is pickled: tensors, plain values, classes of modules
    (not of test files). ``preload``: modules that are imported before the ranks part. A rank that fails, or all of them
    being there after ``limit`` seconds, is an AssertionError with its traceback.
    """
    code = "from support.ranks import _serve; _serve()"
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        job = work.__code__.co_filename, work.__name__, args, tuple(preload), ranks, limit
        Path(folder, "job").write_bytes(pickle.dumps(job))
        done = subprocess.run(
            [sys.executable, "-c", code, folder], env=environment, capture_output=True, text=True, errors="replace"
        )
        failures = [file.read_text() for file in sorted(Path(folder).glob("failed-*"))]
        assert not failures, "\n".join(failures)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return [pickle.loads(Path(folder, f"done-{rank}").read_bytes()) for rank in range(ranks)]


def free_port() -> int:
    """One that nobody listens on, below those that the system gives away: it may be taken a while later."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def _serve() -> None:
    """The process that ranks are forked from. Nothing may compute in it: threads don't survive a fork."""
    folder = Path(sys.argv[1])
    file, name, args, preload, ranks, limit = pickle.loads((folder / "job").read_bytes())
    for each in ("torch", "torch.distributed.fsdp", "qi_core.loop", "qi_core.testing.fakes", *preload):
        importlib.import_module(each)
    work = getattr(_module(file), name)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    alive = {_fork(rank, folder, work, args): rank for rank in range(ranks)}
    deadline = time.monotonic() + limit
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            rank = alive.pop(pid)
            if status and not (folder / f"failed-{rank}").exists():
                (folder / f"failed-{rank}").write_text(f"rank {rank} ended with {status}")
            deadline = min(deadline, time.monotonic() + 5) if status else deadline  # the others wait for it in vain
        elif time.monotonic() > deadline:
            for pid, rank in alive.items():
                (folder / f"failed-{rank}").write_text(f"rank {rank} was still there and was ended")
                os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        else:
            time.sleep(0.01)


def _module(file: str) -> Any:
    spec = importlib.util.spec_from_file_location("work_of_ranks", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _fork(rank: int, folder: Path, work: Callable[..., Any], args: Sequence[Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        (folder / f"done-{rank}").write_bytes(pickle.dumps(work(*args)))
        code = 0
    except BaseException:
        (folder / f"failed-{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
    finally:
        os._exit(code)  # nothing of the parent's is run to its end twice
    return pid


@frozen(kw_only=True)
class Box:
    """A ``qi_core.shards.Part`` that can be sent."""

    tensor: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    copies: int


Boxes = Mapping[str, Sequence[Box]]


def boxes(held: Held, pieces: Mapping[str, Tensor]) -> Boxes:
    """Copies of what this rank holds, by name."""
    return {name: [_box(part) for part in held.parts(name, piece)] for name, piece in pieces.items()}


def _box(part: Part) -> Box:
    return Box(tensor=part.tensor.clone(), shape=part.shape, offsets=part.offsets, copies=part.copies)


def whole(ranks: Sequence[Boxes]) -> dict[str, Tensor]:
    """Whole tensors out of the boxes of all ranks. Each value must be held as often as is told, and be the same."""
    import torch

    found: dict[str, Tensor] = {}
    for name in ranks[0]:
        every = [box for own in ranks for box in own[name]]
        tensor = torch.full(every[0].shape, float("nan"), dtype=every[0].tensor.dtype)
        counts, copies = torch.zeros(every[0].shape), torch.zeros(every[0].shape)
        for box in every:
            at = tuple(slice(o, o + n) for o, n in zip(box.offsets, box.tensor.shape, strict=True))
            assert box.shape == tuple(tensor.shape), f"{name}: {box.shape} and {tuple(tensor.shape)}"
            if bool(counts[at].any()):
                assert torch.equal(tensor[at].nan_to_num(7), box.tensor.nan_to_num(7)), f"{name}: copies differ"
            tensor[at], copies[at] = box.tensor, box.copies
            counts[at] += 1
        assert torch.equal(counts, copies), f"{name}: held {counts.tolist()} times, told {copies.tolist()}"
        assert bool(counts.all()), f"{name}: not all of it is held"
        found[name] = tensor
    return found


@frozen(kw_only=True)
class Case:
    """A small training run."""

    objective: Literal["flow", "dpo"] = "flow"
    lora: bool = False
    batch: int = 6
    accumulate: int = 1
    checkpointing: Literal["none", "selective", "all"] = "none"
    clip: float = 1.0
    steps: int = 4
    lr: float = 1e-3
    heads: int = 4


@define(kw_only=True)
class Seen:
    """What a rank saw of a run."""

    losses: list[float] = field(factory=list)
    norms: list[float] = field(factory=list)
    parts: list[Mapping[str, float]] = field(factory=list)
    """The objective's figures."""
    gradients: list[Boxes] = field(factory=list)
    """Of each step, after clipping; a name without a gradient is left out."""
    weights: Boxes = field(factory=dict)
    """At the end, all of them."""
    shadows: dict[str, Boxes] = field(factory=dict)
    optimizer: Boxes = field(factory=dict)
    """``exp_avg`` and ``exp_avg_sq``; steps are plain numbers and left out."""
    state: dict[str, Any] = field(factory=dict)


def train(strategy: Strategy, case: Case) -> Seen:
    """The run with this strategy, from the same weights for all."""
    return steps(make(strategy, case), case.steps)


def make(strategy: Strategy, case: Case) -> Run:
    """The run, before its first step."""
    from qi_core import Guidance, Preview, Train
    from qi_core.run import EMA, Run
    from qi_core.shadow import Average, Shadow, Shadowed
    from qi_core.testing import fakes
    from qi_plugins.optimizer_adamw.component import AdamW

    model, adapter = network(strategy, case)
    model = strategy.place(model, adapter.sharding(model.sharding()) if adapter else None)
    held = strategy.held(model)
    objective = _objective(case)
    rules = {EMA: Average(0.9)} | (dict(objective.shadows()) if isinstance(objective, Shadowed) else {})
    nothing: Any = None
    return Run(
        folder=Path("nowhere"),
        recipe="",
        train=Train(batch=case.batch, accumulate=case.accumulate, clip=case.clip, seed=5, prefetch=0),
        guidance=Guidance(scale=1.0),
        preview=Preview(),
        encoders=fakes.encoders(),
        model=model,
        objective=objective,
        sampler=fakes.ThreeSteps(),
        source=Rows(case),
        optimizer=AdamW(lr=case.lr, weight_decay=0.1, eps=1e-4).build(model, case.steps, held),
        strategy=strategy,
        store=nothing,
        held=held,
        shadows={name: Shadow(model, rule, held) for name, rule in rules.items()},
        adapter=adapter,
        trackers=[],
        evaluations=[],
        change=nothing,
    )


def steps(run: Run, count: int) -> Seen:
    """So many more of the loop's own steps."""
    from qi_core import loop

    seen = Seen()
    inner = run.optimizer
    run.optimizer = _Watched(inner, run.held, seen)  # type: ignore[assignment]
    with loop.feeding(run) as feed:
        for _ in range(count):
            done = loop.step(run, feed)
            seen.losses.append(done.loss)
            seen.norms.append(done.grad_norm)
            seen.parts.append(done.parts)
    run.optimizer = inner
    held = run.held
    seen.weights = boxes(held, {**held.frozen, **held.trained})
    seen.shadows = {name: boxes(held, shadow.tensors()) for name, shadow in run.shadows.items()}
    slots = {name: tensor for name, tensor in inner.tensors().items() if tensor.ndim}
    for name, tensor in slots.items():
        seen.optimizer = {**seen.optimizer, name: boxes(held, {name.partition("/")[2]: tensor})[name.partition("/")[2]]}
    seen.state = inner.state()
    return seen


def network(strategy: Strategy, case: Case) -> tuple[DenoiserModule, Adapter | None]:
    """A tiny MMDiT that no longer begins as the identity, so that a gradient reaches every weight; heads enough for
    four ranks, and sizes that two ranks cannot share equally."""
    from qi_core.testing import fakes
    from qi_plugins.adapter_lora.component import LoRA
    from qi_plugins.mmdit.component import MMDiT

    here = _place(strategy)
    settings = MMDiT(layers=2, heads=case.heads, head_dim=8, axes_dims_rope=(2, 2, 4), checkpointing=case.checkpointing)
    model: DenoiserModule = settings.build(here, fakes.Pixels().width, fakes.Letters().width)
    stir(model, 1)
    if not case.lora:
        return model, None
    adapter = LoRA(rank=2, targets=("*",)).apply(model, here)
    stir(model, 2, trained=True)
    return model, adapter


def stir(model: torch.nn.Module, seed: int, *, trained: bool = False) -> None:
    """Add noise to all weights, or to those that are trained."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trained:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _place(strategy: Strategy) -> Place:
    from qi_core.place import Place

    return Place(device=strategy.device, dtype=strategy.dtype, seed=0, folder=Path("nowhere"))


def _objective(case: Case) -> Objective[Any]:
    from qi_plugins.objective_dpo.dpo import Dpo
    from qi_plugins.objective_flow.flow_matching import FlowMatching

    return Dpo(beta=2.0) if case.objective == "dpo" else FlowMatching()


def kept(run: Run) -> Checkpoint:
    """What a checkpoint of the run would hold once it is read again: whole tensors, on every rank."""
    from attrs import evolve

    from qi_core import checkpoint
    from qi_core.shards import Part

    own = checkpoint.take(run)
    groups = own.parts or {
        group: {
            name: [Part(tensor=tensor, shape=tuple(tensor.shape), offsets=(0,) * tensor.ndim)]
            for name, tensor in tensors.items()
        }
        for group, tensors in own.tensors.items()
    }
    told = {
        group: {name: [_box(part) for part in parts] for name, parts in each.items()} for group, each in groups.items()
    }
    every = run.strategy.team.gather(told)
    return evolve(own, parts={}, tensors={group: whole([each[group] for each in every]) for group in told})


class Rows:
    """A source: pictures of different sizes, some with references; other ones every time."""

    def __init__(self, case: Case) -> None:
        self._case, self._at = case, 0

    def draw(self, count: int) -> Any:
        """See ``Source.draw``."""
        from qi_core import Pair, Pairs, Samples
        from qi_core.testing import fakes

        items = fakes.samples(self._at + count).items[self._at :]
        self._at += count
        if self._case.objective == "flow":
            return Samples(items=items)
        return Pairs(
            items=tuple(
                Pair(
                    key=one.key,
                    prompt=one.prompt,
                    winner=one.image,
                    loser=255 - one.image.flip(1),
                    references=one.references,
                )
                for one in items
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``Source.state_dict``."""
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Source.load_state_dict``."""
        self._at = state["at"]

    def report(self) -> dict[str, int]:
        """See ``Source.report``."""
        return {}


class _Watched:
    """An optimizer whose gradients are written down."""

    def __init__(self, inner: Optimizer, held: Held, seen: Seen) -> None:
        self.lr, self._inner, self._held, self._seen = inner.lr, inner, held, seen

    def rate(self, step: int) -> float:
        return self._inner.rate(step)

    def step(self, step: int) -> None:
        grads = {name: piece.grad for name, piece in self._held.trained.items() if piece.grad is not None}
        self._seen.gradients.append(boxes(self._held, grads))
        self._inner.step(step)


def apart(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of two sets of tensors, |a - b| / |b|, and whose it is. Tensors that are all but
    zero are measured against a hundredth of the largest."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    least = 1e-2 * max(float(tensor.norm()) for tensor in wanted.values())
    errors = {
        name: float((found[name].float() - tensor).norm()) / max(float(tensor.norm()), least)
        for name, tensor in wanted.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst
