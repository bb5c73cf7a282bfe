"""Training a prior on images, and adapting one to new classes; see ``docs/priors.md``."""

from dap.training.adapt import adapt_prior
from dap.training.train import train_prior

__all__ = ["adapt_prior", "train_prior"]
