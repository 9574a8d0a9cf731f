"""The strategy "megatron": megatron-core's tensor parallelism, distributed optimizer and overlapped buffers."""
