"""The denoiser: the network that is trained to give the velocity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from attrs import frozen
from torch import Tensor, nn

if TYPE_CHECKING:
    from qi_core.data import Condition, Latents
    from qi_core.place import Place

Split: TypeAlias = Literal["rows", "columns", "heads", "gathered", "partial", "replicated"]
DIMENSION: Mapping[Split, int] = {"rows": 1, "columns": 0, "heads": 0, "gathered": 0}
"""Along which dimension of a weight or bias its parts lie; the others are held whole."""


@frozen(kw_only=True)
class Stretches:
    """Where each tensor-parallel rank may go on with a stretch of the tokens alone (sequence parallelism): within some
    blocks, outside of the divided products."""

    begin: str
    end: str
    """Names of modules that do nothing. Through the first, every stream of tokens goes into these blocks; through the
    second it comes out, with a few tokens more at its end, so that the ranks could share it equally."""
    blocks: tuple[str, ...]
    """Names of the blocks between them. ``Sharding.entries`` in them put the tokens together, also with a few more."""


@frozen(kw_only=True)
class Sharding:
    """How the weights of a denoiser may be divided over tensor-parallel ranks.

    ``rows``: the input features are divided; outputs are summed, then comes the bias. ``columns``: the output features
    are divided, and stay so until they meet ``rows``. ``heads``: columns, but only in whole attention heads.
    ``gathered``: the output features are divided; outputs are put together at once, gradients of the input summed.
    ``partial``: every rank holds it all, and uses it on its own columns or heads: its gradients are summed.
    ``replicated``: every rank holds it all and computes the same with it.
    """

    weights: Mapping[str, Split]
    """Parameter name (with ``*`` for any block) -> split. A parameter that no pattern names is replicated."""
    heads: int
    """Attention heads: the degree of parallelism must divide it."""
    entries: tuple[str, ...] = ()
    """Names (with ``*`` for any block) of modules that do nothing, through which tensors go from where every rank has
    them all to ``columns`` and ``heads``: gradients are summed there, on their way back."""
    attentions: tuple[str, ...] = ()
    """Names (with ``*`` for any block) of modules that attend over packed rows, in whose place a strategy may put
    another kernel. Called with queries (S, H, E), keys and values (T, H, E), for H heads of E channels, and a
    ``Packed``, they answer softmax(q k' / sqrt(E)) v within each sample, (S, H * E)."""
    stretches: Stretches | None = None
    """Where tokens may be divided too; the network is ``Stretched`` then."""
    blocks: str
    """Name of the module list of repeated blocks (what a strategy wraps, compiles or checkpoints one by one)."""

    def split(self, name: str) -> Split:
        """Of a parameter. The last pattern that matches counts: an adapter's come after the model's."""
        found: Split = "replicated"
        for pattern, split in self.weights.items():
            if fnmatchcase(name, pattern):
                found = split
        return found


class Packed(Protocol):
    """Which rows of packed queries and keys belong to one sample."""

    @property
    def in_order(self) -> bool:
        """Whether rows stand sample by sample; else what follows tells lengths alone."""
        ...

    @property
    def query_lengths(self) -> tuple[int, ...]: ...

    @property
    def key_lengths(self) -> tuple[int, ...]: ...

    @property
    def query_ends(self) -> Tensor:
        """(samples + 1,) int32: where each sample's rows begin, and the end."""
        ...

    @property
    def key_ends(self) -> Tensor: ...


class Denoiser(Protocol):
    """What samplers and objectives call: the velocity field.

    x_t = t x_0 + (1 - t) x_1, v = x_0 - x_1 (Qwen-Image report, eq. 1): t = 1 is data, t = 0 is noise.
    """

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """v at (x_t, t).

        ``latents``: x_t, packed (N, D). ``t``: (B,) float32 in [0, 1], one a sample. Returns packed (N, D).
        """
        ...


class DenoiserModule(nn.Module, ABC):
    """A denoiser that can be trained."""

    @abstractmethod
    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """See ``Denoiser.velocity``."""

    @abstractmethod
    def sharding(self) -> Sharding:
        """How the weights may be divided."""

    def forward(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        return self.velocity(latents, t, condition)


@frozen(eq=False)
class Called:
    """A network as a ``Denoiser``, through its call: strategies hang their hooks there, and not at ``velocity``."""

    network: DenoiserModule

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """See ``Denoiser``."""
        found: Latents = self.network(latents, t, condition)
        return found


@runtime_checkable
class Stretched(Protocol):
    """A denoiser whose tokens may be divided (``Sharding.stretches``)."""

    def stretch(self, part: int, parts: int) -> None:
        """From now on there are, in those blocks, the tokens of stretch ``part`` of so many equal ones."""
        ...


class DenoiserComponent(Protocol):
    """The settings of a denoiser."""

    def build(self, place: Place, latent_width: int, text_width: int) -> DenoiserModule:
        """The network, in float32 on ``place.device``, for these encoders (see also ``Place.reserve``).

        Raises QiError where the settings don't fit the encoders' widths. Initial weights depend on ``place.seed``.
        """
        ...
