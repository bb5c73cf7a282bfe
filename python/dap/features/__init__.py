"""φ(x_t, t): features of images in the prior's own hidden states."""

from dap.features.pooling import POOLINGS, Tap, default_block
from dap.features.references import encode_images, noised_features, real_features

__all__ = ["POOLINGS", "Tap", "default_block", "encode_images", "noised_features", "real_features"]
