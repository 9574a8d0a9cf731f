"""Pictures a second of reinforcement learning: qi's GRPO against a straight loop as Flow-GRPO's script for Qwen-Image
has it, on diffusers' network with the same weights.

    python benchmarks/rl.py [--threads 1] [--rounds 2] [--pixels 64] [--json FILE]

One rollout and its updates are timed, in turns within one process: 16 pictures (4 prompts, 4 each) in batches of 8,
ten steps of which nine add noise and are trained, two updates, a KL to the first weights, all weights trained, float32.
Both sides hand pictures to the same reward while the next are drawn. The other side is timed with both branches of
guidance padded to one length in one batch, as the script has it, and with two passes, as diffusers' pipeline has it.

Before anything is timed both sides must draw the same pictures from the same noise and find the same gradient.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from attrs import asdict, define, evolve, field, frozen
from common import Clock, Timing, in_turn, median, table, write
from diffusers import QwenImageTransformer2DModel
from peers.flow_grpo import FlowGrpo, Settings
from torch import Tensor, nn

from qi_core import Dice, Place, Rollouts
from qi_core.feed import Feed, Ready
from qi_core.loop import closing, step
from qi_core.run import Run
from qi_plugins.mmdit.architecture import PRESETS
from qi_registry.assemble import assemble
from qi_registry.reader import loads

AIM = 1.5
"""Times as many pictures a second."""
SAME = 1e-3
"""Largest difference of pictures, and of gradients as a part of their norm."""
GROUPS, GROUP, BATCH, UPDATES, STEPS = 4, 4, 8, 2, 10
PATCH, TEXT_WIDTH = 8, 256
SCALE, LEVEL, CLIP, BETA = 4.0, 0.7, 1e-4, 0.04
LR, BETAS, EPS, MAX_NORM = 1e-5, (0.9, 0.999), 1e-8, 1.0


@frozen(kw_only=True)
class Workload:
    """What is drawn."""

    name: str
    captions: tuple[int, ...]
    """Tokens of each prompt."""
    guided: bool = True
    """In rollouts and in training."""


MIXED = tuple(round(12 + i * (120 - 12) / (GROUPS - 1)) for i in range(GROUPS))
WORKLOADS = (
    Workload(name=f"guided, {MIXED[0]} to {MIXED[-1]}", captions=MIXED),
    Workload(name=f"not guided, {MIXED[0]} to {MIXED[-1]}", captions=MIXED, guided=False),
    Workload(name="guided, 66", captions=(66,) * GROUPS),
)


def recipe(load: Workload, weights: Path, prompts: Path, pixels: int) -> str:
    """qi's side."""
    return f"""
conditioner = {{ name = "characters", width = {TEXT_WIDTH} }}
autoencoder = {{ name = "patchify", patch = {PATCH} }}
denoiser = {{ name = "mmdit", weights = "{weights}" }}
sampler = "euler"
optimizer = {{ name = "adamw", lr = {LR}, betas = {list(BETAS)}, eps = {EPS} }}
parallel = {{ name = "single", device = "cpu", precision = "fp32" }}
tracker = []
train = {{ steps = 1000, batch = {BATCH}, clip = {MAX_NORM}, ema = 0.0, save_every = 0 }}

[objective]
name = "grpo"
clip = {CLIP}
kl = "flow-grpo"
beta = {BETA}
guidance = "{"rollout" if load.guided else "none"}"

[source]
name = "rollouts"
file = "{prompts}"
height = {pixels}
width = {pixels}
groups = {GROUPS}
group = {GROUP}
chunk = {BATCH}
sampler = {{ name = "flow-sde", steps = {STEPS}, a = {LEVEL}, window = {{ length = {STEPS - 1} }} }}
guidance = {{ scale = {SCALE if load.guided else 1.0} }}
rewards = [{{ name = "size", reward = "compressibility" }}]
"""


