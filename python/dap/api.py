"""dap.distill, and the other public functions from their own modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dap.callbacks import Callback
from dap.config import check_choice, check_number, check_path, check_whole
from dap.data.classmap import LabelMap
from dap.data.ipc import Ipc
from dap.data.open import SourceLike, check_outside
from dap.data.remake import slots_to_remake
from dap.dataset import DistilledDataset
from dap.errors import OptionError
from dap.evaluating import evaluate
from dap.evaluation import check_teacher, open_teacher, train_teacher
from dap.index import Index, open_index
from dap.indexing import build_index
from dap.loading import load
from dap.measuring import measure
from dap.methods import AnyGuide, AnyMethod, get_method
from dap.planning import plan
from dap.priors import PriorLike
from dap.run import SHEET, Rank, Request, execute, own_device, own_rank, resolve, worker_processes
from dap.run.ray_actors import ray_actors
from dap.stopping import time_limit
from dap.storage.cache import cache_in_use
from dap.storage.claims import Claims
from dap.storage.files import SHARED, atomic_path, check_writable
from dap.storage.lock import folder_lock
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from dap.features import Encoder
    from dap.sampling import StepCallback

__all__ = [
    "build_index", "check_teacher", "distill", "evaluate", "load", "measure", "open_index", "open_teacher", "plan",
    "train_teacher",
]  # fmt: skip


@own_torch_state()
@cache_in_use()
def distill(
    source: SourceLike | None = None,
    *,
    out: str | Path,
    prior: PriorLike = "fashion-dit",
    prior_options: Mapping[str, object] | None = None,
    method: str | AnyMethod | AnyGuide = "dap_set",
    method_options: Mapping[str, object] | None = None,
    ipc: Ipc = 10,
    seed: int = 0,
    index: str | Path | Index | None = None,
    classes: Collection[str] | None = None,
    label_map: LabelMap | None = None,
    batch_size: int | None = None,
    sampling: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    scheduler: str | None = None,
    timestep_spacing: str | None = None,
    eta: float | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tf32: bool = False,
    features: str | Encoder | None = None,
    features_options: Mapping[str, object] | None = None,
    size: int | None = None,
    channels: str | None = None,
    remake: str | Collection[str] = (),
    workers: int = 1,
    executor: str = "local",
    address: str | None = None,
    max_time: float | None = None,
    max_retries: int = 2,
    callback_on_step_end: StepCallback | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> DistilledDataset:
    """Distil a labelled image dataset into ``ipc`` images per class.

    Writes ``out/train/<class>/<slot>.png``, ``out/dap.json`` and ``out/contact_sheet.png``. The same call continues a
    run that was stopped, after checking the files that are there. With a larger ``ipc`` it adds images, if the method
    makes each image by itself; with more ``classes`` it adds these, if the method makes each class by itself. The same
    source, prior, options and seed give the same bytes. Any number of processes may make the same call at once, on any
    machines that share the folder: each unit of images is made by one of them (docs/runs.md).

    Args:
        source: Real images: a class-per-folder tree, a built-in name ("fashion-mini"), a torch ``Dataset``, a Hugging
            Face dataset or its id; see :func:`dap.open_source`. It may be left out if ``index`` is given.
        out: The folder to fill: new, empty, or of the same run.
        prior: "fashion-dit"; a folder, hub id or object of one of the diffusers pipelines that
            :func:`dap.priors.load_prior` lists; the folder of an adapter (:func:`dap.adapt_prior`); or a
            :class:`dap.priors.Prior`.
        prior_options: Options of the prior's class by name, such as ``template`` and ``negative_prompt`` of
            :class:`dap.priors.stable_diffusion.StableDiffusionPrior`; not allowed with a ``Prior`` object.
        method: Name ("dap_set", "dap", "dit"; see :func:`dap.list_methods`), preset ("dap:paper"), object
            (``dap.methods.DAP(scale=0.3)``), or terms (``dap.terms.SetEnergy() + dap.terms.KernelDistance()``).
        method_options: Options of the method by name; only if ``method`` is a name.
        ipc: Images per class, at least 1; or a mapping from the name of each class to its number.
        seed: Root of all randomness.
        index: A feature index (:func:`build_index`) with the features of the real images; guidance then acts at the
            steps that the index has. It has to fit the prior, the method's options, the schedule, and the source if one
            is given. If left out, a method that needs one makes its own in the cache (``$DAP_CACHE``).
        classes: Names of the classes to distil; all, or those of the index, if left out.
        label_map: Labels for classes that the prior does not know, by the class's name: the name or id of one of the
            prior's labels, or None for the null condition, so that only guidance leads to the class. No two classes may
            share a label. (A prior that takes text has prompts instead.)
        batch_size: Slots made together; as many as fit the memory, at most 100, if left out. Another batch size changes
            pixels by at most one grey level.
        sampling: "dit-repo": sample as the DiT repository does, from which the methods for DiT-XL/2 started: 50 of its
            1,000 timesteps with both ends, "ddpm" with the variance that the network predicts, guidance 4 on the first
            three latent channels, no clipping. "mgd3-sd": as MGD3 samples with Stable Diffusion. "coda-sdxl": as CoDA
            samples with SDXL. See :mod:`dap.sampling.named`. Options that are given too replace its own. If left out,
            the prior's recommendations are taken.
        num_inference_steps: Denoising steps; the prior's recommendation, or 50, if left out.
        guidance_scale: Scale of classifier-free guidance, at least 1; the prior's recommendation, or 4, if left out.
        scheduler: "ddpm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-ancestral", "heun" or "lcm"; the prior's own
            if left out.
        timestep_spacing: How the steps lie in the schedule: "leading", "linspace" or "trailing"; as in the prior's
            scheduler if left out.
        eta: DDIM's η, 0 to 1.
        device: Where the prior runs; the GPU, if there is one, if left out.
        dtype: Data type in which the prior computes, such as "bfloat16"; float32 if left out. Its first stage (VAE)
            computes in float32, unless ``prior_options={"vae_dtype": "bfloat16"}`` says otherwise.
        tf32: Let a GPU multiply float32 numbers with the ten fraction bits of TF32. CPUs ignore it.
        features: What methods that choose real images compare: "pixels", "vae", "prior", a model of timm by name, or a
            :class:`dap.features.Encoder`. If left out, "prior" if the prior knows all classes and makes
            images of the source's channels, else "pixels".
        features_options: Options of the features by name, such as "size", "pretrained" and "weights" of timm's models.
        size: Side in pixels to which real images are cropped; their own size if left out.
        channels: "grey" or "rgb": convert images. If left out, the prior has to make images of the source's channels.
        remake: Images of a finished run to make again with other random numbers: "Bag/3" is number 3 of class "Bag",
            "Bag" all of them. The others keep their bytes. Where a method couples the images of a class, the new one is
            sampled together with the random numbers of the others. The manifest records what was made again.
        workers: Processes of this machine that make the run together, with this one; each on a GPU of its own if there
            are several. Their source, prior and method have to pickle, as names and paths do.
        executor: "local", or "ray": the run is made by actors of a Ray cluster, whose machines share the folder. There
            are as many as ``workers`` says, or if that is 1 one for each GPU, or each machine of a cluster without. An
            actor that dies is started again. Needs the extra "ray".
        address: Of the Ray cluster, such as "auto"; if left out, Ray is started on this machine.
        max_retries: How often images that could not be made are tried again, after all others; then the run ends with
            an error that names them.
        max_time: Seconds after which the run ends with the unit that it is at, by a StoppedError; the same call
            continues it. Never, if left out.
        callback_on_step_end: As in diffusers: ``callback(prior, step, timestep, {"latents": x}) -> dict``, where
            ``prior.pipeline`` is the pipeline; see :meth:`dap.callbacks.Callback.on_step_end`.
        callbacks: Objects of :mod:`dap.callbacks`, such as ``dap.callbacks.TensorBoard("logs")``.
        progress: Show a progress bar.

    Returns:
        The distilled dataset.

    Raises:
        DapError: A subclass of it, for a bad option, source, prior or output folder; nothing is left behind.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", ipc=10, out="distilled")  # doctest: +SKIP
    """
    request = Request(
        source=source, prior=prior, prior_options=prior_options, method=method, method_options=method_options, ipc=ipc,
        seed=seed, index=index, classes=classes, label_map=label_map, sampling=sampling,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, scheduler=scheduler,
        timestep_spacing=timestep_spacing, eta=eta, device=device, dtype=dtype, tf32=tf32, features=features,
        features_options=features_options, size=size, channels=channels,
    )  # fmt: skip
    workers, rank = check_whole("workers", workers), own_rank()
    max_retries = check_whole("max_retries", max_retries, 0)
    if max_time is not None:
        check_number("max_time", max_time, 0)
    if workers > 1 and rank.world > 1:
        raise OptionError(f"workers: torchrun or SLURM has started {rank.world} processes already; leave it out")
    if workers > 1 and (callback_on_step_end is not None or callbacks):
        raise OptionError("workers: other processes cannot call your callbacks; leave one of the two out")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise OptionError(f"callbacks: expected objects of dap.callbacks.Callback, got {callback!r}")
    if remake and max(workers, rank.world) > 1:
        raise OptionError("remake: only one process can make images again; leave workers out, and start it once")
    check_choice("executor", executor, ("local", "ray"))
    on_ray = executor == "ray"
    if on_ray and (rank.world > 1 or remake or callback_on_step_end is not None or callbacks):
        raise OptionError("executor 'ray': not with torchrun, SLURM's tasks, remake or callbacks")
    if address is not None and not on_ray:
        raise OptionError(f"address={address!r} is that of a Ray cluster: give executor='ray' too")
    if workers > 1:  # the others may not have imported the module that registers the method
        rank = Rank(0, 0, workers)
        request = replace(request, method=get_method(method, method_options), method_options=None)
    out = check_path("out", out)
    check_writable(out)
    check_outside(out, source)
    with time_limit(max_time), folder_lock(out, shared=True), Claims(out / SHARED) as claims:
        slots = slots_to_remake(out, remake)
        if on_ray:
            shared = out.absolute()
            count = workers if workers > 1 else None
            ray_actors(count, address, shared, _help, request, shared, batch_size, max_time, max_retries)
        else:
            with worker_processes(workers, _help, request, out, batch_size, max_time, max_retries):
                job = resolve(replace(request, device=own_device(request.device, rank)))
                execute(
                    job, out, claims, batch_size=batch_size, remake=slots, max_retries=max_retries,
                    progress=progress and rank.number == 0, callback_on_step_end=callback_on_step_end,
                    callbacks=callbacks,
                )  # fmt: skip
        if workers > 1 or on_ray:
            claims.clear()  # of those that came late, and were ended with their work
        distilled = load(out)
        if not (out / SHEET).exists():
            with atomic_path(out / SHEET) as temporary:
                distilled.show().save(temporary, format="PNG")
    return distilled


@own_torch_state()
@cache_in_use()
def _help(
    rank: Rank, request: Request, out: Path, batch_size: int | None, max_time: float | None, max_retries: int
) -> None:
    """Work on a run that another process of this machine has been asked for."""
    with time_limit(max_time), folder_lock(out, shared=True), Claims(out / SHARED) as claims:
        job = resolve(replace(request, device=own_device(request.device, rank)))
        execute(job, out, claims, batch_size=batch_size, max_retries=max_retries, progress=False)
