"""``dap slurm``: a job script for SLURM."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from dap.cli.command import Command
from dap.errors import OptionError

__all__ = ["slurm"]

GRACE = 120  # seconds before the time limit at which a task is asked to end; it takes at most 20 of them
TIME = re.compile(r"(\d+-)?\d+(:\d{1,2}){0,2}")
ARRAY = re.compile(r"[0-9][0-9,\-:%]*")

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=dap
#SBATCH --array={array}
#SBATCH --time={time}
{more}#SBATCH --signal=B:USR1@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=dap-%A_%a.log

# Each task of the array is a worker of one run: the folder says which units are left. The batch shell gets USR1
# before the time limit and passes it on; dap then ends with exit code 75, and the task is queued again.
cd {folder}
{command} &
process=$!
trap 'kill -USR1 "$process"' USR1
trap 'kill -TERM "$process"' TERM
wait "$process"
while kill -0 "$process" 2>/dev/null; do  # a signal has ended the wait
  wait "$process"
done
wait "$process"  # its exit code, also if it ended while a signal was passed on
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    examples=[
        "dap slurm --array 0-63 --gres gpu:1 --time 4:00:00 -- dap distill imagenet/train --out distilled > job.sh",
    ],
)
@click.option("--array", default="0-7", show_default=True, help="Task numbers, each a worker, as in sbatch.")
@click.option("--time", default="4:00:00", show_default=True, help="Time limit of a task, as in sbatch.")
@click.option("--gres", metavar="GPUS", help='GPUs of a task, such as "gpu:1" or "gpu:h100:1", as in sbatch.')
@click.option("--cpus-per-task", type=int, help="CPUs of a task, as in sbatch.")
@click.option("--mem", help='Memory of a task, such as "32G", as in sbatch.')
@click.option("--partition", help="Partition, as in sbatch.")
@click.option("--account", help="Account, as in sbatch.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- dap distill ...")
def slurm(array: str, time: str, command: tuple[str, ...], **more: str | int | None) -> None:
    """Prints a job script for SLURM whose tasks make one run together: dap slurm ... -- dap distill ... > job.sh.

    Two minutes before its time limit a task is asked to end and is queued again. It finishes the unit that it is at, or
    drops it after 20 seconds.
    """
    if command[0] == "dap":
        command = command[1:]
    if command[:1] != ("distill",):
        raise OptionError(
            f"expected the command of a run after --, such as -- dap distill imagenet/train --out distilled, got "
            f"{shlex.join(command)!r}"
        )
    for name in ("--workers", "--executor", "--remake"):
        if any(word == name or word.startswith(f"{name}=") for word in command):
            raise OptionError(f"{name} does not go with SLURM's tasks, each of which is one worker: leave it out")
    if not TIME.fullmatch(time):
        raise OptionError(f"--time: expected minutes, hours:minutes:seconds or days-hours, got {time!r}")
    if not ARRAY.fullmatch(array):
        raise OptionError(f"--array: expected task numbers such as 0-63, 0-63%8 or 0,2,5, got {array!r}")
    lines = [f"#SBATCH --{name.replace('_', '-')}={value}\n" for name, value in more.items() if value is not None]
    for line in lines:
        if len(line.split()) != 2:
            flag, _, value = line.removeprefix("#SBATCH ").removesuffix("\n").partition("=")
            raise OptionError(f"{flag}: expected one word, got {value!r}")
    click.echo(
        SCRIPT.format(
            array=array, time=time, more="".join(lines), grace=GRACE, folder=shlex.quote(str(Path.cwd())),
            command=shlex.join(["dap", *command]),
        ),
        nl=False,
    )  # fmt: skip
