"""A run at the released width, of which nothing is there: for what is planned before a launch."""

from __future__ import annotations

RECIPE = """
[autoencoder]
name = "vae-qwen"
path = "nowhere"

[conditioner]
name = "qwen2.5-vl"

[denoiser]
name = "mmdit"
size = "3b"

[objective]
name = "flow-matching"

[source]
name = "images"
path = "pictures"
side = 512

[train]
batch = 64
steps = 1000
"""
