"""Where every token of a batch stands: computed from the shapes once, used by all blocks.

Two packed tensors go through the network: text tokens (L, D) and image tokens (N, D), the latter sample by sample, the
target before its references. *Joint* rows are all text rows, then all image rows.

Shapes: B samples, L text tokens, N image tokens with references, M target tokens, S = L + N.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from attrs import frozen
from torch import Tensor

from qi_core import Condition, Grid, Latents
from qi_core.data import grid_tokens
from qi_plugins.mmdit.attention import Backend, Plan, make_plan
from qi_plugins.mmdit.rope import Rope, place_pictures


@frozen(kw_only=True)
class Shapes:
    """All that a layout depends on; the key under which it is kept."""

    targets: tuple[Grid, ...]
    references: tuple[tuple[Grid, ...], ...]
    """Of each sample."""
    texts: tuple[int, ...]
    layered: bool
    device: torch.device
    backend: Backend

    @staticmethod
    def of(latents: Latents, condition: Condition, *, layered: bool, backend: Backend) -> Shapes:
        """The shapes of one batch."""
        every = condition.references.grids if condition.references is not None else ()
        ends = (0, *accumulate(condition.counts))
        return Shapes(
            targets=latents.grids,
            references=tuple(every[start:end] for start, end in pairwise(ends)),
            texts=condition.lengths,
            layered=layered,
            device=latents.tokens.device,
            backend=backend,
        )


@frozen(kw_only=True, eq=False)
class Layout:
    """Index vectors and tables of one batch."""

    gather: Tensor | None
    """(N,) rows of [all targets, all references] that make up the image tokens. None: there are no references."""
    targets: Tensor | None
    """(M,) image tokens that are targets. None: all are."""
    text_rows: Tensor | None
    """(L,) the sample of each text token. None: there is one sample."""
    image_rows: Tensor | None
    """(N,) the sample of each image token. None: there is one sample."""
    image_times: Tensor
    """(N,) the same, plus B for references: which row of [t; clean] a token is modulated by."""
    target_rows: Tensor | None
    """(M,) the sample of each target token. None: there is one sample."""
    turns: Tensor
    """(S, 1, E/2) complex64, joint rows."""
    target_turns: Tensor
    """(M, 1, E/2)."""
    joint: Plan
    """All tokens of a sample meet."""
    final: Plan
    """Targets alone ask: in the last block nothing else is used afterwards."""


def _spread(lengths: list[int], device: torch.device) -> Tensor:
    """(sum,) which run each token belongs to."""
    counts = torch.tensor(lengths)
    return torch.repeat_interleave(torch.arange(len(lengths)), counts).to(device)


def make_layout(shapes: Shapes, rope: Rope) -> Layout:
    """Everything that ``Layout`` says, for these shapes."""
    device, samples = shapes.device, len(shapes.targets)
    target_lengths = [grid_tokens(grid) for grid in shapes.targets]
    reference_lengths = [sum(map(grid_tokens, grids)) for grids in shapes.references]
    image_lengths = [a + b for a, b in zip(target_lengths, reference_lengths, strict=True)]

    tables, starts = [], []
    for grid, references in zip(shapes.targets, shapes.references, strict=True):
        pictures, start = place_pictures(grid, references, layered=shapes.layered)
        tables += [rope.picture(picture, device) for picture in pictures]
        starts.append(start)
    image_turns = torch.cat(tables)[:, None]
    text_turns = rope.text(starts, shapes.texts, device)[:, None]

    text_runs = _runs(list(shapes.texts), 0)
    image_runs = _runs(image_lengths, sum(shapes.texts))
    keys = list(zip(text_runs, image_runs, strict=True))
    target_runs = [(run,) for run in _runs(target_lengths, 0)]

    gather = targets = None
    parts = _spread([n for pair in zip(target_lengths, reference_lengths, strict=True) for n in pair], device)
    if any(reference_lengths):
        targets = (parts % 2 == 0).nonzero()[:, 0]
        gather = torch.empty_like(parts)
        gather[targets] = torch.arange(len(targets), device=device)
        gather[parts % 2 == 1] = torch.arange(len(targets), len(parts), device=device)
    many = samples > 1
    return Layout(
        gather=gather,
        targets=targets,
        text_rows=_spread(list(shapes.texts), device) if many else None,
        image_rows=parts // 2 if many else None,
        image_times=parts // 2 + samples * (parts % 2),
        target_rows=_spread(target_lengths, device) if many else None,
        turns=torch.cat([text_turns, image_turns]),
        target_turns=image_turns if targets is None else image_turns[targets],
        joint=make_plan(keys, keys, device, shapes.backend),
        final=make_plan(target_runs, keys, device, shapes.backend),
    )


def _runs(lengths: list[int], start: int) -> list[range]:
    return [range(a, b) for a, b in pairwise(accumulate(lengths, initial=start))]
