"""The images of a run that a user wants to have made again, such as "Bag/3"."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dap.data.manifest import counts_in, read_manifest
from dap.data.names import some
from dap.errors import OptionError

__all__ = ["slots_to_remake"]


def slots_to_remake(out: Path, wanted: str | Collection[str]) -> dict[str, list[int]]:
    """Return the slots that ``remake`` names, by class.

    Args:
        out: The folder of the run.
        wanted: "CLASS/NUMBER" for one slot, "CLASS" for all of a class.

    Raises:
        OptionError: There is no run, or it has no such class or slot.
        FormatError: The manifest is damaged.
    """
    texts = [wanted] if isinstance(wanted, str) else list(wanted)
    if not texts:
        return {}
    manifest = read_manifest(out)
    if manifest is None:
        raise OptionError(f"remake: {out} holds no run whose images could be made again; leave it out")
    names = [entry["name"] for entry in manifest["class_map"]]
    counts = dict(zip(names, counts_in(manifest), strict=True))
    slots: dict[str, set[int]] = {}
    for text in texts:
        name, _, digits = text.rpartition("/") if isinstance(text, str) else ("", "", "")
        single = name in counts and digits.isdecimal() and len(digits) < 10
        if single == (text in counts):  # neither, or a class is called as a slot of another is
            raise OptionError(
                f"remake: expected CLASS/NUMBER, such as {names[0] + '/0'!r}, or CLASS, of the classes {some(names)}, "
                f"got {text!r}"
            )
        if single and int(digits) >= counts[name]:
            raise OptionError(f"remake: class {name!r} has images 0 to {counts[name] - 1}, got {text!r}")
        slots.setdefault(name if single else text, set()).update([int(digits)] if single else range(counts[text]))
    return {name: sorted(slots[name]) for name in names if name in slots}
