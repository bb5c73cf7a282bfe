"""Memory that is too short for the first units: the run begins again with half of the batch, as its manifest says."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys

import pytest
import torch
from conftest import grey_tree

import dap
from dap.cli.group import in_flags
from dap.cli.main import main
from dap.errors import OutOfMemoryError, RunMismatchError
from dap.methods import DAP, DiT
from dap.short_memory import is_short_memory

SHORT = (
    MemoryError("no room"),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
)


@pytest.fixture
def tree(tmp_path):
    return grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))


def limited(monkeypatch, method, most, error):
    """Let a method raise an error for units of more slots than ``most``; return the sizes that were tried."""
    sizes, make = [], method.make

    def short(self, context, unit, artefact):
        sizes.append(len(unit.slots) if context.pass_size is None else context.pass_size)
        if sizes[-1] > most:
            raise error
        return make(self, context, unit, artefact)

    monkeypatch.setattr(method, "make", short)
    return sizes


@pytest.mark.parametrize("error", SHORT, ids=["python", "device", "torch"])
def test_the_run_begins_again_with_half(tree, tiny_folder, tmp_path, monkeypatch, caplog, error):
    settings = {"method": "dit", "prior": str(tiny_folder), "ipc": 5, "num_inference_steps": 2, "progress": False}
    whole = dap.distill(tree, out=tmp_path / "whole", **settings)
    sizes = limited(monkeypatch, DiT, 3, error)
    with caplog.at_level(logging.WARNING):
        halved = dap.distill(tree, out=tmp_path / "halved", **settings)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    assert [record.message.split(": ")[-1] for record in caplog.records if "too little" in record.message] == [
        "too little memory for 10 images at once, half as many are made",
        "too little memory for 5 images at once, half as many are made",
    ]
    assert (halved.manifest["batch_size"], halved.manifest["batch_size_too_large"]) == (2, 100)
    assert "batch_size_too_large" not in whole.manifest and whole.manifest["batch_size"] == 100
    assert (halved.to_torch()[0].int() - whole.to_torch()[0].int()).abs().max() <= 1
    content = [(tmp_path / "halved" / file).read_bytes() for file in halved.files]
    (tmp_path / "halved" / halved.files[3]).unlink()
    again = dap.distill(tree, out=tmp_path / "halved", **settings)
    assert [(tmp_path / "halved" / file).read_bytes() for file in again.files] == content
    assert again.manifest["batch_size_too_large"] == 100
    with pytest.raises(RunMismatchError, match="batch_size"):
        dap.distill(tree, out=tmp_path / "halved", batch_size=10, **settings)


def test_coupled_classes_are_divided_too(tree, tiny_folder, tmp_path, monkeypatch):
    settings = {
        "method": "dap_set", "method_options": {"references": 3}, "prior": str(tiny_folder), "ipc": 4,
        "num_inference_steps": 2, "progress": False,
    }  # fmt: skip
    from dap.methods import DAPSet

    sizes = limited(monkeypatch, DAPSet, 2, MemoryError())
    made = dap.distill(tree, out=tmp_path / "out", **settings)
    assert sizes == [8, 4, 2, 2] and (made.manifest["batch_size"], made.manifest["pass_size"]) == (2, 2)


@pytest.mark.parametrize("option", [{"batch_size": 6}, {}], ids=["given", "one slot"])
def test_what_cannot_be_halved_is_an_error(tree, tiny_folder, tmp_path, monkeypatch, option):
    sizes = limited(monkeypatch, DAP, 0, MemoryError("no room"))
    said = (
        "6 images at once (no room): choose a smaller batch_size=, or a method"
        if option
        else "1 image (no room): choose a m"
    )
    with pytest.raises(OutOfMemoryError, match=re.escape(f"too short to make {said}")):
        dap.distill(
            tree, out=tmp_path / "out", method=DAP(references=3), prior=str(tiny_folder), ipc=3, num_inference_steps=2,
            progress=False, **option,
        )  # fmt: skip
    assert sizes == ([6, 6, 6] if option else [6, 3, 1, 1, 1])


def test_later_units_fail_by_themselves(tree, tiny_folder, tmp_path, monkeypatch):
    calls, make = [], DiT.make

    def short(self, context, unit, artefact):
        calls.append(unit.index)
        if unit.index == 1 and calls.count(1) == 1:
            raise MemoryError("no room")
        return make(self, context, unit, artefact)

    monkeypatch.setattr(DiT, "make", short)
    monkeypatch.setattr("dap.run.batch.MAX_BATCH", 2)
    settings = {"method": "dit", "prior": str(tiny_folder), "ipc": 3, "num_inference_steps": 2, "progress": False}
    dap.distill(tree, out=tmp_path / "out", **settings)
    assert calls == [0, 1, 2, 1]
    assert "batch_size_too_large" not in json.loads((tmp_path / "out" / "dap.json").read_text())


@pytest.mark.parametrize("error", SHORT, ids=["python", "device", "torch"])
def test_a_preparation_without_memory_is_an_error_in_our_words(tree, tiny_folder, tmp_path, monkeypatch, error):
    def short(self, context):
        raise error

    monkeypatch.setattr(DAP, "prepare", short)
    settings = {"prior": str(tiny_folder), "ipc": 2, "num_inference_steps": 2, "progress": False}
    with pytest.raises(OutOfMemoryError, match="the memory was too short to prepare method 'dap'") as raised:
        dap.distill(tree, out=tmp_path / "out", method=DAP(references=3), **settings)
    assert raised.value.__cause__ is error and "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "dap.json").exists()
    monkeypatch.undo()
    assert len(dap.distill(tree, out=tmp_path / "out", method=DAP(references=3), **settings)) == 4


@pytest.mark.parametrize("error", SHORT, ids=["python", "device", "torch"])
@pytest.mark.parametrize(
    ("inside", "call", "work"),
    [
        ("evaluating.evaluate_source", lambda tree, prior, out: dap.evaluate(tree, tree), "to evaluate the set"),
        (
            "evaluation.teacher_train.train_network",
            lambda tree, prior, out: dap.train_teacher(tree, out=f"{out}.safetensors"), "to train the teacher",
        ),
        ("measuring.measure_set", lambda tree, prior, out: dap.measure(tree, tree), "to measure the set"),
        (
            "training.train.read_images", lambda tree, prior, out: dap.train_prior(tree, out=out, card=False),
            "to train the prior",
        ),
        (
            "training.adapt.load_prior", lambda tree, prior, out: dap.adapt_prior(tree, prior=prior, out=out),
            "to adapt the prior",
        ),
        (
            "indexing.build_with", lambda tree, prior, out: dap.build_index(tree, prior=prior, out=out),
            "to build the index",
        ),
    ],
    ids=["evaluate", "train_teacher", "measure", "train_prior", "adapt_prior", "build_index"],
)  # fmt: skip
def test_functions_say_it_in_our_words(tree, tiny_folder, tmp_path, monkeypatch, inside, call, work, error):
    def short(*_arguments, **_options):
        raise error

    monkeypatch.setattr(f"dap.{inside}", short)
    with pytest.raises(OutOfMemoryError, match=rf"the memory was too short {work} \(.*\): choose ") as raised:
        call(tree, tiny_folder, tmp_path / "out")
    assert raised.value.__cause__ is error and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", SHORT, ids=["python", "device", "torch"])
def test_a_run_with_a_callback_says_it_in_our_words(tree, tiny_folder, tmp_path, monkeypatch, error):
    limited(monkeypatch, DiT, 0, error)
    with pytest.raises(OutOfMemoryError, match="too short to make images") as raised:
        dap.distill(
            tree, out=tmp_path / "out", method="dit", prior=str(tiny_folder), ipc=1, num_inference_steps=2,
            progress=False, callback_on_step_end=lambda prior, step, timestep, tensors: tensors,
        )  # fmt: skip
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", SHORT, ids=["python", "device", "torch"])
def test_commands_say_it_in_one_line(tree, tmp_path, monkeypatch, capsys, error):
    def short(*_arguments, **_options):
        raise error

    monkeypatch.setattr("dap.api.distill", short)
    monkeypatch.setattr(
        sys, "argv", ["dap", "distill", str(tree), "--method", "random", "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.count("\n") == 1
    assert said.startswith("dap: error: the memory was too short for this command (") and "choose smaller" in said


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("unable to mmap 8 bytes from file: Cannot allocate memory (12)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_the_forms_in_which_short_memory_is_said(error, short):
    assert is_short_memory(error) == short


def test_the_advice_has_the_flags_of_the_command_line():
    said = in_flags("choose a smaller batch_size=, or a method that needs less, or on a GPU dtype='bfloat16' (docs)")
    assert said == "choose a smaller --batch-size, or a method that needs less, or on a GPU --dtype bfloat16 (docs)"
