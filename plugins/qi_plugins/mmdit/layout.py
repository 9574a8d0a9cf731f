"""Where every token of a batch stands: computed from the shapes once, used by all blocks.

Two packed tensors go through the network: text tokens (L, D) and image tokens (N, D), the latter sample by sample, the
target before its references. *Joint* rows are all text rows, then all image rows.

Shapes: B samples, L text tokens, N image tokens with references, M target tokens, S = L + N.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from attrs import evolve, frozen
from torch import Tensor

from qi_core import Condition, Grid, Latents
from qi_core.data import grid_tokens
from qi_plugins.mmdit.attention import Backend, Plan, plan_in_order, plan_table
from qi_plugins.mmdit.rope import Rope, place_pictures
from qi_plugins.mmdit.runs import Runs

# Up to so many keys a sample, one call over a table of all samples beats one call a sample on the CPU.
TABLE_UP_TO = 128


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
    text: Runs
    """Text tokens by sample."""
    image: Runs
    """Image tokens by sample, targets and references together."""
    image_times: Runs
    """The same apart: of [t; clean] rows of modulation, references take the clean ones."""
    target: Runs
    """Target tokens by sample."""
    text_lengths: tuple[int, ...]
    image_lengths: tuple[int, ...]
    woven: bool
    """Whether joint rows stand sample by sample (text, then image, of each), or all text before all images."""
    text_turns: Tensor
    """(L, 1, E/2) complex64."""
    image_turns: Tensor
    """(N, 1, E/2)."""
    target_turns: Tensor
    """(M, 1, E/2)."""
    joint: Plan
    """All tokens of a sample meet."""
    final: Plan
    """Targets alone ask: in the last block nothing else is used afterwards."""
    stretched: Layout | None = None
    """For blocks in which this rank has a stretch of the tokens."""

    def stretch(self, part: int, parts: int) -> Layout:
        """The same where modulation sees a stretch of the tokens alone (see ``qi_core.denoiser.Stretches``)."""
        image, times, text = (runs.stretch(part, parts) for runs in (self.image, self.image_times, self.text))
        return evolve(self, image=image, image_times=times, text=text, stretched=None)

    @property
    def nbytes(self) -> int:
        """Of the tables of turns, which are most of it."""
        return self.text_turns.nbytes + self.image_turns.nbytes + self.target_turns.nbytes

    def join(self, txt: Tensor, img: Tensor) -> Tensor:
        """Text tokens and image tokens -> joint rows, in one copy."""
        if not self.woven:
            return torch.cat([txt, img])
        parts = zip(torch.split(txt, list(self.text_lengths)), torch.split(img, list(self.image_lengths)), strict=True)
        return torch.cat([part for pair in parts for part in pair])

    def part(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Joint rows -> text tokens and image tokens."""
        if not self.woven:
            txt, img = torch.split(joint, [sum(self.text_lengths), sum(self.image_lengths)])
            return txt, img
        lengths = [n for pair in zip(self.text_lengths, self.image_lengths, strict=True) for n in pair]
        parts = torch.split(joint, lengths)
        return torch.cat(parts[::2]), torch.cat(parts[1::2])


def make_layout(shapes: Shapes, rope: Rope) -> Layout:
    """Everything that ``Layout`` says, for these shapes."""
    device, samples = shapes.device, len(shapes.targets)
    target_lengths = [grid_tokens(grid) for grid in shapes.targets]
    reference_lengths = [sum(map(grid_tokens, grids)) for grids in shapes.references]
    image_lengths = [a + b for a, b in zip(target_lengths, reference_lengths, strict=True)]
    key_lengths = [a + b for a, b in zip(shapes.texts, image_lengths, strict=True)]

    tables, starts = [], []
    for grid, references in zip(shapes.targets, shapes.references, strict=True):
        pictures, start = place_pictures(grid, references, layered=shapes.layered)
        tables += [rope.picture(picture, device) for picture in pictures]
        starts.append(start)
    image_turns = torch.cat(tables)[:, None]
    text_turns = rope.text(starts, shapes.texts, device)[:, None]

    gather = targets = None
    both = [n for pair in zip(target_lengths, reference_lengths, strict=True) for n in pair]
    if any(reference_lengths):
        shown = torch.repeat_interleave(torch.arange(len(both)) % 2 == 1, torch.tensor(both))
        # A stable sort puts all targets before all references; its inverse takes them from there.
        gather = torch.argsort(torch.argsort(shown, stable=True)).to(device)
        targets = (~shown).nonzero()[:, 0].to(device)

    short = samples > 1 and device.type == "cpu" and max(key_lengths) <= TABLE_UP_TO
    joint, final = (
        _plans(shapes, target_lengths, image_lengths, key_lengths)
        if short
        else _in_order(shapes, target_lengths, key_lengths)
    )
    return Layout(
        gather=gather,
        targets=targets,
        text=Runs.of(shapes.texts, device),
        image=Runs.of(image_lengths, device),
        image_times=Runs.of(both, device, [i for sample in range(samples) for i in (sample, samples + sample)]),
        target=Runs.of(target_lengths, device),
        text_lengths=shapes.texts,
        image_lengths=tuple(image_lengths),
        woven=not short,
        text_turns=text_turns,
        image_turns=image_turns,
        target_turns=image_turns if targets is None else image_turns[targets],
        joint=joint,
        final=final,
    )


def _plans(
    shapes: Shapes, target_lengths: list[int], image_lengths: list[int], key_lengths: list[int]
) -> tuple[Plan, Plan]:
    text_runs, image_runs = _runs(list(shapes.texts), 0), _runs(image_lengths, sum(shapes.texts))
    keys = list(zip(text_runs, image_runs, strict=True))
    targets = [(run,) for run in _runs(target_lengths, 0)]
    device, backend = shapes.device, shapes.backend
    return plan_table(keys, keys, device, backend), plan_table(targets, keys, device, backend)


def _in_order(shapes: Shapes, target_lengths: list[int], key_lengths: list[int]) -> tuple[Plan, Plan]:
    device, backend = shapes.device, shapes.backend
    return (
        plan_in_order(key_lengths, key_lengths, device, backend),
        plan_in_order(target_lengths, key_lengths, device, backend),
    )


def _runs(lengths: list[int], start: int) -> list[range]:
    return [range(a, b) for a, b in pairwise(accumulate(lengths, initial=start))]
