"""Checks of the options of priors: all of them before the weights are loaded, and each one by the class that has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dap.config import check_number, check_path, check_whole
from dap.errors import FormatError, OptionError
from dap.storage.checked_json import TEXT, mapping, read_json

__all__ = [
    "check_class_names", "check_concepts", "check_learned_variance", "check_negative_prompt", "check_options",
    "check_template", "read_prompts",
]  # fmt: skip


def check_options(options: Mapping[str, Any]) -> None:
    """Raise unless each option has a value that a prior can have; the class of the prior checks what depends on it.

    Raises:
        OptionError: A value of another kind.
        FormatError: A file of prompts that cannot be read.
    """
    for name, value in options.items():
        if name in CHECKS and value is not None:
            CHECKS[name](value)


def check_template(template: object) -> None:
    """Raise OptionError unless a template is text with one ``{}``."""
    if not isinstance(template, str) or template.count("{}") != 1:
        raise OptionError(f"template: expected text with one {{}} for the class's name, got {template!r}")


def check_negative_prompt(prompt: object) -> None:
    """Raise OptionError unless a negative prompt is text or None."""
    if not isinstance(prompt, str | None):
        raise OptionError(f"negative_prompt: expected text, or none, got {prompt!r}")


def check_learned_variance(value: object) -> None:
    """Raise OptionError unless it is true or false."""
    if not isinstance(value, bool):
        raise OptionError(f"learned_variance: expected true or false, got {value!r}")


def check_class_names(names: object) -> None:
    """Raise OptionError unless they are a list of texts."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise OptionError(f"class_names: expected a list of names, got {names!r}")


def check_concepts(concepts: object) -> None:
    """Raise OptionError unless they are tensors by class name, or a folder's path."""
    fits = isinstance(concepts, Mapping) and all(isinstance(concept, Tensor) for concept in concepts.values())
    if not fits and not isinstance(concepts, str | Path):
        raise OptionError(f"concepts: expected tensors (V, D) by class name, or a folder of them, got {concepts!r}")


def read_prompts(prompts: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    """Return prompts by class name: those given, or those of a JSON file.

    Raises:
        OptionError: They are neither text by name nor a path.
        FormatError: The file cannot be read.
    """
    if not isinstance(prompts, str | Path):
        prompts = {} if prompts is None else prompts
        if not isinstance(prompts, Mapping) or not all(
            isinstance(part, str) for pair in prompts.items() for part in pair
        ):
            raise OptionError(f"prompts: expected text by class name, or a JSON file of it, got {prompts!r}")
        return dict(prompts)
    try:
        by_name: dict[str, str] = read_json(check_path("prompts", prompts), mapping(TEXT))
    except (FileNotFoundError, FormatError) as error:
        raise FormatError(f"{prompts}: expected JSON with a prompt by class name ({error})") from error
    return by_name


CHECKS: Mapping[str, Callable[[Any], object]] = {
    "template": check_template,
    "prompts": read_prompts,
    "negative_prompt": check_negative_prompt,
    "concepts": check_concepts,
    "guidance": lambda value: check_number("guidance", value, 0),
    "learned_variance": check_learned_variance,
    "guided_channels": lambda value: check_whole("guided_channels", value),
    "class_names": check_class_names,
}
