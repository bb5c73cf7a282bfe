"""The local executor: prepares the method, makes the missing units one after the other, and ranks the slots.

Other processes may execute the same job in the same folder. What only one may do is done in turn: beginning the run
with its first preparation, and finishing it. The units are shared out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dap.callbacks import Callback, MadeUnit
from dap.errors import DapError, FormatError, OptionError, StoppedError, StorageError
from dap.methods import Context, Method, Unit
from dap.run.batch import ShortMemoryError
from dap.run.energies import Energies
from dap.run.folder import RunFolder
from dap.run.job import Job
from dap.run.memory import head
from dap.run.progress import Progress
from dap.run.sharing import note_failure, raise_failures, units_to_make
from dap.run.slot_order import rank_slots
from dap.sampling import StepCallback
from dap.short_memory import is_short_memory, memory_for
from dap.storage.claims import Claims
from dap.storage.waiting import waiting_for
from dap.torch_state import own_torch_state

__all__ = ["execute"]

A = TypeVar("A")

SAY = 30.0  # seconds between two lines of a process without bars

logger = logging.getLogger(__name__)


def execute(
    job: Job, out: Path, claims: Claims, *, batch_size: int | None = None,
    remake: Mapping[str, Sequence[int]] | None = None, max_retries: int = 2, progress: bool = True,
    callback_on_step_end: StepCallback | None = None, callbacks: Sequence[Callback] = (),
) -> None:  # fmt: skip
    """Make what is missing in the folder of a job, together with other processes, until it is finished.

    Args:
        job: The run.
        out: Its output folder.
        claims: This process among those that work on the run.
        batch_size: See :class:`RunFolder`.
        remake: See :class:`RunFolder`.
        max_retries: How often a unit that failed is tried again.
        progress: Show progress bars.
        callback_on_step_end: The user's callback; see :func:`dap.distill`.
        callbacks: The user's callbacks; see :func:`dap.distill`.

    Raises:
        DapError: What the method raises; with a callback, whatever is raised ends the run at once. Before the
            preparation has ended, nothing is written to the folder.
    """
    too_many: int | None = None

    def opened() -> RunFolder:
        return RunFolder(
            out, job, batch_size=batch_size, remake=remake, worker=claims.name, checked=bool(claims.others()),
            too_many=too_many,
        )  # fmt: skip

    with own_torch_state(tf32=job.tf32):
        steps = [callback_on_step_end] if callback_on_step_end else []
        bars = Progress(shown=progress, callbacks=[*steps, *(callback.on_step_end for callback in callbacks)])
        retries = None if steps or callbacks else max_retries
        try:
            while True:
                try:
                    _Executor(job.recipe, job, out, claims, bars, opened, callbacks, retries).run(batch_size is None)
                    break
                except ShortMemoryError as error:
                    too_many = error.at_once
                logger.warning("%s: too little memory for %d images at once, half as many are made", out, too_many)
        finally:
            for callback in callbacks:
                callback.on_run_end()


class _Prepared(NamedTuple, Generic[A]):
    """What a method has prepared, what it says about it and the slots, and the files that it keeps next to the images.

    It took some seconds, and depends on what the folder of the run says.
    """

    artefact: A
    record: Mapping[str, object]
    weights: Mapping[str, Sequence[float]]
    files: Mapping[str, bytes]
    seconds: float
    depends: tuple[int | None, int, str]


class _Executor(Generic[A]):
    """One process that executes a job; the arguments are those of :func:`execute`."""

    def __init__(
        self, recipe: Method[A], job: Job, out: Path, claims: Claims, bars: Progress, opened: Callable[[], RunFolder],
        callbacks: Sequence[Callback], retries: int | None,
    ) -> None:  # fmt: skip
        self._recipe, self._job, self._out = recipe, job, out
        self._claims, self._bars, self._opened, self._retries = claims, bars, opened, retries
        self._callbacks = callbacks
        self._prepared: _Prepared[A] | None = None

    def run(self, may_shrink: bool) -> None:
        """Make what is missing.

        Args:
            may_shrink: Whether the batch size may become smaller.

        Raises:
            ShortMemoryError: The memory is too short for the first units, and no other process works on the run.
        """
        folder, prepared = self._begin()
        if prepared is None:  # it is complete
            return
        self._make(folder, prepared.artefact, may_shrink)
        while not folder.complete:
            with self._claims.turn("finish", waiting_for(self._out, "to finish the run")):
                folder.refresh()
                if not folder.complete:
                    with memory_for("to rank the images"):
                        rank_slots(self._recipe, self._context(folder), prepared.artefact, folder)
                    if self._claims.holds("finish"):
                        folder.finish()
                        self._claims.clear()

    def _begin(self) -> tuple[RunFolder, _Prepared[A] | None]:
        """Return the folder of a run that has begun, with what the method has prepared; None where it is complete.

        The first process writes the manifest when the method is prepared. The others prepare it too meanwhile: what
        takes long is shared out, or made once, in the cache.
        """
        claims, begun = self._claims, False
        say, helps = waiting_for(self._out, "to prepare the run"), True
        failed: DapError | None = None

        def wait(worker: str) -> None:
            nonlocal helps, failed
            say(worker)
            if helps:
                helps = False
                try:
                    self._prepare(self._opened())
                except StoppedError:
                    raise
                except (FormatError, OptionError) as error:  # that of the first process too
                    failed = error
                except Exception:  # the first process may have more luck, or says it
                    logger.debug("%s: could not help to prepare the run", self._out, exc_info=True)

        while not begun:
            with claims.turn("begin", wait):
                folder = self._opened()
                if folder.complete:
                    folder.finish()
                    claims.clear()
                    return folder, None
                if not folder.begun:
                    if others := claims.others():
                        raise _busy(self._out, others[0])
                    if failed is not None:
                        raise failed
                    try:
                        claims.note("preparing")
                        if logger.isEnabledFor(logging.INFO):
                            logger.info("%s", head(self._job, len(folder.units), folder.at_once))
                        prepared = self._prepare(folder)
                        if claims.holds("begin"):
                            folder.begin(prepared.record, prepared.weights, prepared.files)
                            return folder, prepared
                    finally:
                        claims.note("begun" if folder.begun else "")
                begun = folder.begun
                if begun:
                    folder.state.keep_states()
                claims.note("preparing" if begun else "")
        prepared = self._prepare(folder)
        folder.set_record(prepared.record, prepared.weights)
        return folder, prepared

    def _prepare(self, folder: RunFolder) -> _Prepared[A]:
        depends = folder.pass_size, folder.batch_size, folder.latent_dtype
        if self._prepared is None or self._prepared.depends != depends:
            context, start = self._context(folder), time.monotonic()
            recipe = self._recipe
            with memory_for(f"to prepare method {recipe.name!r}"):
                artefact = recipe.prepare(context)
                seconds = time.monotonic() - start
                said = (
                    recipe.record(context, artefact),
                    recipe.weights(context, artefact),
                    recipe.files(context, artefact),
                )
            self._prepared = _Prepared(artefact, *said, seconds, depends)
        folder.state.add_seconds("prepare", self._prepared.seconds)
        return self._prepared

    def _make(self, folder: RunFolder, artefact: A, may_shrink: bool) -> None:
        """Make units until none is missing.

        Raises:
            UnitError: Some could not be made.
            ShortMemoryError: See :meth:`run`.
        """
        per_slot = self._recipe.steps_per_slot(self._context(folder))
        steps = {unit.index: len(unit.slots) * per_slot for unit in folder.missing()}
        with self._bars.making(f"{self._recipe.name}, {folder.in_words}", sum(steps.values())) as (on_step, move):
            energies = Energies()
            context = self._context(folder, energies.watching(on_step))
            retries = self._retries or 0
            units = units_to_make(folder, self._claims, list(steps), lambda number: move(steps[number]), retries)
            said = time.monotonic()
            with closing(units):
                for unit in units:
                    start = time.monotonic()
                    energies.take()  # of a unit that failed
                    try:
                        images = self._images(context, unit, artefact)
                    except Exception as error:
                        if self._retries is None:  # the user's callback may have raised it
                            with memory_for("to make images"):
                                raise
                        if may_shrink and is_short_memory(error) and self._may_begin_again(folder):
                            raise ShortMemoryError(folder.at_once) from None
                        note_failure(folder, unit, error, retries)
                        continue
                    seconds = time.monotonic() - start
                    folder.state.add_seconds("make", seconds)
                    folder.add(unit, images, torch.get_num_threads(), energies.take())
                    if not self._bars.shown and time.monotonic() - said > SAY:
                        left = sum(1 for _ in folder.missing())
                        logger.info(
                            "%s: %d of %d units are there", self._out, len(folder.units) - left, len(folder.units)
                        )
                        said = time.monotonic()
                    for callback in self._callbacks:
                        callback.on_unit_end(MadeUnit(self._names(unit), list(images), seconds))
        raise_failures(folder, retries)

    def _may_begin_again(self, folder: RunFolder) -> bool:
        return folder.at_once > 1 and not folder.has_images and not self._claims.others()

    def _images(self, context: Context, unit: Unit, artefact: A) -> Iterable[Tensor]:
        made = self._recipe.make(context, unit, artefact)
        if not isinstance(made, Tensor):
            return list(made)
        return self._job.prior.decode(made) if made.is_floating_point() else made

    def _names(self, unit: Unit) -> tuple[str, ...]:
        return tuple(f"{self._job.classes[slot.class_index].name}/{slot.number}" for slot in unit.slots)

    def _context(self, folder: RunFolder, on_step: StepCallback | None = None) -> Context:
        return self._job.context(
            self._bars, on_step, pass_size=folder.pass_size, batch_size=folder.batch_size,
            latent_dtype=folder.latent_dtype,
        )  # fmt: skip


def _busy(out: Path, worker: str) -> StorageError:
    return StorageError(
        f"{out}: another process ({worker}) makes the run that is there, and this call would change it: wait until it "
        "ends, or choose another folder"
    )
