"""Runs whose workers are actors of Ray; here they are threads. ``benches/executors.py`` runs the real Ray."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import pytest
import torch

import dap
from dap.errors import OptionError, StorageError
from dap.run.ray_actors import ray_actors


class RayTaskError(Exception):
    """As Ray raises it, with what the actor raised as its cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RayActorError(Exception):
    """As Ray raises it for an actor that died."""


class RayOutOfMemoryError(Exception):
    """As Ray raises it for an actor that it has killed, because a machine had too little memory."""


class FakeRay(types.ModuleType):
    """A module with what dap takes of Ray. Only the first ``places`` actors find a place; ``dead`` ones are lost."""

    def __init__(self, places: int, dead: frozenset[int] = frozenset()) -> None:
        super().__init__("ray")
        self.places, self.dead, self.killed, self.addresses, self.made = places, dead, [], [], 0
        self.exceptions = types.SimpleNamespace(
            RayTaskError=RayTaskError, RayActorError=RayActorError, OutOfMemoryError=RayOutOfMemoryError
        )

    def is_initialized(self) -> bool:
        return False

    def init(self, address, **options) -> None:
        self.addresses.append(address)

    def shutdown(self) -> None:
        self.addresses.append("shut down")

    def cluster_resources(self):
        return {"CPU": 2}

    def nodes(self):
        return [{"Alive": True}]

    def remote(self, **options):
        assert options["max_restarts"] == options["max_task_retries"] > 0
        return lambda worker: types.SimpleNamespace(remote=lambda: self._actor(worker()))

    def _actor(self, worker):
        number, self.made = self.made, self.made + 1
        return types.SimpleNamespace(
            number=number, work=types.SimpleNamespace(remote=lambda *given: Result(self, number, worker, given))
        )

    def wait(self, results, num_returns, timeout):
        ready = next((result for result in results if result.ended.wait(timeout / len(results))), None)
        return ([ready] if ready else []), [result for result in results if result is not ready]

    def get(self, result):
        if result.error is not None:
            raise result.error

    def kill(self, actor) -> None:
        self.killed.append(actor.number)


class Result:
    """What a call of an actor promises: a thread that works, or nothing where the actor has no place."""

    def __init__(self, ray: FakeRay, number: int, worker, given) -> None:
        self.ended, self.error = threading.Event(), None
        if number in ray.dead:
            self.error = RayActorError("the actor died")
            self.ended.set()
        elif number < ray.places:
            threading.Thread(target=self._work, args=(worker, given)).start()

    def _work(self, worker, given) -> None:
        try:
            worker.work(*given)
        except Exception as error:
            self.error = RayTaskError(error)
        self.ended.set()


def use(monkeypatch, **options) -> FakeRay:
    fake = FakeRay(**options)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def work(rank, path: Path) -> None:
    path.write_text(str(rank.number))


def fails(rank) -> None:
    raise OptionError("expected 1, got 2")


def has_no_memory(rank) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_run_ends_although_an_actor_never_finds_a_place(tmp_path, monkeypatch):
    fake = use(monkeypatch, places=1)
    options = {"method": "random", "ipc": 2, "classes": ["Bag", "Dress"], "progress": False}
    made = dap.distill("fashion-mini", **options, out=tmp_path / "ray", executor="ray", workers=3)
    assert len(made) == 4 and fake.killed == [0, 1, 2] and fake.addresses == ["local", "shut down"]
    dap.distill("fashion-mini", **options, out=tmp_path / "alone")
    images = sorted((tmp_path / "alone").rglob("*.png"))
    assert len(images) == 5  # with the contact sheet
    for image in images:
        assert image.read_bytes() == (tmp_path / "ray" / image.relative_to(tmp_path / "alone")).read_bytes()


def test_actors_that_are_lost_are_done_without(tmp_path, monkeypatch, caplog):
    fake = use(monkeypatch, places=2, dead=frozenset({0}))
    assert ray_actors(2, "auto", tmp_path, work, tmp_path / "made") == 2
    assert (tmp_path / "made").read_text() == "1" and fake.addresses[0] == "auto"
    assert "has lost an actor (the actor died); 1 go on" in caplog.text
    use(monkeypatch, places=2, dead=frozenset({0, 1}))
    with pytest.raises(StorageError, match="Ray has lost all actors"):
        ray_actors(2, None, tmp_path, work, tmp_path / "made")


def test_an_error_of_an_actor_is_that_of_the_run_and_ends_the_others(tmp_path, monkeypatch):
    fake = use(monkeypatch, places=1)
    with pytest.raises(OptionError, match="expected 1, got 2"):
        ray_actors(2, None, tmp_path, fails)
    assert fake.killed == [0, 1]
    use(monkeypatch, places=1)
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory"):  # which the commands put in dap's words
        ray_actors(2, None, tmp_path, has_no_memory)


def test_ray_that_is_not_installed_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"executor 'ray' needs Ray: pip install 'dap-distill\[ray\]'"):
        dap.distill("fashion-mini", method="dit", ipc=1, out=tmp_path / "out", executor="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, error",
    [
        ({"executor": "dask"}, "dask"),
        ({"address": "auto"}, "give executor='ray' too"),
        ({"executor": "ray", "remake": "Bag"}, "executor 'ray': not with"),
    ],
)
def test_what_does_not_go_with_ray(tmp_path, options, error):
    with pytest.raises(OptionError, match=error):
        dap.distill("fashion-mini", method="dit", ipc=1, out=tmp_path / "out", **options)
