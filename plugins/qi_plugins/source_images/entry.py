"""What the index holds: see ``qi_core.entries``."""

from qi_core.entries import EXTENSIONS, Entry, Limits, caption_of, category_of, cleaned

__all__ = ["EXTENSIONS", "Entry", "Limits", "caption_of", "category_of", "cleaned"]
