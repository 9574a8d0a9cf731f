"""The strategy "fsdp": weights, gradients and optimizer state divided over ranks, block by block (torch's FSDP2)."""
