"""The bound of the cache, what runs use, and what killed processes leave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dap.errors import FormatError, OptionError
from dap.storage import claims
from dap.storage.cache import INDEXES, LATENTS, RESULT, CacheEntry, cache_in_use, cache_size, clear_cache
from dap.storage.cache_bound import cache_limit, cached_paths
from dap.storage.cache_use import used_by_runs
from dap.storage.lock import lock
from dap.storage.unfinished import continued, unfinished_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(number: int, *, bytes: int = 1000, age: float | None = None) -> CacheEntry:
    """Return an entry, which was written unless ``age`` is None, and used so many seconds ago."""
    made = CacheEntry.of(LATENTS, number)
    if age is not None:
        made.write(bytes * b"x")
        os.utime(made.path, (time.time() - age,) * 2)
    return made


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.parent.name != "hashes" and path.name != "hashes"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("50GB", 50 * 10**9), ("1.5 mb", 1_500_000), ("2GiB", 2**31), ("4096", 4096), (" 1TB ", 10**12)],
)
def test_a_bound_is_a_number_with_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None) -> None:
    monkeypatch.setenv("DAP_CACHE_SIZE", text)
    assert cache_limit() == expected


@pytest.mark.parametrize("text", ["much", "GB", "-1GB", "5 apples", "1e9"])
def test_a_bound_that_is_no_size_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DAP_CACHE_SIZE", text)
    with pytest.raises(OptionError, match="DAP_CACHE_SIZE: expected a size such as 50GB or 500MB, got"), cache_in_use():
        pytest.fail("the run has begun")


def test_what_was_not_used_for_the_longest_time_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = entry(1, age=300), entry(2, age=200), entry(3, age=100)
    first.use()  # the last one that was used
    monkeypatch.setenv("DAP_CACHE_SIZE", "3500")
    fourth = entry(4, age=0)
    assert [one.exists() for one in (first, second, third, fourth)] == [True, False, True, True]
    assert first.is_whole() and not (cache_paths := list(second.path.parents[1].glob(f"hashes/*{second.path.name}")))
    assert not cache_paths and cache_size() < 3500


def test_without_a_bound_nothing_is_removed() -> None:
    kept = [entry(number, age=1e6) for number in range(5)]
    with cache_in_use():
        entry(9, age=0)
    assert all(one.exists() for one in kept)


def test_what_a_run_uses_is_kept_and_what_does_not_fit_beside_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    used, other = entry(1, age=300), entry(2, age=200)
    monkeypatch.setenv("DAP_CACHE_SIZE", "2500")
    with cache_in_use():
        assert used.is_whole()
        with pytest.raises(
            OptionError, match=r"latents take 0\.0 MB, and DAP_CACHE_SIZE allows .*: fewer, or set DAP_C"
        ):
            CacheEntry.of(LATENTS, 5).check_space(1600, "latents take", "fewer")
        assert other.exists(), "what cannot be met removes nothing"
        CacheEntry.of(LATENTS, 5).check_space(1400, "latents take", "fewer")
        assert used.exists() and not other.exists()
    assert used.exists()


def test_what_another_process_uses_is_kept_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    used, other = entry(1, age=300), entry(2, age=200)
    program = (
        "from dap.storage.cache import LATENTS, CacheEntry, cache_in_use\n"
        "with cache_in_use():\n CacheEntry.of(LATENTS, 1).use(); print('used', flush=True); input()"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "used\n"
    for one in (used, other):
        os.utime(one.path, (0, 0))
    monkeypatch.setenv("DAP_CACHE_SIZE", "1000")
    entry(3, age=50)
    assert used.exists() and not other.exists() and used_by_runs() == {used.path}
    run.kill()
    run.communicate()
    with cache_in_use():
        assert used_by_runs() == set()
    assert not used.exists(), "the end of a run brings the cache back to its bound"
    assert not list(used.path.parents[1].glob(".uses-*"))


def test_leftovers_of_dead_processes_are_swept_and_those_of_living_ones_kept(cache: Path) -> None:
    program = (
        "import os, signal\nfrom dap.storage.cache import INDEXES, LATENTS, CacheEntry\n"
        "with CacheEntry.of(LATENTS, 1).new_file() as file, CacheEntry.of(INDEXES, 2).new_folder() as folder:\n"
        " file.write_bytes(b'x'); (folder / 'y').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert {name[:5] for name in left(cache)} >= {".new-"}
    with CacheEntry.of(LATENTS, 3).new_file() as mine:
        mine.write_bytes(b"mine")
        with cache_in_use():
            pass
        assert mine.exists() and left(cache / LATENTS) == {mine.parent.name, RESULT} and not left(cache / INDEXES)
    assert left(cache / LATENTS) == {CacheEntry.of(LATENTS, 3).path.name}


def test_leftovers_of_older_versions_are_swept_after_a_day(cache: Path) -> None:
    names = {".tmp-4194999-0123abcd": 0.0, ".tmp-4194998-0123abcd": 1e5, f".tmp-{os.getpid()}-0123abcd": 1e5}
    for name, age in names.items():
        (cache / LATENTS / name).mkdir(parents=True)
        os.utime(cache / LATENTS / name, (time.time() - age,) * 2)
    (cache / LATENTS / ".tmp-thesis").touch()
    with cache_in_use():
        pass
    assert left(cache / LATENTS) == {*names, ".tmp-thesis"} - {".tmp-4194998-0123abcd"}


def test_what_can_be_continued_is_kept_until_it_is_finished_or_the_bound_needs_its_place(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CacheEntry.of(LATENTS, 1)
    with pytest.raises(KeyboardInterrupt), continued(made) as at:
        (at.folder / RESULT).write_bytes(5000 * b"x")
        raise KeyboardInterrupt
    assert not made.exists() and unfinished_bytes(made) >= 5000
    with cache_in_use():
        (unfinished,) = cached_paths()
        assert unfinished.being_made and unfinished.entry == made.path
        monkeypatch.setenv("DAP_CACHE_SIZE", "6000")
        with continued(made):  # in use, as it is locked
            entry(2, age=0)
        assert made.is_whole() and unfinished_bytes(made) == 0
    with pytest.raises(KeyboardInterrupt), continued(CacheEntry.of(LATENTS, 3)) as at:
        raise KeyboardInterrupt
    folder = at.folder
    os.utime(folder, (0, 0))
    (folder / "state").write_bytes(900 * b"x")
    os.utime(folder, (0, 0))
    entry(4, age=0)
    assert not folder.exists()


def test_an_error_of_the_input_removes_what_was_begun(cache: Path) -> None:
    with pytest.raises(FormatError), continued(CacheEntry.of(LATENTS, 1)) as at:
        (at.folder / RESULT).touch()
        raise FormatError("an image")
    assert not left(cache / LATENTS)


def test_a_process_beside_one_that_is_stalled_makes_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    monkeypatch.setattr(claims, "BEAT", 1e6)
    made = CacheEntry.of(LATENTS, 1)
    with continued(made) as stalled:
        assert stalled is not None
        with continued(made) as other:
            assert other is not None and other.folder != stalled.folder and lock(cache, shared=True) is not None
            (other.folder / RESULT).write_bytes(b"whole")
        assert made.is_whole()
        (stalled.folder / RESULT).write_bytes(b"late")
    assert made.is_whole() and made.path.read_bytes() == b"whole" and left(cache / LATENTS) == {made.path.name}
    assert not (cache / "claims").exists()
    assert clear_cache() == 5 + 64


def test_processes_that_need_the_same_entry_make_it_once(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dap.storage.waiting")
    made, makers = CacheEntry.of(LATENTS, 1), []

    def prepare(number: int) -> None:
        with continued(made) as at:
            if at is not None:
                makers.append(number)
                while len(caplog.messages) < 3:
                    time.sleep(0.001)
                (at.folder / RESULT).write_bytes(b"whole")

    others = [threading.Thread(target=prepare, args=(number,)) for number in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert len(makers) == 1 and made.is_whole()
    assert len(caplog.messages) == 3 and all("to prepare latents" in message for message in caplog.messages)
