"""The settings of ``webdataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.data import Samples
from qi_core.fitting import CaptionKey, Fitting, own_first
from qi_core.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qi_core.listing import Listing
    from qi_plugins.source_webdataset.live import WebSource


def _some(_: object, attribute: Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not value or not all(text.strip() for text in value):
        raise ValueError(f"'{attribute.name}' is {list(value)}; wanted at least one place of shards")


@frozen(kw_only=True, field_transformer=own_first)
class WebDataset(Fitting):
    """Tar shards in the WebDataset layout, on disk or behind HTTP(S), with random access and without unpacking.

    A sample is a picture with its caption (``caption_extension``, or ``caption``, ``text`` or ``prompt`` in a .json),
    and ref0.png, ref1.png ... if pictures are to be edited, of one name up to its first dot. The shards are gone
    through in an order of their own in each epoch, ``window`` of them at a time, whose samples are mixed. A shard is
    looked into only when its window comes, so a run begins as soon with ten thousand shards as with ten.
    """

    gives: ClassVar[type] = Samples

    shards: tuple[str, ...] = field(validator=_some)
    """Paths or addresses, each a shard or several: "data/shard-{000000..000099}.tar", "data/*.tar", a folder, a .txt
    that lists them one a line, "https://host/data/{0000..0999}.tar"."""
    caption_keys: tuple[CaptionKey, ...] = ()
    """Several captions of one picture in its .json, each by the key that it stands under. Every epoch takes one of
    those that are there, by their shares; where none of them is, the caption is the usual one."""
    window: int = field(default=16, validator=validators.gt(0))
    """Shards whose samples are mixed. More mix better; all of them are looked into before the first sample comes."""
    keep: Literal["indexes", "shards"] = "indexes"
    """What of shards behind HTTP is kept on disk: what lies where in each, so that a picture is one request for a part
    of it, or the whole shards, up to ``keep_gib``: for servers that give no parts, or where epochs are many and the
    network is slow. Indexes of shards on disk are kept too."""
    cache: str = ""
    """The folder that it is kept in, shared by all runs of this machine; "": ~/.cache/qi/shards."""
    keep_gib: float = field(default=100.0, validator=validators.gt(0))
    """Room for whole shards; those that were used last stay."""
    ahead_mib: float = field(default=512.0, validator=validators.ge(0))
    """Memory in which shards behind HTTP are read ahead in pieces of 8 MiB, in each process that makes samples, so that
    most samples are no request of their own. 0: each is one. Not for shards that are kept as a whole."""
    index: Literal["beside", "read"] = "beside"
    """Whether an index beside the shard is used (shard-0.idx for shard-0.tar, as NVIDIA DALI's wds2idx writes it, if
    there is one and it fits), which saves reading through it, or the shard's own headers are always read."""
    token_env: str = ""
    """The environment variable that holds the bearer token, where the server wants one."""
    token_file: str = ""
    """Or the file that holds it."""
    timeout: float = field(default=60.0, validator=validators.gt(0))
    """Seconds that a server may be silent in the middle of an answer."""
    patience: float = field(default=180.0, validator=validators.gt(0))
    """Seconds in which a request is made again and again before what it asked for counts as lost."""
    in_flight: int = field(default=16, validator=validators.gt(0))
    """Requests at once."""
    max_lost: float = field(default=0.05, validator=[validators.ge(0), validators.lt(1)])
    """Share of an epoch's shards that may be lost, since they cannot be reached or read; each is told, and tried again
    in the next epoch. When more are, or the only one, the run ends with an error. 0: any one ends it."""
    max_shard: int = field(default=64 * 2**30, validator=validators.gt(0))
    """Bytes of a shard; a larger one is lost."""

    def build(self, place: Place, multiple: int) -> WebSource:
        """Opens no shard yet. Raises QiError where there is none by those names, or no token where one is to be."""
        from qi_plugins.source_webdataset.live import build

        return build(self, place, multiple)

    def entries(self, multiple: int) -> Iterator[Listing]:
        """See ``qi_core.listing.Listed``."""
        from qi_plugins.source_webdataset.listing import entries

        return entries(self, multiple)
