"""What flows through a run: frozen records, never dicts.

Shapes: B samples, N image tokens of all samples end to end, D values a token, L text tokens of all samples end to
end, W width of a text token, (H, W) pixels. A *grid* is (frames, rows, columns) of tokens; a still picture has one
frame. Pictures of different sizes stand in one batch as packed sequences: nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from attrs import Factory, evolve, field, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Grid: TypeAlias = tuple[int, int, int]
"""(frames, rows, columns) of tokens."""


def grid_tokens(grid: Grid) -> int:
    """Number of tokens in a grid."""
    frames, rows, columns = grid
    return frames * rows * columns


@frozen(kw_only=True, eq=False)
class Latents:
    """The pictures of a batch in the space the denoiser works in, packed.

    Tokens are row-major within a grid and samples stand end to end, so arithmetic on ``tokens`` is arithmetic on the
    whole batch. What a token holds is the autoencoder's affair (the released VAE: 16 channels x 2 x 2 latent pixels).
    """

    tokens: Tensor
    """(N, D), N = sum of frames*rows*columns over the samples."""
    grids: tuple[Grid, ...]
    """One a sample."""

    def __len__(self) -> int:
        return len(self.grids)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sample."""
        return tuple(grid_tokens(grid) for grid in self.grids)

    def with_tokens(self, tokens: Tensor) -> Latents:
        """The same grids with other values, (N, D)."""
        return evolve(self, tokens=tokens)

    def per_token(self, values: Tensor) -> Tensor:
        """(B,) one value a sample -> (N, 1) one value a token."""
        import torch

        lengths = torch.tensor(self.lengths, device=values.device)
        return torch.repeat_interleave(values, lengths, output_size=sum(self.lengths))[:, None]

    def sample_mean(self, values: Tensor) -> Tensor:
        """(N, D) -> (B,) mean over the tokens and channels of each sample (never over the batch's tokens)."""
        import torch

        lengths = self.lengths
        if len(set(lengths)) == 1:
            return values.reshape(len(lengths), -1).mean(dim=1)
        return torch.stack([part.mean() for part in torch.split(values, list(lengths))])

    def split(self) -> list[Latents]:
        """One record a sample."""
        import torch

        parts = torch.split(self.tokens, list(self.lengths))
        return [Latents(tokens=part, grids=(grid,)) for part, grid in zip(parts, self.grids, strict=True)]

    def to(self, *args: torch.device | torch.dtype) -> Latents:
        """On another device or in another dtype."""
        tokens = self.tokens
        for arg in args:
            tokens = tokens.to(arg)
        return evolve(self, tokens=tokens)

    @staticmethod
    def cat(parts: Sequence[Latents]) -> Latents:
        """Batches end to end."""
        import torch

        return Latents(tokens=torch.cat([p.tokens for p in parts]), grids=tuple(g for p in parts for g in p.grids))


@frozen(kw_only=True, eq=False)
class Condition:
    """What the denoiser is told about each sample, packed: text tokens, and clean reference pictures for editing."""

    text: Tensor
    """(L, W) text tokens of all samples end to end."""
    lengths: tuple[int, ...]
    """Text tokens of each sample."""
    references: Latents | None = None
    """All reference pictures of all samples, end to end (a sample's own in their order)."""
    reference_counts: tuple[int, ...] = ()
    """Reference pictures of each sample; empty means none anywhere."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def counts(self) -> tuple[int, ...]:
        """Reference pictures of each sample, always one number a sample."""
        return self.reference_counts or (0,) * len(self.lengths)

    def split(self) -> list[Condition]:
        """One record a sample."""
        import torch

        texts = torch.split(self.text, list(self.lengths))
        references = iter(self.references.split() if self.references is not None else ())
        singles: list[Condition] = []
        for text, count in zip(texts, self.counts, strict=True):
            own = [next(references) for _ in range(count)]
            singles.append(
                Condition(
                    text=text,
                    lengths=(len(text),),
                    references=Latents.cat(own) if own else None,
                    reference_counts=(count,),
                )
            )
        return singles

    def to(self, *args: torch.device | torch.dtype) -> Condition:
        """On another device or in another dtype."""
        text = self.text
        for arg in args:
            text = text.to(arg)
        return evolve(self, text=text, references=None if self.references is None else self.references.to(*args))

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Batches end to end."""
        import torch

        references = [p.references for p in parts if p.references is not None]
        return Condition(
            text=torch.cat([p.text for p in parts]),
            lengths=tuple(n for p in parts for n in p.lengths),
            references=Latents.cat(references) if references else None,
            reference_counts=tuple(n for p in parts for n in p.counts),
        )


@frozen(kw_only=True)
class Origin:
    """A picture as it was stored, before it was made to fit."""

    height: int
    """Pixels, as it is seen (upright)."""
    width: int
    bytes: int
    """Of its file."""
    turned: bool = False
    """Whether EXIF says that it was stored on its side, upside down or mirrored."""


