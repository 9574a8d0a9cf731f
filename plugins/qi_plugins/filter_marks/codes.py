"""The settings of ``barcode``, and how it measures."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core.bar import Bar
from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core import Filter, Place, Sample


@frozen(kw_only=True)
class Barcode:
    """Number of QR codes, other matrix codes and bar codes in the picture, as the library ZXing reads them.

    Stage S5 of the report, abnormal elements. A code that is too small, bent or blurred to be read is not found; what
    is found is one, for a code must prove itself by its check digits.
    """

    most: int = field(default=0, validator=validators.ge(0))
    """A picture may have so many."""
    enlarge: int = field(default=1, validator=[validators.gt(0), validators.le(4)])
    """Pictures are enlarged by so much before they are searched: small codes, at the square of the time."""

    def build(self, place: Place) -> Filter:
        if find_spec("zxingcpp") is None:
            raise QiError("filter barcode: zxing-cpp is not installed; wanted to find codes; pip install 'qi[data]'")

        return Bar(measuring=self._codes, most=self.most, above="QR code or bar code")

    def _codes(self, sample: Sample) -> float:
        import numpy as np
        import zxingcpp
        from PIL import Image

        from qi_core.measures import luma

        seen = luma(sample.image)
        if self.enlarge > 1:
            size = (seen.shape[1] * self.enlarge, seen.shape[0] * self.enlarge)
            seen = np.asarray(Image.fromarray(seen).resize(size, Image.Resampling.BICUBIC))
        return float(len(zxingcpp.read_barcodes(np.ascontiguousarray(seen))))
