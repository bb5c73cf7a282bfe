"""Whether timm can download a model: asked before timm, which tries again and again where there is no network."""

from __future__ import annotations

import timm

from dap.priors.hub import ask_once

__all__ = ["check_download"]

HUB, WEIGHTS = "hf-hub:", ("model.safetensors", "pytorch_model.bin")


def check_download(model: str) -> None:
    """Raise the error of the hub's client if the weights of a model of timm are neither here nor to be had."""
    if model.startswith(HUB):
        ask_once(model.removeprefix(HUB), *WEIGHTS)
    elif ":" not in model:
        known = timm.get_pretrained_cfg(model)
        if known is not None and known.hf_hub_id:
            ask_once(known.hf_hub_id, *WEIGHTS)
