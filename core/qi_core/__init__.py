"""qi_core says what things are. A plugin imports from here and from nothing else of qi.

Names load when they are first asked for, so importing qi_core costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qi_core.adapter import Adapter as Adapter
    from qi_core.adapter import AdapterComponent as AdapterComponent
    from qi_core.command import Command as Command
    from qi_core.data import Batch as Batch
    from qi_core.data import Condition as Condition
    from qi_core.data import Grid as Grid
    from qi_core.data import Latents as Latents
    from qi_core.data import Origin as Origin
    from qi_core.data import Pair as Pair
    from qi_core.data import Pairs as Pairs
    from qi_core.data import Sample as Sample
    from qi_core.data import Samples as Samples
    from qi_core.data import StoredError as StoredError
    from qi_core.denoiser import Denoiser as Denoiser
    from qi_core.denoiser import DenoiserComponent as DenoiserComponent
    from qi_core.denoiser import DenoiserModule as DenoiserModule
    from qi_core.denoiser import Sharding as Sharding
    from qi_core.dice import Dice as Dice
    from qi_core.encoded import EncodedPairs as EncodedPairs
    from qi_core.encoded import Examples as Examples
    from qi_core.encoder import Autoencoder as Autoencoder
    from qi_core.encoder import Conditioner as Conditioner
    from qi_core.encoder import Encoders as Encoders
    from qi_core.engine import Engine as Engine
    from qi_core.engine import EngineComponent as EngineComponent
    from qi_core.errors import QiError as QiError
    from qi_core.errors import RecipeError as RecipeError
    from qi_core.evaluation import Evaluation as Evaluation
    from qi_core.evaluation import EvaluationComponent as EvaluationComponent
    from qi_core.evaluation import Validation as Validation
    from qi_core.filter import Filter as Filter
    from qi_core.filter import FilterComponent as FilterComponent
    from qi_core.generate import Painter as Painter
    from qi_core.hooks import hookimpl as hookimpl
    from qi_core.models import Models as Models
    from qi_core.objective import Loss as Loss
    from qi_core.objective import Mean as Mean
    from qi_core.objective import Objective as Objective
    from qi_core.optimizer import Optimizer as Optimizer
    from qi_core.optimizer import OptimizerComponent as OptimizerComponent
    from qi_core.parallel import ParallelComponent as ParallelComponent
    from qi_core.parallel import Strategy as Strategy
    from qi_core.parallel import Team as Team
    from qi_core.place import Closing as Closing
    from qi_core.place import Component as Component
    from qi_core.place import Place as Place
    from qi_core.reward import Candidate as Candidate
    from qi_core.reward import Reward as Reward
    from qi_core.reward import RewardComponent as RewardComponent
    from qi_core.reward import Scores as Scores
    from qi_core.reward import Weighted as Weighted
    from qi_core.rollouts import NoisyStep as NoisyStep
    from qi_core.rollouts import Rollout as Rollout
    from qi_core.rollouts import Rollouts as Rollouts
    from qi_core.sampler import Record as Record
    from qi_core.sampler import Sampler as Sampler
    from qi_core.sampler import Step as Step
    from qi_core.sampler import StochasticSampler as StochasticSampler
    from qi_core.sampler import Transition as Transition
    from qi_core.settings import Data as Data
    from qi_core.settings import Guidance as Guidance
    from qi_core.settings import Preview as Preview
    from qi_core.settings import Shift as Shift
    from qi_core.settings import Train as Train
    from qi_core.shadow import Average as Average
    from qi_core.shadow import Fixed as Fixed
    from qi_core.shadow import Ramp as Ramp
    from qi_core.shadow import Refreshed as Refreshed
    from qi_core.shadow import Rule as Rule
    from qi_core.shadow import Shadow as Shadow
    from qi_core.shadow import Shadowed as Shadowed
    from qi_core.shards import Held as Held
    from qi_core.shards import Part as Part
    from qi_core.shards import Whole as Whole
    from qi_core.shards import fill as fill
    from qi_core.source import OnPolicy as OnPolicy
    from qi_core.source import Planned as Planned
    from qi_core.source import Source as Source
    from qi_core.source import SourceComponent as SourceComponent
    from qi_core.source import Ticket as Ticket
    from qi_core.stochastic import Window as Window
    from qi_core.store import Checkpoint as Checkpoint
    from qi_core.store import Store as Store
    from qi_core.store import StoreComponent as StoreComponent
    from qi_core.tracker import Change as Change
    from qi_core.tracker import Ended as Ended
    from qi_core.tracker import Evaluated as Evaluated
    from qi_core.tracker import Notice as Notice
    from qi_core.tracker import Picture as Picture
    from qi_core.tracker import Saved as Saved
    from qi_core.tracker import Start as Start
    from qi_core.tracker import StepDone as StepDone
    from qi_core.tracker import Tracker as Tracker
    from qi_core.tracker import TrackerComponent as TrackerComponent

_HOME = {
    "adapter": ("Adapter", "AdapterComponent"),
    "command": ("Command",),
    "data": (
        "Batch", "Condition", "Grid", "Latents", "Origin", "Pair", "Pairs", "Sample", "Samples", "StoredError",
    ),
    "denoiser": ("Denoiser", "DenoiserComponent", "DenoiserModule", "Sharding"),
    "dice": ("Dice",),
    "encoded": ("EncodedPairs", "Examples"),
    "encoder": ("Autoencoder", "Conditioner", "Encoders"),
    "engine": ("Engine", "EngineComponent"),
    "errors": ("QiError", "RecipeError"),
    "evaluation": ("Evaluation", "EvaluationComponent", "Validation"),
    "filter": ("Filter", "FilterComponent"),
    "generate": ("Painter",),
    "hooks": ("hookimpl",),
    "models": ("Models",),
    "objective": ("Loss", "Mean", "Objective"),
    "optimizer": ("Optimizer", "OptimizerComponent"),
    "parallel": ("ParallelComponent", "Strategy", "Team"),
    "place": ("Closing", "Component", "Place"),
    "reward": ("Candidate", "Reward", "RewardComponent", "Scores", "Weighted"),
    "rollouts": ("NoisyStep", "Rollout", "Rollouts"),
    "sampler": ("Record", "Sampler", "Step", "StochasticSampler", "Transition"),
    "settings": ("Data", "Guidance", "Preview", "Shift", "Train"),
    "shadow": ("Average", "Fixed", "Ramp", "Refreshed", "Rule", "Shadow", "Shadowed"),
    "shards": ("Held", "Part", "Whole", "fill"),
    "source": ("OnPolicy", "Planned", "Source", "SourceComponent", "Ticket"),
    "stochastic": ("Window",),
    "store": ("Checkpoint", "Store", "StoreComponent"),
    "tracker": (
        "Change", "Ended", "Evaluated", "Notice", "Picture", "Saved", "Start", "StepDone", "Tracker",
        "TrackerComponent",
    ),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'qi_core' has no attribute {name!r}")
    return getattr(import_module(f"qi_core.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
