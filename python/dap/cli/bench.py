"""``dap bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dap.errors import OptionError

if TYPE_CHECKING:
    from dap.bench.fields import Case

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measures dap beside what its users would pick instead."""


@bench.command()
@click.option(
    "--quick", is_flag=True, help="Small sizes, 3 rounds, nothing that compiles: tries the bench, measures nothing."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Timed calls of each contender; 9 if left out.")
@click.option("--threads", type=click.IntRange(min=1), multiple=True, help="Threads of every contender. Repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write one row for each contender.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw the ratios: a .png, .svg or .pdf file.")
def kernels(
    quick: bool, rounds: int | None, threads: tuple[int, ...], json_file: Path | None, plot: Path | None
) -> None:
    """Times kernel reductions: dap, torch, torch.compile, numpy, scikit-learn, SciPy, KeOps and faiss.

    Contenders take turns in one process, forwards and backwards; each result is checked. About a quarter of an hour on
    two idle cores.
    """
    import json

    from dap.bench.cases import list_cases
    from dap.bench.kernels import describe_machine, measure, measure_memory
    from dap.bench.plot import check_format, draw
    from dap.bench.tables import case_table, memory_line, ratio_table
    from dap.storage.files import write_atomic

    for option, file in (("--json", json_file), ("--plot", plot)):
        if file and not file.absolute().parent.is_dir():
            raise OptionError(f"{option} {file}: there is no folder {file.absolute().parent}")
    if plot:
        check_format(plot.suffix[1:])
    cases = list_cases(quick, threads)
    click.echo(" · ".join(f"{name} {value}" for name, value in describe_machine().items()))
    rows = []
    for case in cases:
        rows += (measured := measure(case, rounds or (3 if quick else 9), with_compiled=not quick))
        click.echo(f"\n{case_table(measured)}")
    rows.append(measure_memory(cases[0].threads, quick))
    click.echo(f"\n## dap beside the best rival\n\n{ratio_table(rows)}\n\n{memory_line(rows[-1])}")
    if json_file:
        write_atomic(json_file, f"{json.dumps(rows, indent=1, allow_nan=False)}\n".encode())
    if plot:
        write_atomic(plot, draw(rows, plot.suffix[1:]))


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a bench whose cases are fields of contenders."""
    options = (
        click.option("--quick", is_flag=True, help="Small sizes, 3 rounds: tries the bench, measures nothing."),
        click.option("--rounds", type=click.IntRange(min=1), help="Timed calls of each contender; 9 if left out."),
        click.option("--threads", type=click.IntRange(1), multiple=True, help="Threads of all. Repeatable."),
        click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write rows."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@bench.command()
@_fields
def selection(quick: bool, rounds: int | None, threads: tuple[int, ...], json_file: Path | None) -> None:
    """Times nearest rows, k-means, herding and reads of the index: dap, faiss, scikit-learn and torch.

    Contenders take turns in one process, forwards and backwards; each result is checked. Minutes on two idle cores.
    """
    from dap.bench.selection import list_selection_cases

    _run(list_selection_cases(quick, threads), rounds or (3 if quick else 9), json_file)


@bench.command()
@_fields
def packing(quick: bool, rounds: int | None, threads: tuple[int, ...], json_file: Path | None) -> None:
    """Times images, shards and batches: dap, Pillow, torchvision, OpenCV, webdataset and DataLoaders.

    Contenders take turns in one process, forwards and backwards; each result is checked. Minutes on two idle cores.
    """
    try:
        from dap.bench.packing import list_packing_cases
    except ImportError as error:
        raise OptionError(f"{error}: pip install 'dap-distill[bench]'") from error

    _run(list_packing_cases(quick, threads), rounds or (3 if quick else 9), json_file)


def _run(cases: Sequence[Case], rounds: int, json_file: Path | None) -> None:
    import json

    from dap.bench.fields import field_table, measure_field
    from dap.bench.kernels import describe_machine
    from dap.storage.files import write_atomic

    if json_file and not json_file.absolute().parent.is_dir():
        raise OptionError(f"--json {json_file}: there is no folder {json_file.absolute().parent}")
    click.echo(" · ".join(f"{name} {value}" for name, value in describe_machine().items()))
    rows = []
    for case in cases:
        rows += (measured := measure_field(case, rounds))
        click.echo(f"\n{field_table(measured)}")
    if json_file:
        write_atomic(json_file, f"{json.dumps(rows, indent=1, allow_nan=False)}\n".encode())
