"""What encoders gave, kept on the disk: immutable shards, found by content. Nothing here imports torch but
``encoders``; docs/cache.md has the layout in words."""
