"""Features φ(x_t, t) of images, from the prior's own hidden states, and the indexes that hold them."""

from dap.features.build import fill_index, source_latents, stored_latents
from dap.features.encoder import Encoder
from dap.features.encoders import encoder_by_name
from dap.features.image_checks import check_channels, check_images, other_channels
from dap.features.index_checks import check_prior, check_references, check_source, class_names, source_of_index
from dap.features.index_options import choose_timesteps, feature_width, index_spec, schedule
from dap.features.latents import RealLatents, latents_bytes, real_latents
from dap.features.pooling import DEFAULT_POOLING, POOLINGS, Tap, block_number, check_block, default_block
from dap.features.reference_cache import reference_index
from dap.features.reference_features import ChosenRows, ReferenceFeatures
from dap.features.references import encode_images, noised_features, real_features

__all__ = [
    "DEFAULT_POOLING",
    "POOLINGS",
    "ChosenRows",
    "Encoder",
    "RealLatents",
    "ReferenceFeatures",
    "Tap",
    "block_number",
    "check_block",
    "check_channels",
    "check_images",
    "check_prior",
    "check_references",
    "check_source",
    "choose_timesteps",
    "class_names",
    "default_block",
    "encode_images",
    "encoder_by_name",
    "feature_width",
    "fill_index",
    "index_spec",
    "latents_bytes",
    "noised_features",
    "other_channels",
    "real_features",
    "real_latents",
    "reference_index",
    "schedule",
    "source_latents",
    "source_of_index",
    "stored_latents",
]  # fmt: skip
