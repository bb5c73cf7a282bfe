"""The line that ``dap distill`` prints before it starts, and the commands that it names at its end."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

__all__ = ["next_commands", "plan_text"]


def plan_text(
    ipc: int | Mapping[str, int], classes: Collection[str], method: str, prior: str | None, seed: int, out: Path
) -> str:
    """Return what a run will make, in one line.

    Args:
        ipc: Images per class, or of each class.
        classes: Names of the classes of the run.
        method: Name of the method.
        prior: Name of the prior; None: the method uses none.
        seed: Root seed.
        out: The output folder.

    Example:
        >>> plan_text(2, ["cat", "dog"], "dap_set", "fashion-dit", 0, Path("out"))
        '4 images (2 of each of 2 classes) by dap_set with the prior fashion-dit, seed 0, into out'
    """
    counts = [ipc] * len(classes) if isinstance(ipc, int) else list(ipc.values())
    number = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    with_what = "without a prior" if prior is None else f"with the prior {prior}"
    return (
        f"{sum(counts)} images ({number} of each of {len(counts)} class{'es' if len(counts) > 1 else ''}) by {method} "
        f"{with_what}, seed {seed}, into {out}"
    )


def next_commands(source: str | None, out: Path) -> list[str]:
    """Return the commands that make sense after a run.

    Args:
        source: The real images, as they were given; None: only their index was.
        out: The folder of the run.

    Example:
        >>> next_commands("my photos", Path("out"))
        ["dap report out --real 'my photos'", "dap metrics out --real 'my photos'"]
    """
    from dap.data.builtin import BUILTIN  # here, since it imports Pillow

    if source is None:
        return []
    if source in BUILTIN:
        evaluate = ["dap", "evaluate", str(out), "--test", source, "--judge"]
        return [shlex.join(["dap", "report", str(out)]), shlex.join(evaluate)]
    return [shlex.join(["dap", command, str(out), "--real", source]) for command in ("report", "metrics")]
