"""Filters of what does not belong into pictures: watermarks, QR codes, bar codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_marks.codes import Barcode
    from qi_plugins.filter_marks.watermark import Watermark

    return {"barcode": Barcode, "watermark": Watermark}