@frozen(kw_only=True, eq=False)
class Sample:
    """One picture and what is said about it, before any encoder."""

    key: str
    """Names the sample in logs and reports; unique within its source."""
    prompt: str
    """The caption; for editing, the instruction."""
    image: Tensor
    """(3, H, W) uint8, RGB; H and W are multiples of what the source was told to keep to."""
    references: tuple[Tensor, ...] = ()
    """Pictures to edit, each (3, H, W) uint8 of its own size."""
    text: str = ""
    """The string drawn in the picture, where the source knows it."""
    category: str = ""
    """Where it stands in a hierarchy of categories (``people/portrait``), where the source knows it."""
    origin: Origin | None = None
    """What it was before; None for pictures that were made just now."""
    latents: Latents | None = None
    """The picture as the autoencoder gives it, where that is known already; ``image`` may then have no pixels."""


@runtime_checkable
class Batch(Protocol):
    """What a source gives and the loop hands on: it can be counted and cut; the objective knows the rest."""

    def __len__(self) -> int: ...

    @property
    def costs(self) -> Sequence[int]:
        """About how much work each sample is, in proportion: replicas get equally much."""
        ...

    def pick(self, which: Sequence[int]) -> Self:
        """Some of its samples, in that order."""
        ...

    def split(self, parts: int) -> Sequence[Self]:
        """At most ``parts`` micro-batches, in order, together the whole batch."""
        ...


def keys(batch: object) -> tuple[str, ...]:
    """What the samples of a batch are called, where it says so."""
    told = getattr(batch, "keys", None)
    return tuple(told) if isinstance(told, tuple) else tuple(str(item.key) for item in getattr(batch, "items", ()))


def listed(names: Sequence[str], room: int = 200) -> str:
    """As many as there is room for, and how many more."""
    shown = 0
    while shown < len(names) and (not shown or sum(map(len, names[: shown + 1])) + 2 * shown <= room):
        shown += 1
    more = f" and {len(names) - shown} more" if shown < len(names) else ""
    return ", ".join(names[:shown]) + more


def all_slots(batch: Sized) -> tuple[int, ...]:
    """The places of a batch that is the whole of its step's."""
    return tuple(range(len(batch)))


def pieces(count: int, parts: int) -> list[slice]:
    """``parts`` stretches of about equal length that cover ``count`` items, but none without an item."""
    parts = min(count, parts)
    return [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


@frozen(kw_only=True, eq=False)
class Samples:
    """A batch of samples, with the place of each in the global batch of its step.

    Random numbers are drawn per slot (see ``Dice``), so cutting a batch into micro-batches or over ranks changes
    nothing that is drawn.
    """

    items: tuple[Sample, ...]
    slots: tuple[int, ...] = field(default=Factory(all_slots, takes_self=True))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    @property
    def costs(self) -> tuple[int, ...]:
        """Pixels."""
        return tuple(sum(image[0].numel() for image in (item.image, *item.references)) for item in self.items)

    def pick(self, which: Sequence[int]) -> Samples:
        return Samples(items=tuple(self.items[i] for i in which), slots=tuple(self.slots[i] for i in which))

    def split(self, parts: int) -> list[Samples]:
        return [Samples(items=self.items[own], slots=self.slots[own]) for own in pieces(len(self.items), parts)]


@frozen(kw_only=True)
class StoredError:
    """How far a reference model was off on both pictures of a pair, at one time and with one noise."""

    seed: int
    """Decides time and noise."""
    winner: float
    """|v_ref(x_t) - v|^2, the mean over the picture's values."""
    loser: float
    t: float | None = None
    """The time that the seed gave, where it is known: another one now means that times are drawn otherwise."""


@frozen(kw_only=True, eq=False)
class Pair:
    """Two pictures for one prompt, one of them preferred."""

    key: str
    prompt: str
    winner: Tensor | Latents
    """(3, H, W) uint8, or a picture that is encoded already (one sample). Both have the same size."""
    loser: Tensor | Latents
    references: tuple[Tensor, ...] = ()
    """Pictures that were to be edited, each (3, H, W) uint8."""
    stored: tuple[StoredError, ...] = ()
    """Errors of a reference model that were computed beforehand."""


def _values(picture: Tensor | Latents) -> Tensor:
    return picture.tokens if isinstance(picture, Latents) else picture


@frozen(kw_only=True, eq=False)
class Pairs:
    """A batch of preferences, with the place of each in the global batch of its step."""

    items: tuple[Pair, ...]
    slots: tuple[int, ...] = field(default=Factory(all_slots, takes_self=True))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.items)

    @property
    def costs(self) -> tuple[int, ...]:
        """Values of their pictures."""
        return tuple(
            sum(image.numel() for image in (_values(pair.winner), _values(pair.loser), *pair.references))
            for pair in self.items
        )

    def pick(self, which: Sequence[int]) -> Pairs:
        return Pairs(items=tuple(self.items[i] for i in which), slots=tuple(self.slots[i] for i in which))

    def split(self, parts: int) -> list[Pairs]:
        return [Pairs(items=self.items[own], slots=self.slots[own]) for own in pieces(len(self.items), parts)]
