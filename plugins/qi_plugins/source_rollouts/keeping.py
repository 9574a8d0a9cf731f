"""Items of a rollout <-> JSON values and tensors, for checkpoints. To the bit."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor

from qi_core.data import Condition, Grid, Latents, Pair
from qi_core.rollouts import NoisyStep, Rollout

Tensors = MutableMapping[str, Tensor]


def keep_rollouts(items: Mapping[int, Rollout]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a group's pictures share is kept once."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for number, item in items.items():
        if item.group not in groups:
            name = f"group-{len(groups)}"
            groups[item.group] = {
                "prompt": item.prompt,
                "condition": _keep_condition(item.condition, f"{name}/condition", tensors),
                "negative": item.negative and _keep_condition(item.negative, f"{name}/negative", tensors),
            }
        tensors[f"{number}/latents"] = item.latents.tokens
        kept[str(number)] = {
            "key": item.key,
            "group": item.group,
            "grid": list(item.latents.grids[0]),
            "reward": item.reward,
            "rewards": dict(item.rewards),
            "advantage": item.advantage,
            "steps": _keep_steps(item.steps, str(number), tensors),
        }
    return {"groups": groups, "pictures": kept}, tensors


def take_rollouts(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Rollout]:
    """What ``keep_rollouts`` kept."""
    conditions = {group: _take_condition(kept["condition"], tensors) for group, kept in state["groups"].items()}
    negatives = {
        group: _take_condition(kept["negative"], tensors) if kept["negative"] else None
        for group, kept in state["groups"].items()
    }
    return {
        int(number): Rollout(
            key=kept["key"],
            group=kept["group"],
            prompt=state["groups"][kept["group"]]["prompt"],
            condition=conditions[kept["group"]],
            negative=negatives[kept["group"]],
            latents=_one(tensors[f"{number}/latents"], kept["grid"]),
            steps=_take_steps(kept["steps"], number, tensors),
            reward=kept["reward"],
            rewards=kept["rewards"],
            advantage=kept["advantage"],
        )
        for number, kept in state["pictures"].items()
    }


def keep_pairs(items: Mapping[int, Pair]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Pairs of latents."""
    tensors: dict[str, Tensor] = {}
    kept: dict[str, Any] = {}
    for number, pair in items.items():
        assert isinstance(pair.winner, Latents)
        assert isinstance(pair.loser, Latents)
        tensors |= {f"{number}/winner": pair.winner.tokens, f"{number}/loser": pair.loser.tokens}
        tensors |= {f"{number}/reference-{i}": image for i, image in enumerate(pair.references)}
        kept[str(number)] = {
            "key": pair.key,
            "prompt": pair.prompt,
            "grid": list(pair.winner.grids[0]),
            "references": len(pair.references),
        }
    return {"pairs": kept}, tensors


def take_pairs(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[int, Pair]:
    """What ``keep_pairs`` kept."""
    return {
        int(number): Pair(
            key=kept["key"],
            prompt=kept["prompt"],
            winner=_one(tensors[f"{number}/winner"], kept["grid"]),
            loser=_one(tensors[f"{number}/loser"], kept["grid"]),
            references=tuple(tensors[f"{number}/reference-{i}"] for i in range(kept["references"])),
        )
        for number, kept in state["pairs"].items()
    }


def _keep_steps(steps: tuple[NoisyStep, ...], name: str, tensors: Tensors) -> list[list[float]]:
    """(t, t', std, log-probability, whether the state before is that after the last one) of each."""
    rows: list[list[float]] = []
    last: Tensor | None = None
    for i, step in enumerate(steps):
        follows = step.x is last
        if not follows:
            tensors[f"{name}/{i}/x"] = step.x
        tensors[f"{name}/{i}/x_next"], tensors[f"{name}/{i}/mean"] = step.x_next, step.mean
        rows.append([step.t, step.t_next, step.std, step.log_prob, float(follows)])
        last = step.x_next
    return rows


def _take_steps(rows: list[list[float]], name: str, tensors: Mapping[str, Tensor]) -> tuple[NoisyStep, ...]:
    steps: list[NoisyStep] = []
    for i, (t, t_next, std, log_prob, follows) in enumerate(rows):
        steps.append(
            NoisyStep(
                t=t,
                t_next=t_next,
                x=steps[-1].x_next if follows else tensors[f"{name}/{i}/x"],
                x_next=tensors[f"{name}/{i}/x_next"],
                mean=tensors[f"{name}/{i}/mean"],
                std=std,
                log_prob=log_prob,
            )
        )
    return tuple(steps)


def _keep_condition(condition: Condition, name: str, tensors: Tensors) -> dict[str, Any]:
    """Of one sample."""
    tensors[f"{name}/text"] = condition.text
    grids: list[list[int]] = []
    if condition.references is not None:
        tensors[f"{name}/references"] = condition.references.tokens
        grids = [list(grid) for grid in condition.references.grids]
    return {"name": name, "grids": grids}


def _take_condition(kept: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Condition:
    name, text = kept["name"], tensors[f"{kept['name']}/text"]
    references = None
    if kept["grids"]:
        grids = tuple(_grid(grid) for grid in kept["grids"])
        references = Latents(tokens=tensors[f"{name}/references"], grids=grids)
    return Condition(text=text, lengths=(len(text),), references=references, reference_counts=(len(kept["grids"]),))


def _one(tokens: Tensor, grid: list[int]) -> Latents:
    return Latents(tokens=tokens, grids=(_grid(grid),))


def _grid(values: list[int]) -> Grid:
    frames, rows, columns = values
    return frames, rows, columns
