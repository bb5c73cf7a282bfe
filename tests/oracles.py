"""Slow float64 answers, written from the formulas and sharing no code with dap."""

from __future__ import annotations

import copy
import dataclasses
import math

import torch


def double(module):
    """A float64 copy."""
    return copy.deepcopy(module).double()


def traced(context):
    """(The context, an empty list that fills with the latents after each step, float64)."""
    seen = []

    def keep(_prior, _step, _timestep, tensors):
        seen.append(tensors["latents"].double())
        return tensors

    return dataclasses.replace(context, callback_on_step_end=keep), seen


def tokens(transformer, x, timestep, labels, block):
    """Hidden state after a block, counted from 1, of a float64 DiT."""
    t = torch.full((len(x),), int(timestep))
    hidden = transformer.pos_embed(x)
    for layer in transformer.transformer_blocks[:block]:
        hidden = layer(hidden, timestep=t, class_labels=labels)
    return hidden


def noise_estimate(transformer, x, timestep, labels, guidance_scale, guided_channels=None, null=1000):
    """(ε after classifier-free guidance, what the network puts out beyond ε), one forward pass per condition."""
    t = torch.full((len(x),), int(timestep))
    channels = x.shape[1]
    conditional = transformer(x, timestep=t, class_labels=labels).sample
    unconditional = transformer(x, timestep=t, class_labels=torch.full_like(labels, null)).sample
    eps = conditional[:, :channels].clone()
    guided = channels if guided_channels is None else guided_channels
    for channel in range(guided):
        difference = conditional[:, channel] - unconditional[:, channel]
        eps[:, channel] = unconditional[:, channel] + guidance_scale * difference
    return eps, conditional[:, channels:]


def kernel_distance(a, b, bandwidth=None):
    """D_k of two vectors: linear, or the Gaussian kernel of a bandwidth."""
    squared = ((a - b) ** 2).sum()
    return squared.sqrt() if bandwidth is None else (2 - 2 * torch.exp(-squared / (2 * bandwidth**2))).sqrt()


def median_bandwidth(rows):
    """The median of all distances between two different rows; 1 where there is only one."""
    if len(rows) < 2:
        return 1.0
    found = [float(kernel_distance(rows[i], rows[j])) for i in range(len(rows)) for j in range(i)]
    found.sort()
    half = len(found) // 2
    return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2


def mean_distances(features, references, bandwidth=None):
    """(1/N) Σ_n D_k(φ_b, φ_n) for each row b, with the references of that row; pair by pair."""
    rows = []
    for row, own in zip(features, references, strict=True):
        width = median_bandwidth(own) if bandwidth == "median" else bandwidth
        rows.append(sum(kernel_distance(row, reference, width) for reference in own) / len(own))
    return torch.stack(rows)


def central_differences(function, x, step=1e-5):
    """∂ Σ function / ∂x, element by element."""
    gradient = torch.zeros_like(x)
    for index in range(x.numel()):
        values = []
        for sign in (1, -1):
            moved = x.clone()
            moved.view(-1)[index] += sign * step
            values.append(function(moved).sum().item())
        gradient.view(-1)[index] = (values[0] - values[1]) / (2 * step)
    return gradient


def cumulative_products(scheduler):
    """(ᾱ_t, ᾱ of the step after it) for each of a scheduler's steps, float64; after the last one ᾱ = 1."""
    now = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
    return list(zip(now, [*now[1:], 1.0], strict=True))


def ddim_step(x, eps, now, after, noise=None, eta=0.0):
    """Song, Meng and Ermon 2021, Eq. 12 and 16."""
    x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
    deviation = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
    moved = math.sqrt(after) * x0 + math.sqrt(1 - after - deviation**2) * eps
    return moved if noise is None else moved + deviation * noise


def ddpm_step(x, eps, now, after, noise=None, interpolation=None):
    """Ho, Jain and Abbeel 2020, Eq. 7, on a respaced schedule; ``noise`` is None at the last step.

    The variance is the posterior's, or, as in Nichol and Dhariwal 2021, Eq. 15, between it and β in log space.
    """
    x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
    alpha = now / after
    beta = 1 - alpha
    mean = math.sqrt(after) * beta / (1 - now) * x0 + math.sqrt(alpha) * (1 - after) / (1 - now) * x
    if noise is None:
        return mean
    posterior = max((1 - after) / (1 - now) * beta, 1e-20)
    if interpolation is None:
        return mean + math.sqrt(posterior) * noise
    fraction = (interpolation + 1) / 2
    log_variance = fraction * math.log(beta) + (1 - fraction) * math.log(posterior)
    return mean + torch.exp(log_variance / 2) * noise


def slow_medoids(candidates, targets, count, weights=None):
    """A greedy start and the best exchange while one helps, every cost from its definition, in exact order of ties."""
    weights = [1 / len(targets)] * len(targets) if weights is None else list(weights)

    def cost(chosen):
        nearest = [min(float(((t - candidates[c]) ** 2).sum()) for c in chosen) for t in targets]
        return sum(w * d for w, d in zip(weights, nearest, strict=True))

    def free(chosen):
        return [c for c in range(len(candidates)) if c not in chosen]

    chosen = []
    while len(chosen) < count:
        chosen.append(min(free(chosen), key=lambda c: cost([*chosen, c])))
    while True:
        exchanges = [
            (cost([*chosen[:place], c, *chosen[place + 1 :]]), c, place) for place in range(count) for c in free(chosen)
        ]
        if not exchanges or min(exchanges)[0] >= cost(chosen) * (1 - 1e-9):
            return chosen
        _, candidate, place = min(exchanges)
        chosen[place] = candidate