class Watched(Feed):
    """A feed that tells how long its batches took: with rollouts, the drawing and the judging."""

    spent = Timing(wall=0.0, cpu=0.0)

    def next(self) -> Ready:
        clock = Clock()
        ready = super().next()
        self.spent = together(self.spent, clock.read())
        return ready


@define
class Ours:
    """qi's side, a rollout and its updates at a time."""

    run: Run
    rollouts: list[Timing] = field(factory=list)
    updates: list[Timing] = field(factory=list)

    def epoch(self) -> None:
        feed, clock = Watched(self.run.source, BATCH, 0), Clock()
        for _ in range(UPDATES):
            step(self.run, feed)
        whole, drawing = clock.read(), feed.spent
        self.rollouts.append(drawing)
        self.updates.append(Timing(wall=whole.wall - drawing.wall, cpu=whole.cpu - drawing.cpu))


@define
class Theirs:
    """The other side."""

    peer: FlowGrpo
    prompts: tuple[str, ...]
    shape: tuple[int, int]
    """Of one picture, (tokens, values)."""
    rollouts: list[Timing] = field(factory=list)
    updates: list[Timing] = field(factory=list)

    def epoch(self) -> None:
        clock = Clock()
        # Pictures of a prompt are dealt out over the batches, as the script's sampler deals them.
        dealt = [self.prompts[i % GROUPS] for i in torch.randperm(GROUPS * GROUP).tolist()]
        batches = self.peer.rollout(dealt, torch.randn(GROUPS * GROUP, STEPS, *self.shape))
        self.rollouts.append(clock.read())
        clock = Clock()
        self.peer.update(batches)
        self.updates.append(clock.read())


@frozen(kw_only=True)
class Agreement:
    """How far the two sides are apart on the same noise and the same weights."""

    pictures: float
    """Largest difference of x_0."""
    log_probs: float
    """Largest difference."""
    rewards: float
    """Largest difference, kilobytes."""
    advantages: float
    """Largest difference, for the same rewards."""
    losses: tuple[float, float]
    """Of the first update, qi's and the other's."""
    gradient: float
    """Norm of the difference of the gradients over the norm of the gradient."""


def network(layers: int) -> QwenImageTransformer2DModel:
    """diffusers' network of qi's tiny size, with random weights."""
    preset, width = PRESETS["tiny"], 3 * PATCH**2
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        in_channels=width,
        out_channels=width // 4,
        num_layers=layers,
        attention_head_dim=preset.head_dim,
        num_attention_heads=preset.heads,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=preset.axes_dims_rope,
    )


def prompts_of(load: Workload) -> tuple[str, ...]:
    """One of so many tokens each: for the conditioner "characters" a word is a token. No two are alike."""
    return tuple(" ".join(f"{i}word{k}" for k in range(length)) for i, length in enumerate(load.captions))


@contextmanager
def sides(
    load: Workload, pixels: int, threads: int, layers: int = PRESETS["tiny"].layers
) -> Generator[tuple[Run, dict[str, FlowGrpo]]]:
    """qi's run, and the other side by its ways to guide; all with the same weights."""
    torch.set_num_threads(threads)
    theirs = network(layers)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(max_workers=8) as pool:
        folder = Path(name)
        theirs.save_pretrained(folder / "weights")
        (folder / "prompts.txt").write_text("\n".join(prompts_of(load)), encoding="utf-8")
        (folder / "run").mkdir()
        text = recipe(load, folder / "weights", folder / "prompts.txt", pixels)
        sets = (f"parallel.threads={threads}",)
        run = assemble(loads(text, where="benchmarks/rl.py", sets=sets), folder / "run")
        with closing(run):
            ways = ("one batch", "two passes") if load.guided else ("one batch",)
            yield run, {way: peer(run, folder / "weights", load, way, pool) for way in ways}


