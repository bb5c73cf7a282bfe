"""Making a prior from images, and teaching one new classes; see ``docs/priors.md``."""

from dap.training.adapt import adapt_prior
from dap.training.train import train_prior

__all__ = ["adapt_prior", "train_prior"]
