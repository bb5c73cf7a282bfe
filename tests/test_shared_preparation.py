"""Preparations that several processes share: each does a part, what the dead had begun is done, same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from test_dap import COUNTS, context
from test_mgd3 import context as images_that_look_alike
from test_run import Painter

import dap
from dap.data.classmap import ClassEntry
from dap.errors import FormatError, StoppedError, StorageError
from dap.features import build
from dap.features.encoders import PixelEncoder
from dap.index import ClassRows, IndexWriter, spec
from dap.methods import MGD3, get_method
from dap.priors.dit import DiTPrior
from dap.stopping import time_limit
from dap.storage import claims, ledger
from dap.storage.cache import LATENTS, RESULT, CacheEntry
from dap.storage.claims import Claims
from dap.storage.lock import lock
from dap.storage.shared_tensors import make_tensors
from dap.storage.unfinished import AHEAD, continued, in_turns, unfinished_bytes, unfinished_folder

SIZES = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


@pytest.fixture(name="cache", autouse=True)
def fixture_of_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(claims, "POLL", (0.005, 0.02))
    return tmp_path / "cache"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def block(number: int) -> np.ndarray:
    return np.full(SIZES[number], number, np.float32)


def make(log: Path, seconds: float) -> int:
    """Make the entry of all blocks, each of which takes some time; return how many this process wrote to the file."""

    def slow(number: int) -> np.ndarray:
        time.sleep(seconds)
        with log.open("a") as file:
            file.write(f"{os.getpid()} {number}\n")
        return block(number)

    entry = CacheEntry.of(LATENTS, "shared", ".safetensors")
    if entry.is_whole():
        return 0
    return sum(1 for _ in make_tensors(entry, {"all": (sum(SIZES),)}, SIZES, slow))


def forked(work: Callable[[], object]) -> int:
    if process := os.fork():
        return process
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.parametrize("seed", range(4))
def test_four_processes_of_which_some_are_killed_write_the_bytes_of_one(cache, tmp_path, seed):
    draw, log = random.Random(seed), tmp_path / "log"
    workers, kills = [forked(lambda: make(log, 0.03)) for _ in range(4)], 0
    while kills < 3:
        time.sleep(draw.uniform(0.01, 0.06))
        worker = workers.pop(draw.randrange(len(workers)))
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        workers.append(forked(lambda: make(log, 0.03)))
        kills += 1
    assert [os.waitpid(worker, 0)[1] for worker in workers] == [0] * 4
    entry = CacheEntry.of(LATENTS, "shared", ".safetensors")
    assert entry.is_whole()
    np.testing.assert_array_equal(load_file(entry.path)["all"], np.concatenate([block(n) for n in range(len(SIZES))]))
    done = Counter(line.split()[1] for line in log.read_text().splitlines())
    assert sorted(map(int, done)) == list(range(len(SIZES)))
    assert sum(done.values()) - len(SIZES) <= kills
    assert [path for path in entry.path.parent.iterdir() if path.is_dir()] == []
    with continued(CacheEntry.of(LATENTS, "another")) as at:  # claims of killed processes go with the next preparation
        assert at is not None and not [name for name in at.claims.taken() if entry.path.name in name]
        (at.folder / RESULT).touch()
    assert not (cache / "claims").exists()


def test_each_of_two_processes_computes_a_part(cache, tmp_path):
    helper = forked(lambda: make(tmp_path / "log", 0.05))
    make(tmp_path / "log", 0.05)
    assert os.waitpid(helper, 0)[1] == 0
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(number) for _, number in lines) == list(range(len(SIZES)))
    shares = Counter(process for process, _ in lines)
    assert len(shares) == 2 and min(shares.values()) >= 3


def test_a_bad_block_is_met_once_by_each_process_and_both_raise_it(cache):
    raised, met, wrote = [], [], threading.Event()

    def bad(number: int) -> np.ndarray:
        if number == 2:
            met.append(threading.get_ident())
            raise FormatError("block 2 is bad")
        if number == 0:
            wrote.wait(5)
        return block(number)

    def work() -> None:
        entry = CacheEntry.of(LATENTS, "bad", ".safetensors")
        try:
            for _ in make_tensors(entry, {"all": (sum(SIZES),)}, SIZES, bad):
                pass
        except FormatError as error:
            raised.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    wrote.set()
    for thread in threads:
        thread.join(30)
    assert raised == ["block 2 is bad"] * 2 and len(met) == len(set(met)) == 2
    assert not [path for path in cache.rglob("*") if path.suffix == ".unfinished"]


def test_claims_of_the_dead_are_removed_and_their_lock_is_waited_for(cache):
    entry = CacheEntry.of(LATENTS, "left", ".safetensors")
    folder = unfinished_folder(entry)
    folder.mkdir(parents=True)
    (cache / "claims").mkdir()
    (cache / "claims" / "latents-other-3").write_text(f"{claims.HOST}-4194998-0123abcd")
    held = lock(folder)
    assert held is not None
    ends = threading.Timer(0.3, held.close)  # a process that is killed is dead before its lock is free
    ends.start()
    with continued(entry) as at:
        assert at is not None and at.folder == folder
        assert at.claims.taken() == {f"latents-{entry.path.name}"}
        (at.folder / RESULT).touch()


@pytest.mark.parametrize("error", [StoppedError("stopped"), StorageError("full")])
def test_what_is_made_is_kept_when_the_run_is_to_end(cache, error):
    entry = CacheEntry.of(LATENTS, "kept", ".safetensors")
    with pytest.raises(type(error)), continued(entry) as at:
        assert at is not None
        (at.folder / RESULT).write_bytes(b"half")
        raise error
    assert (unfinished_folder(entry) / RESULT).read_bytes() == b"half"
    (unfinished_folder(entry) / AHEAD).mkdir()
    (unfinished_folder(entry) / AHEAD / "7.npy").write_bytes(bytes(100_000))
    assert unfinished_bytes(entry) < 100_000  # it is still to be written to the entry


@pytest.mark.parametrize("again", [False, True])
def test_a_cache_that_is_deleted_meanwhile_is_named_and_nothing_of_another_is_published(cache, again):
    entry = CacheEntry.of(LATENTS, "deleted", ".safetensors")
    with pytest.raises(StorageError, match="was deleted while it was made; the same command"), continued(entry) as at:
        assert at is not None
        shutil.rmtree(cache)
        if again:  # by another process, which has not come far
            at.folder.mkdir(parents=True)
            (at.folder / RESULT).write_bytes(b"half")
        else:
            (at.folder / RESULT).write_bytes(b"late")
    assert not entry.exists()


def test_blocks_that_cannot_be_kept_ahead_do_not_end_the_writer(cache, monkeypatch):
    entry, ends = CacheEntry.of(LATENTS, "ahead", ".safetensors"), []

    def full(path, data):
        raise OSError("no room")

    monkeypatch.setattr("dap.storage.shared_tensors.write_atomic", full)
    with Claims(cache / "claims") as other:
        assert other.take(f"latents-{entry.path.name}-3")
        written = make_tensors(entry, {"all": (sum(SIZES),)}, SIZES, block)
        ends.append(threading.Timer(0.3, other.release, [f"latents-{entry.path.name}-3"]))
        ends[0].start()
        assert list(written) == list(range(len(SIZES) + 1))
    assert entry.is_whole()


def test_features_in_a_cache_that_cannot_be_written_are_read(monkeypatch):
    def refused(claims):
        raise OSError("read-only")

    monkeypatch.setattr(Claims, "__enter__", refused)
    assert list(in_turns([CacheEntry.of(LATENTS, number) for number in range(3)])) == [0, 1, 2]


def test_what_is_counted_of_an_unfinished_entry_has_a_class_of_any_name(cache):
    folder = unfinished_folder(CacheEntry.of(LATENTS, "index"))
    (folder / RESULT / AHEAD).mkdir(parents=True)
    (folder / RESULT / AHEAD / "features.safetensors").write_bytes(bytes(100_000))
    assert unfinished_bytes(CacheEntry.of(LATENTS, "index")) >= 100_000


def test_a_run_that_is_to_end_does_between_two_classes(cache):
    numbers = in_turns([CacheEntry.of(LATENTS, number) for number in range(3)])
    assert next(numbers) == 0
    with time_limit(1e-9), pytest.raises(StoppedError, match="max_time is over"):
        next(numbers)
    assert not (cache / "claims").exists()


def both(work) -> list[object]:
    """Return what two threads return that do the same at once."""
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2
    return results


def count_threads(monkeypatch, name: str) -> Counter:
    """Count the calls of a function of ``dap.features.build`` by thread."""
    function, calls = getattr(build, name), Counter()

    def counted(*arguments, **options):
        calls[threading.get_ident()] += 1
        time.sleep(0.05)
        return function(*arguments, **options)

    monkeypatch.setattr(build, name, counted)
    return calls


def test_references_are_shared_out(tiny_pipeline, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(spec, "GROUP_ROWS", 1)
    given, method = context(DiTPrior(tiny_pipeline)), get_method("dap", {"references": 3})
    with monkeypatch.context() as patch:
        patch.setenv("DAP_CACHE", str(tmp_path / "alone"))
        method.prepare(given)
    calls = count_threads(monkeypatch, "encode_images")
    both(lambda: method.prepare(given))
    assert files(cache / "indexes") == files(tmp_path / "alone" / "indexes")
    assert sum(calls.values()) == sum(min(count, 3) for count in COUNTS) and len(calls) == 2


def test_latents_and_modes_are_shared_out(tiny_pipeline, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(spec, "GROUP_ROWS", 2)
    given = images_that_look_alike(DiTPrior(tiny_pipeline), ipc=2)
    with monkeypatch.context() as patch:
        patch.setenv("DAP_CACHE", str(tmp_path / "alone"))
        MGD3().prepare(given)
    calls = count_threads(monkeypatch, "encode_images")
    both(lambda: MGD3().prepare(given))
    for kind in ("latents", "modes"):
        assert files(cache / kind) == files(tmp_path / "alone" / kind) != {}
    assert len(calls) == 2


def test_features_of_real_images_are_shared_out(tiny_pipeline, monkeypatch):
    source = dap.open_source("fashion-mini", classes=["Bag", "Coat", "Dress"]).select(range(0, 3000, 100))
    calls: Counter = Counter()
    encode = PixelEncoder.encode

    def counted(self, source, indices, *, label=0):
        calls[threading.get_ident()] += 1
        time.sleep(0.1)
        return encode(self, source, indices, label=label)

    monkeypatch.setattr(PixelEncoder, "encode", counted)
    classes = tuple(ClassEntry(name, name, None, name) for name in source.class_names)
    given = context(DiTPrior(tiny_pipeline))
    given = replace(given, source=source, classes=classes, encoder=PixelEncoder(size=4), ipc=2)
    chosen = both(lambda: get_method("k_medoids").prepare(given))
    assert chosen[0] == chosen[1] and list(chosen[0]) == sorted(chosen[0]) and len(chosen[0]) == 6
    assert sum(calls.values()) == 3 and len(calls) == 2


def test_shared_writers_read_each_line_of_the_ledger_once(tmp_path, tiny_pipeline, monkeypatch):
    get_method("dap", {"references": 2}).prepare(context(DiTPrior(tiny_pipeline)))
    (folder,) = Path(os.environ["DAP_CACHE"], "indexes").iterdir()
    spec_of = dap.open_index(folder).spec
    rows = [ClassRows(f"class {number}", number, (f"{number}.png",)) for number in range(40)]
    latents = np.zeros((1, *spec_of.latent_shape), np.float32)
    features = {t: np.zeros((1, *spec_of.feature_shape), np.float32) for t in spec_of.timesteps}
    lines: list[object] = []
    parse = ledger.parse_json
    monkeypatch.setattr(ledger, "parse_json", lambda *call, **more: lines.append(1) or parse(*call, **more))
    writers = [IndexWriter(tmp_path / "out", spec_of, rows, shared=True) for _ in range(2)]
    for number, entry in enumerate(rows):
        writers[number % 2].refresh()
        writers[number % 2].write(entry.name, 0, latents, features)
    assert len(lines) <= 2 * (1 + 2 * len(rows)) + 2
    assert len(writers[0].finish().classes) == 40


def test_a_writer_that_helps_does_not_begin_an_index_again(tmp_path, tiny_pipeline):
    get_method("dap", {"references": 2}).prepare(context(DiTPrior(tiny_pipeline)))
    (folder,) = Path(os.environ["DAP_CACHE"], "indexes").iterdir()
    opened = dap.open_index(folder)
    rows = [ClassRows(entry.name, entry.label, opened.ids(entry.name)) for entry in opened.classes]
    with pytest.raises(StorageError, match="is gone"):
        IndexWriter(tmp_path / "gone", opened.spec, rows, begins=False)
    assert not (tmp_path / "gone").exists()
    writer = IndexWriter(tmp_path / "moved", opened.spec, rows, shared=True)
    (tmp_path / "moved").rename(tmp_path / "entry")
    with pytest.raises(StorageError, match="is gone"):
        writer.refresh()
    assert not (tmp_path / "moved").exists()


@dataclass(frozen=True)
class Refusing(Painter):
    """Refuses the source, when two processes are there."""

    name: ClassVar = "refusing"
    barrier: ClassVar = multiprocessing.get_context("fork").Barrier(2, timeout=20)
    log: ClassVar[Path]

    def prepare(self, context):
        with self.log.open("a") as file:
            file.write("x")
        self.barrier.wait()
        raise FormatError("an image is damaged")


def test_a_source_that_is_refused_is_prepared_once_by_each_process(tmp_path):
    (tmp_path / "tree" / "a").mkdir(parents=True)
    Image.new("L", (8, 8), 50).save(tmp_path / "tree" / "a" / "0.png")
    Refusing.log = tmp_path / "log"

    def work() -> None:
        with pytest.raises(FormatError, match="an image is damaged"):
            dap.distill(tmp_path / "tree", method=Refusing(), ipc=2, out=tmp_path / "out", progress=False)

    worker = forked(work)
    work()
    assert os.waitpid(worker, 0)[1] == 0
    assert (tmp_path / "log").read_text() == "xx"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@dataclass(frozen=True)
class Meeting(Painter):
    """Prepares only when another process does so at the same time."""

    name: ClassVar = "meeting"
    barrier: ClassVar = multiprocessing.get_context("fork").Barrier(2, timeout=20)

    def prepare(self, context):
        self.barrier.wait()
        return super().prepare(context)


def test_workers_prepare_a_run_at_the_same_time(tmp_path):
    tree = tmp_path / "tree"
    for name in ("a", "b"):
        (tree / name).mkdir(parents=True)
        Image.new("L", (8, 8), 50).save(tree / name / "0.png")
    options = {"method": Meeting(), "ipc": 2, "batch_size": 1, "progress": False}
    worker = forked(lambda: dap.distill(tree, **options, out=tmp_path / "out"))
    assert len(dap.distill(tree, **options, out=tmp_path / "out")) == 4
    assert os.waitpid(worker, 0)[1] == 0