def peer(run: Run, weights: Path, load: Workload, branches: str, pool: ThreadPoolExecutor) -> FlowGrpo:
    """The other side, its settings those of qi's recipe."""
    drawing = run.source.settings  # type: ignore[attr-defined]
    _, rows, columns = grid = run.encoders.grid(drawing.height, drawing.width)
    times = drawing.sampler.times([grid[1] * grid[2]])[:, 0]
    theirs, reference = (QwenImageTransformer2DModel.from_pretrained(weights) for _ in range(2))
    settings = Settings(
        batch=BATCH,
        grid=(rows, columns),
        sigmas=tuple((1 - times.double()).tolist()),
        level=LEVEL,
        guidance=SCALE if load.guided else None,
        branches=branches,  # type: ignore[arg-type]
        updates=UPDATES,
        clip=CLIP,
        beta=BETA,
        lr=LR,
        betas=BETAS,
        eps=EPS,
        max_norm=MAX_NORM,
    )
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=run.folder)
    return FlowGrpo(
        settings=settings,
        network=theirs,
        reference=reference.eval().requires_grad_(False),
        optimizer=torch.optim.AdamW(theirs.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0),
        encoders=run.encoders,
        reward=drawing.rewards[0].reward.build(place),
        pool=pool,
    )


def agreement(run: Run, other: FlowGrpo, nudge: float = 0.0) -> Agreement:
    """Both sides on one rollout: qi's, and the other's from the noise that qi drew.

    ``nudge``: the gradient is not that of the first update but of one after all weights have been moved by so much, as
    a part of their size: then ratios are not 1 and the reference is elsewhere.
    """
    batches = [run.source.draw(BATCH) for _ in range(GROUPS * GROUP // BATCH)]
    items = [item for batch in batches for item in batch]
    noise = torch.stack([noise_of(batch, i) for batch in batches for i in range(len(batch))])
    prompts = [item.prompt for item in items]
    theirs = other.rollout(prompts, noise)
    # A difference in the sixth digit can be one in the eighth bit of a pixel, and then a byte of JPEG. So advantages,
    # and what follows from them, are compared for the same rewards.
    valued = other.advantages(prompts, torch.tensor([item.reward for item in items], dtype=torch.float64))
    theirs = [evolve(batch, advantages=own) for batch, own in zip(theirs, valued.chunk(len(theirs)), strict=True)]
    index = 1 if nudge else 0
    if nudge:
        move(run, other, nudge)
    losses = gradient(run, batches[index]), other.backward(theirs[index])
    ours, grads = gradients(run.model), gradients(other.network)
    apart = [own - grads[name] for name, own in ours.items()]
    run.model.zero_grad(set_to_none=True)
    other.optimizer.zero_grad(set_to_none=True)
    return Agreement(
        pictures=largest([item.latents.tokens for item in items], torch.cat([b.drawn for b in theirs])),
        log_probs=largest(
            [torch.tensor([s.log_prob for s in item.steps]) for item in items], torch.cat([b.log_probs for b in theirs])
        ),
        rewards=largest([torch.tensor(item.reward) for item in items], torch.cat([b.rewards for b in theirs])),
        advantages=largest([torch.tensor(item.advantage) for item in items], torch.cat([b.advantages for b in theirs])),
        losses=losses,
        gradient=norm(apart) / norm(grads.values()),
    )


def noise_of(batch: Rollouts, i: int) -> Tensor:
    """(S, N, D) of one picture: what it started from, and what was added in each noisy step."""
    steps = batch.items[i].steps
    return torch.stack([steps[0].x, *((s.x_next - s.mean) / s.std for s in steps)])


def gradient(run: Run, batch: Rollouts) -> float:
    """Of qi's loss, left in the parameters; gives the loss."""
    dice = Dice(run.train.seed, run.step)
    with torch.no_grad():
        prepared = run.objective.prepare(batch, run.models, dice)
    loss = run.objective.loss(run.model, prepared, dice)
    run.strategy.backward(loss.value)
    return loss.value.item()


def move(run: Run, other: FlowGrpo, size: float) -> None:
    """The same random step for both sides' weights."""
    theirs = dict(other.network.named_parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, own in run.model.named_parameters():
            away = size * own.abs().mean() * torch.randn(own.shape, generator=generator)
            own.add_(away)
            theirs[name].add_(away)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """By the parameter's name, the same on both sides; 0 where a parameter has none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def largest(ours: Sequence[Tensor], theirs: Tensor) -> float:
    return float((torch.stack(list(ours)) - theirs).abs().max())


def together(first: Timing, second: Timing) -> Timing:
    return Timing(wall=first.wall + second.wall, cpu=first.cpu + second.cpu)


@frozen(kw_only=True)
class Part:
    """Medians of a side's rollouts and updates, and of both together."""

    rollout: Timing
    update: Timing
    whole: Timing


@frozen(kw_only=True)
class Result:
    """What was measured on one workload."""

    workload: str
    agreement: Agreement
    parts: Mapping[str, Part]
    """By side: "qi" and the other's ways to guide."""

    def ratio(self, way: str, part: str, clock: str) -> float:
        """Times as many pictures a second as the other side."""
        return float(getattr(getattr(self.parts[way], part), clock) / getattr(getattr(self.parts["qi"], part), clock))


def measure(load: Workload, pixels: int, rounds: int, threads: int) -> Result:
    """Agreement first, then sides in turn."""
    with sides(load, pixels, threads) as (run, others):
        found = agreement(run, next(iter(others.values())))  # warms up too
        if max(found.pictures, found.gradient) > SAME:
            raise SystemExit(f"{load.name}: the two sides do not do the same: {found}")
        _, rows, columns = run.encoders.grid(pixels, pixels)
        shape = (rows * columns, run.encoders.autoencoder.width)
        all_sides: dict[str, Ours | Theirs] = {"qi": Ours(run)}
        all_sides |= {way: Theirs(other, prompts_of(load), shape) for way, other in others.items()}
        in_turn({name: side.epoch for name, side in all_sides.items()}, rounds, warmup=0)
    return Result(
        workload=load.name,
        agreement=found,
        parts={
            name: Part(
                rollout=median(side.rollouts),
                update=median(side.updates),
                whole=median(map(together, side.rollouts, side.updates)),
            )
            for name, side in all_sides.items()
        },
    )


def show(results: Sequence[Result], pixels: int, rounds: int, threads: int) -> None:
    rows: list[tuple[str, ...]] = []
    for result in results:
        rows.append((result.workload, *[""] * 6))
        for name, part in result.parts.items():
            spent = [f"{one.cpu:.2f}" for one in (part.rollout, part.update, part.whole)]
            ratios = [f"{result.ratio(name, 'whole', clock):.2f}" if name != "qi" else "" for clock in ("cpu", "wall")]
            rows.append((f"  {name}", *spent, f"{GROUPS * GROUP / part.whole.cpu:.2f}", *ratios))
    table(
        f"{GROUPS * GROUP} pictures of {pixels} x {pixels} drawn, {UPDATES} updates: CPU seconds, {threads} thread(s)",
        ("tokens of captions", "rollout", "updates", "both", "img/s", "x CPU", "x wall"),
        rows,
        caption=f"medians of {rounds} rounds; x: qi's img/s over the other's; pictures differ by "
        f"{max(r.agreement.pictures for r in results):.0e} at most, gradients by "
        f"{max(r.agreement.gradient for r in results):.0e}",
    )
    first = results[0]
    for way in first.parts:
        if way != "qi":
            print(f"{first.workload}, {way}: {first.ratio(way, 'whole', 'cpu'):.2f}x; aim >= {AIM:g}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of one operation (1)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds (2)")
    parser.add_argument("--pixels", type=int, default=64, help="side of the pictures (64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    results = [measure(load, args.pixels, args.rounds, args.threads) for load in WORKLOADS]
    show(results, args.pixels, args.rounds, args.threads)
    write(
        args.json,
        {
            "threads": args.threads,
            "rounds": args.rounds,
            "pixels": args.pixels,
            "aim": AIM,
            "results": [asdict(result) for result in results],
        },
    )


if __name__ == "__main__":
    main()
