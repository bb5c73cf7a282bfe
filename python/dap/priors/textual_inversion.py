"""Textual inversion: concepts, learned token embeddings v* that stand for a class in a prompt.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion", ICLR 2023,
arXiv 2208.01618. A concept is V vectors of the encoder's token embedding; they replace the ``{}`` of a template.
Files are those of diffusers, one safetensors file for each concept, which ``pipeline.load_textual_inversion`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dap.config import check_path
from dap.data.names import escape, unescape
from dap.errors import FormatError, OptionError, SourceError
from dap.priors.options import check_concepts
from dap.priors.taps import network_lock

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["concept_file", "encode_concept", "initial_concept", "read_concepts"]

SUFFIX = ".safetensors"


def encode_concept(pipeline: DiffusionPipeline, template: str, concept: Tensor) -> Tensor:
    """Return hidden states of a prompt with a concept in it; with gradients enabled, with the graph to the concept.

    Args:
        pipeline: A pipeline with ``tokenizer`` and ``text_encoder``.
        template: A prompt with ``{}`` in the concept's place.
        concept: float (V, D).

    Returns:
        (tokens, width), in the encoder's dtype.

    Raises:
        OptionError: The prompt has more tokens than the encoder reads.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    before, after = ([int(i) for i in tokenizer(part, add_special_tokens=False).input_ids] for part in _parts(template))
    start, count = 1 + len(before), len(concept)
    tokens = [tokenizer.bos_token_id, *before, *[tokenizer.unk_token_id] * count, *after, tokenizer.eos_token_id]
    if len(tokens) > tokenizer.model_max_length:
        raise OptionError(
            f"prompt {template!r}: has {len(tokens)} tokens with its concept, the text encoder reads "
            f"{tokenizer.model_max_length}; shorten it"
        )
    padded = tokenizer.pad({"input_ids": [tokens]}, padding="max_length", max_length=tokenizer.model_max_length,
                           return_tensors="pt").to(encoder.device)  # fmt: skip
    uses_mask = getattr(encoder.config, "use_attention_mask", False)  # as diffusers reads transformers' configuration
    with network_lock(encoder), _concept_at(encoder.get_input_embeddings(), start, concept):
        states: Tensor = encoder(padded.input_ids, attention_mask=padded.attention_mask if uses_mask else None)[0]
    return states[0]


@torch.no_grad()
def initial_concept(pipeline: DiffusionPipeline, text: str, vectors: int) -> Tensor:
    """Return the embeddings of the first tokens of a text, repeated if it has too few: float32 (vectors, D)."""
    tokenizer, table = pipeline.tokenizer, pipeline.text_encoder.get_input_embeddings()
    tokens = tokenizer(text, add_special_tokens=False).input_ids or [tokenizer.eos_token_id]
    chosen = [tokens[number % len(tokens)] for number in range(vectors)]
    embedded: Tensor = table(torch.tensor(chosen, device=table.weight.device))
    return embedded.float()


def concept_file(name: str, concept: Tensor) -> tuple[str, bytes]:
    """Return file name and content of a class's concept: ``{name: (V, D)}``, diffusers' textual inversion format."""
    return escape(name) + SUFFIX, save({name: concept.detach().float().cpu().contiguous()})


def read_concepts(concepts: Mapping[str, Tensor] | str | Path | None) -> dict[str, Tensor]:
    """Return concepts by class name: those given, or those of a folder with one file for each class.

    Raises:
        OptionError: They are neither tensors by name nor a folder.
        SourceError: The folder does not exist or has no concept in it.
        FormatError: A file does not hold a single tensor (V, D) of floats.
    """
    if concepts is not None:
        check_concepts(concepts)
    if not isinstance(concepts, str | Path):
        return dict(concepts or {})
    files = sorted(check_path("concepts", concepts).glob(f"*{SUFFIX}"))
    if not files:
        raise SourceError(f"{concepts}: expected a folder with a {SUFFIX} file for each class, found no such file")
    tensors = {}
    for file in files:
        try:
            (tensor,) = load(file.read_bytes()).values()
        except (SafetensorError, ValueError) as error:
            raise FormatError(
                f"{file}: expected one tensor, as diffusers saves a textual inversion ({error})"
            ) from error
        if tensor.dim() not in (1, 2) or not tensor.is_floating_point():
            raise FormatError(f"{file}: expected floats (vectors, D), got {tensor.dtype} {tuple(tensor.shape)}")
        tensors[unescape(file.name.removesuffix(SUFFIX))] = tensor.float().reshape(-1, tensor.shape[-1])
    return tensors


@contextmanager
def _concept_at(table: nn.Module, start: int, concept: Tensor) -> Iterator[None]:
    """Replace the token embeddings from ``start`` on by those of the concept while the encoder runs."""

    def put(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        rows = concept.to(output)[None]
        return torch.cat([output[:, :start], rows, output[:, start + rows.shape[1] :]], 1)

    handle = table.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _parts(template: str) -> tuple[str, str]:
    before, _, after = template.partition("{}")
    return before.strip(), after.strip()
