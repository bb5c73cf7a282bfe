"""Selectors, which choose rows that represent all rows, and k-means. ``docs/selection.md`` is the guide."""

from __future__ import annotations

from dap.selection.base import Selection, Selector
from dap.selection.bisecting import BisectingKMeans, bisecting_k_means
from dap.selection.facility_location import facility_location
from dap.selection.herding import herding, order_towards
from dap.selection.k_center import k_center
from dap.selection.k_means import KMeans, k_means, k_means_centroids, k_medoids, kmeans_plusplus
from dap.selection.medoids import medoids_towards
from dap.selection.random import permutation, random, random_of_each_class, random_per_class
from dap.selection.thinning import thinning

__all__ = [
    "SELECTORS", "BisectingKMeans", "KMeans", "Selection", "Selector", "bisecting_k_means", "facility_location",
    "herding", "k_center", "k_means", "k_means_centroids", "k_medoids", "kmeans_plusplus", "medoids_towards",
    "order_towards", "permutation", "random", "random_of_each_class", "random_per_class", "thinning",
]  # fmt: skip

SELECTORS: dict[str, Selector] = {
    "random": random, "herding": herding, "thinning": thinning, "k_center": k_center, "k_medoids": k_medoids,
    "k_means_centroids": k_means_centroids, "facility_location": facility_location,
}  # fmt: skip
"""The selectors by name."""
