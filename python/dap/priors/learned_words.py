"""Learned words: token embeddings v* that stand in a prompt for what a text encoder has no word for.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion", ICLR 2023,
arXiv 2208.01618. A concept is V vectors of the encoder's token embedding, put in the place of ``{}`` of a template.
They are kept as diffusers keeps them, one safetensors file a concept, which ``pipeline.load_textual_inversion`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dap.data.names import escape, unescape
from dap.errors import FormatError, OptionError, SourceError

__all__ = ["concept_file", "encode_concept", "initial_concept", "read_concepts"]

SUFFIX = ".safetensors"


def encode_concept(pipeline: Any, template: str, concept: Tensor) -> Tensor:
    """Hidden states of a prompt with a concept in it; with gradients enabled they carry the graph to the concept.

    Args:
        pipeline: With ``tokenizer`` and ``text_encoder``.
        template: A prompt with ``{}`` in the concept's place.
        concept: float (V, D).

    Returns:
        (tokens, width), in the encoder's dtype.

    Raises:
        OptionError: The prompt is longer than the encoder reads.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    before, after = ([int(i) for i in tokenizer(part, add_special_tokens=False).input_ids] for part in _parts(template))
    start, count = 1 + len(before), len(concept)
    words = [tokenizer.bos_token_id, *before, *[tokenizer.unk_token_id] * count, *after, tokenizer.eos_token_id]
    if len(words) > tokenizer.model_max_length:
        raise OptionError(
            f"prompt {template!r}: has {len(words)} tokens with its concept, the text encoder reads "
            f"{tokenizer.model_max_length}; shorten it"
        )
    padded = tokenizer.pad({"input_ids": [words]}, padding="max_length", max_length=tokenizer.model_max_length,
                           return_tensors="pt").to(encoder.device)  # fmt: skip
    uses_mask = getattr(encoder.config, "use_attention_mask", False)
    with _spoken(encoder.get_input_embeddings(), start, concept):
        states: Tensor = encoder(padded.input_ids, attention_mask=padded.attention_mask if uses_mask else None)[0]
    return states[0]


@torch.no_grad()
def initial_concept(pipeline: Any, text: str, vectors: int) -> Tensor:
    """The token embeddings of a text, float32 (vectors, D): its first ones, or as often as it takes."""
    tokenizer, table = pipeline.tokenizer, pipeline.text_encoder.get_input_embeddings()
    words = tokenizer(text, add_special_tokens=False).input_ids or [tokenizer.eos_token_id]
    chosen = [words[number % len(words)] for number in range(vectors)]
    embedded: Tensor = table(torch.tensor(chosen, device=table.weight.device))
    return embedded.float()


def concept_file(name: str, concept: Tensor) -> tuple[str, bytes]:
    """File name and content of a class's concept: ``{name: (V, D)}`` as diffusers' textual inversion has it."""
    return escape(name) + SUFFIX, save({name: concept.detach().float().cpu().contiguous()})


def read_concepts(concepts: Mapping[str, Tensor] | str | Path | None) -> dict[str, Tensor]:
    """Concepts by class name, as they are or from a folder of files; the file's name is the class's.

    Raises:
        SourceError: There is no such folder, or no concept in it.
        FormatError: A file is not a single tensor (V, D).
    """
    if not isinstance(concepts, str | Path):
        return dict(concepts or {})
    files = sorted(Path(concepts).glob(f"*{SUFFIX}"))
    if not files:
        raise SourceError(f"{concepts}: expected a folder of concepts, one {SUFFIX} file a class, and there is none")
    found = {}
    for file in files:
        try:
            (tensor,) = load(file.read_bytes()).values()
        except (SafetensorError, ValueError) as error:
            raise FormatError(
                f"{file}: expected one tensor, as diffusers saves a textual inversion ({error})"
            ) from error
        if tensor.dim() not in (1, 2) or not tensor.is_floating_point():
            raise FormatError(f"{file}: expected floats (vectors, D), got {tensor.dtype} {tuple(tensor.shape)}")
        found[unescape(file.name.removesuffix(SUFFIX))] = tensor.float().reshape(-1, tensor.shape[-1])
    return found


@contextmanager
def _spoken(table: nn.Module, start: int, concept: Tensor) -> Iterator[None]:
    """While the encoder runs, its token embeddings from ``start`` on are the concept's."""

    def put(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        own = concept.to(output)[None]
        return torch.cat([output[:, :start], own, output[:, start + own.shape[1] :]], 1)

    handle = table.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _parts(template: str) -> tuple[str, str]:
    before, _, after = template.partition("{}")
    return before.strip(), after.strip()
