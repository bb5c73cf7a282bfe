"""One line on what each method does, and what it costs, for lists.

The cost is the time per image divided by that of unguided sampling (``dit``), without preparation, on the built-in
prior: docs/results.md (``benches/methods_cost.py``, two cores of an AMD EPYC, and for ``coda``, ``ld3m``,
``plug_and_play``, ``lgd``, ``d3hr``, ``minimax``, ``dmgd`` and ``cgs`` ``examples/compare_methods.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COSTS", "SUMMARIES"]

SUMMARIES: Mapping[str, str] = {
    "random": "real images, drawn at random",
    "herding": "real images whose mean features follow those of the class",
    "k_center": "real images that lie far apart, to cover the class",
    "k_medoids": "the real images nearest to the k-means centres of the class",
    "dit": "samples of the prior, without guidance",
    "dap": "pulls each sample to real images of its class in the prior's features",
    "mgd3": "pulls each sample to a k-means centre of its own in the class",
    "manifold_gd": "mgd3, with a correction that keeps samples among the class's real images",
    "igd": "pulls samples along the gradients of a trained classifier, and apart from earlier ones",
    "d4m": "noises the k-means centres of the class and denoises them again",
    "d3m": "learns words for each class of a text prior, and samples with them",
    "ld3m": "optimises latents and labels through a short denoising chain, to real features in random networks",
    "coda": "pulls each sample to a real image from a dense part of the class",
    "plug_and_play": "optimises one latent for each image under the prior's denoising loss and a constraint",
    "dap_set": "pulls the images of a class, as a set, to the class's distribution, and apart",
    "dap_networks": "guides the images of a class, as a set, to the mean features of its real images in networks",
    "dm": "optimises pixels, or latents, until their mean features in random networks are the class's",
    "rded": "crops of real images that a classifier is surest of, four in an image",
    "cao2": "samples that a classifier keeps, moved to where the denoiser errs least",
    "d3hr": "a group of noised latents with the class's mean and deviation, denoised",
    "minimax": "samples of a DiT that is fine-tuned on the real images for coverage and variety",
    "dmgd": "pulls the images of a class to its clusters by optimal transport, more of them to larger ones",
    "cgs": "moves the images of a class together to its mean, and apart by a determinant",
    "lgd": "grows the set in increments, each guided to what a network of the earlier ones still learns",
    "guided": "sums the guidance of several methods",
    "filtered": "several candidates of another method for each image; a classifier keeps one of them",
}
COSTS: Mapping[str, str] = {
    "random": "real images", "herding": "real images", "k_center": "real images", "k_medoids": "real images",
    "dit": "1", "dap": "1.2", "dap_set": "1.1", "mgd3": "1.0", "manifold_gd": "1.1", "igd": "4.8", "coda": "1.0",
    "plug_and_play": "2.7", "ld3m": "4.7", "rded": "real images", "dap_networks": "2.3", "dmgd": "1.2", "d4m": "0.7",
    "cgs": "1.0", "cao2": "5.8", "d3hr": "1.7", "dm": "3.0", "lgd": "3.6", "minimax": "1.2", "guided": "of its parts",
    "filtered": "candidates × its method",
}  # fmt: skip
