"""Pure tensors: losses, reward heads, routers, the batched fit, metrics. Never touches text or backbones."""
