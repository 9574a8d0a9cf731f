"""A run: the parts that a recipe names, assembled."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field, frozen

from qi_core.curriculum import Pace
from qi_core.live import Channel, Ledger
from qi_core.losses import Losses
from qi_core.models import Models
from qi_core.place import Closing
from qi_core.settings import Data
from qi_core.tracker import Change, Ended, Evaluated, Notice, Saved, Start, StepDone
from qi_core.watch import Watch

if TYPE_CHECKING:
    from qi_core.adapter import Adapter
    from qi_core.denoiser import DenoiserModule
    from qi_core.encoder import Encoders
    from qi_core.engine import Engine, Spec
    from qi_core.evaluation import Evaluation, Validation
    from qi_core.feed import Feeding
    from qi_core.generate import Painter
    from qi_core.losses import Losses
    from qi_core.objective import Objective
    from qi_core.optimizer import Optimizer
    from qi_core.parallel import Strategy
    from qi_core.sampler import Sampler
    from qi_core.settings import Data, Guidance, Preview, Train
    from qi_core.shadow import Shadow
    from qi_core.shards import Held
    from qi_core.source import Source
    from qi_core.store import Store
    from qi_core.tracker import Tracker


EMA = "ema"
"""The shadow that previews, evaluations and exports use."""


@define(kw_only=True, eq=False)
class Evaluating:
    """An evaluation and when it is due."""

    every: int
    evaluation: Evaluation | Validation | None
    """None on other ranks than the first, which serve it."""


@frozen(kw_only=True)
class Effect:
    """A change that was found good."""

    apply: Callable[[], None]
    """Puts it into effect."""
    data: bool = False
    """Whether other samples come of it."""
    drop: Callable[[], None] = lambda: None
    """In place of ``apply``: lets go of what was opened to see whether it is good."""


@define(kw_only=True, eq=False)
class Run:
    """All parts of a run. The loop works on this and knows nothing else."""

    folder: Path
    recipe: str
    """Resolved, TOML; what was changed while the run went on is in the ledger."""
    train: Train
    guidance: Guidance
    preview: Preview
    encoders: Encoders
    model: DenoiserModule
    objective: Objective[Any]
    sampler: Sampler
    source: Source[Any]
    optimizer: Optimizer
    strategy: Strategy
    store: Store
    held: Held = field(default=Factory(lambda run: run.strategy.held(run.model), takes_self=True))
    """What this rank holds of the model's tensors."""
    data: Data = field(factory=Data)
    spec: Spec | None = None
    """By which samples are made; None where the source does not plan and draws them itself."""
    engine: Engine | None = None
    losses: Losses = field(default=Factory(lambda run: Losses(run.folder, run.data.broken), takes_self=True))
    shadows: dict[str, Shadow] = field(factory=dict)
    """Copies that follow the weights: ``ema``, and what the objective asks for."""
    adapter: Adapter | None = None
    trackers: list[Tracker]
    evaluations: list[Evaluating]
    change: Callable[[Run, str], Effect]
    """Checks a setting as a recipe is checked. Raises QiError if it may not be."""
    pace: Pace = field(default=Factory(lambda run: Pace(samples=run.train.batch, patch=1), takes_self=True))
    """Which samples a step's batch is made of, and what else the curriculum has for it."""
    scheduled: Callable[[Run], Effect] | None = None
    """What the curriculum has for this step, found good; None without a curriculum. Raises QiError where it isn't."""
    resolve: Callable[[str, int], str] = lambda setting, _: setting
    """A setting as the ledger keeps it: what it comes to at a step (``curriculum = next``)."""
    peak: float = field(default=Factory(lambda run: getattr(run.optimizer, "lr", 0.0), takes_self=True))
    """The optimizer's learning rate but for the curriculum's factor."""

    step: int = 0
    """Updates done."""
    saved: int = -1
    """Step of the last checkpoint of this process."""
    saving: Saved | None = None
    """It, until it is known to be whole and has been told."""
    retired: list[Source[Any]] = field(factory=list)
    """Sources that the run had before, not closed yet."""
    feed: Feeding | None = None
    """While it trains."""
    position: dict[str, Any] = field(factory=dict)
    """Where the source stands after the last batch that was trained on."""
    skipped_updates: int = 0
    """Updates left out because gradients were not finite, or far larger than usual (``train.spike``)."""
    norms: list[float] = field(factory=list)
    """Gradient norms of the last updates, for telling what is usual."""
    results: dict[str, Evaluated] = field(factory=dict)
    """The last of each evaluation."""
    notes: list[str] = field(factory=list)
    channel: Channel = field(init=False)
    """Read on rank 0 alone."""
    ledger: Ledger = field(init=False)
    watch: Watch = field(init=False)
    """Over each step, where the strategy has several ranks."""
    replay: list[Change] = field(init=False, factory=list)
    """Changes that take effect at this step or later, in their order."""

    def __attrs_post_init__(self) -> None:
        self.channel = Channel(self.folder)
        self.ledger = Ledger(self.folder)
        self.watch = Watch(self.folder, self.strategy.team.rank, self.strategy.timeout)

    @property
    def main(self) -> bool:
        """Whether this process writes: logs, pictures, what was changed."""
        return self.strategy.team.rank == 0

    def renew(self, source: Source[Any], spec: Spec | None) -> None:
        """Samples come from another source from the next step on; it stands where this one does."""
        from qi_core.orders import Ordered

        for each in self.retired:
            _close(each)
        self.retired = [self.source]  # a thread may still be making a sample of it that nobody wants any more
        self.source, self.spec = source, spec
        if spec is not None and self.engine is not None and isinstance(self.feed, Ordered):
            self.engine.begin(spec)
            self.feed.begin(spec.maker.source, spec.digest, self.step, self.pace)

    def close_sources(self) -> None:
        """At the end, the one that it has and those that it had before."""
        for each in (*self.retired, self.source):
            _close(each)

    @property
    def models(self) -> Models:
        """As the objective gets them."""
        return Models(
            encoders=self.encoders,
            denoiser=self.model,
            strategy=self.strategy,
            shadows=self.shadows,
            adapter=self.adapter,
        )

    def tell(self, event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> None:
        """Tell every tracker (they are on rank 0 alone)."""
        for tracker in self.trackers:
            tracker.tell(event)

    @contextmanager
    def painter(self) -> Generator[Painter]:
        """Draws from the averaged weights (the live ones where no average is kept)."""
        from qi_core.generate import Painter

        ema = self.shadows.get(EMA)
        with ema.applied() if ema else nullcontext():
            yield Painter(
                model=self.model,
                encoders=self.encoders,
                sampler=self.sampler,
                guidance=self.guidance,
                strategy=self.strategy,
                seed=self.train.seed,
            )


def _close(source: object) -> None:
    if isinstance(source, Closing):
        source.close()
