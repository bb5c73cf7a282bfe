"""The compiled module: bits, threads, forks, interrupts, errors, and its stub."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dap import _core

STUB = Path(_core.__file__).with_name("_core.pyi")


def draw(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


LINEAR, RBF = [("linear", [])], [("rbf", [12.0])]


def every_function(x, y, kernel, threads=None):
    """The bytes of everything that the module computes of these arguments."""
    out = np.empty((len(x), len(y)), np.float32)
    _core.gram(x, y, kernel, out, threads)
    weights = np.random.default_rng(3).standard_normal((len(y), 5))
    rows, columns, squares = _core.pair_sums(x, y, kernel, threads)
    parts = [
        out, rows, columns, np.float64(squares), _core.row_sums(x, y, kernel, None, threads),
        _core.row_sums(x, y, kernel, weights, threads), _core.row_sums(x, None, kernel, None, threads),
        _core.mean_distance(x, y, kernel, None, threads),
        _core.mean_distance(x, y, kernel, weights[:, 0].copy(), threads), *_core.nearest(x, y, kernel, 3, threads),
        *_core.nearest(x, y, None, 3, threads),
    ]  # fmt: skip
    return [part.tobytes() for part in parts]


@pytest.mark.parametrize("kernel", [LINEAR, RBF, [*RBF, ("laplacian", [90.0])]], ids=str)
def test_the_number_of_threads_does_not_change_a_bit(kernel):
    x, y = draw(530, 301), draw(2500, 301, seed=1)
    one, *others = (every_function(x, y, kernel, threads) for threads in (1, 2, 3, None))
    assert others == [one] * 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_computes():
    x, y = draw(600, 100), draw(900, 100, seed=1)
    expected = hashlib.sha256(b"".join(every_function(x, y, RBF, 2))).digest()  # the parent's pool is running now
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sending, hashlib.sha256(b"".join(every_function(x, y, RBF, 2))).digest())
        os._exit(0)
    try:
        ready, _, _ = select.select([receiving], [], [], 20)
        assert ready, "the child hangs"
        assert os.read(receiving, len(expected) + 1) == expected
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(receiving)
        os.close(sending)


ROWS = [(draw(300, 50, index), draw(900, 50, 99)) for index in range(4)]


class Distances(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.concatenate([np.frombuffer(part, np.uint8) for part in every_function(*ROWS[index], RBF, 2)])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_data_loader_worker_computes():
    expected = np.stack([Distances()[index] for index in range(4)])
    loader = torch.utils.data.DataLoader(
        Distances(), batch_size=4, num_workers=1, timeout=20, multiprocessing_context="fork"
    )
    np.testing.assert_array_equal(next(iter(loader)).numpy(), expected)


INTERRUPTED = """
import signal
import time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background ignores it
import numpy as np
from dap import _core
x = np.random.default_rng(0).standard_normal((60_000, 2_000), np.float32)
print("ready", flush=True)
try:
    _core.mean_distance(x, x, [("linear", [])])  # many seconds
    print("finished", flush=True)
except KeyboardInterrupt:
    print("stopped", time.time(), flush=True)
print(_core.row_sums(x[:1], x[:3], [("linear", [])]), flush=True)
"""


def test_ctrl_c_stops_a_long_call_and_python_lives_on():
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)  # into the call
            sent = time.time()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    word, stopped, sums = output.split(maxsplit=2)
    assert word == "stopped" and float(stopped) - sent < 1.0
    assert np.isfinite(float(sums.strip("[]\n"))) and process.returncode == 0


def test_a_signal_handler_that_raises_is_heard():
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    x = draw(40_000, 2_000)  # before the clock starts: a slow machine takes its time over this
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Stop):
            _core.mean_distance(x, x, RBF)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_build_info():
    info = _core.build_info()
    manifest = STUB.parents[2] / "Cargo.toml"
    if manifest.exists():  # not beside an installed wheel
        assert f'version = "{info["version"]}"' in manifest.read_text()
    assert info["profile"] == "release", "the tests and benches want a release build"
    assert info["simd"] in {"avx512", "avx2", "portable"}
    assert info["target"].endswith(sys.platform)
    assert info["features"] == ["abi3-py311"]


def test_the_stub_has_every_name_and_argument():
    """The types are held by ``python -m mypy.stubtest dap._core``, which takes too long to stand here."""
    stubbed = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            stubbed[node.name] = [argument.arg for argument in node.body[0].args.args[1:]]  # of __new__
        elif isinstance(node, ast.FunctionDef):
            stubbed[node.name] = [argument.arg for argument in node.args.args]
    names = [name for name in dir(_core) if not name.startswith("_")]
    assert {name: list(inspect.signature(getattr(_core, name)).parameters) for name in names} == stubbed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": draw(2, 6)[:, ::2]}, ValueError, "x: expected a C-contiguous array"),
        ({"y": np.asfortranarray(draw(2, 3))}, ValueError, "y: expected a C-contiguous array"),
        (
            {"x": np.zeros((2, 3), int)},
            TypeError,
            "x: expected a 2-D numpy array of float32, float64, float16",
        ),
        ({"x": draw(2, 3).astype(">f4")}, TypeError, "got 2-D >f4"),
        ({"x": draw(2, 3)[0]}, TypeError, "got 1-D float32"),
        ({"x": [[0.0]]}, TypeError, "got <class 'list'>"),
        ({"y": draw(2, 4)}, ValueError, "same number of columns, got 3 and 4"),
        ({"kernel": []}, ValueError, "expected at least one kernel"),
        ({"kernel": [("gauss", [])]}, ValueError, 'no kernel "gauss" has the parameters'),
        ({"kernel": [("rbf", [-1.0])]}, ValueError, 'no kernel "rbf" has the parameters'),
        ({"kernel": [("rbf", [float("nan")])]}, ValueError, 'no kernel "rbf" has the parameters'),
        ({"threads": 0}, ValueError, "threads must be from 1 to 1024, got 0"),
        ({"threads": 10**6}, ValueError, "threads must be from 1 to 1024"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"x": draw(2, 3), "y": draw(2, 3), "kernel": RBF} | change
    for function in (_core.mean_distance, _core.row_sums, _core.pair_sums):
        with pytest.raises(error, match=message):
            function(**arguments)
    with pytest.raises(error, match=message):
        _core.nearest(**arguments, k=1)
    with pytest.raises(error, match=message):
        _core.gram(**arguments, out=np.empty((2, 2), np.float32))


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty((2, 3), np.float32), ValueError),
        (np.empty((4, 2), np.float32).T, ValueError),
        (np.empty((2, 4), np.float64), ValueError),
        (np.empty((2, 4), np.int32), TypeError),
    ],
)
def test_a_gram_matrix_needs_an_array_that_fits(out, error):
    with pytest.raises(error, match="out"):
        _core.gram(draw(2, 3), draw(4, 3), LINEAR, out)


def test_arrays_in_fortran_order_are_refused():
    x, columns = draw(6, 3), np.asfortranarray(draw(6, 2).astype(np.float64))
    with pytest.raises(ValueError, match="weights: expected a C-contiguous array"):
        _core.row_sums(x, None, LINEAR, columns)
    with pytest.raises(ValueError, match="start: expected a C-contiguous array"):
        _core.k_means(x, np.asfortranarray(x[:2].astype(np.float64)), 1, 0.0)
    with pytest.raises(ValueError, match="pixels: expected a C-contiguous array"):
        _core.crop_square(np.asfortranarray(np.zeros((4, 5, 3), np.uint8)), 1, np.zeros((3, 2, 2), np.uint8), "adm")


def test_empty_rows_and_read_only_rows():
    x, y = draw(2, 3), draw(4, 3, seed=1)
    x.flags.writeable = False
    assert _core.mean_distance(x, y, LINEAR).shape == (2,)
    assert _core.mean_distance(x[:0], y, LINEAR).shape == (0,)
    assert _core.row_sums(x, y[:0], LINEAR).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="y has no rows"):
        _core.mean_distance(x, y[:0], LINEAR)
    assert _core.row_sums(np.zeros((0, 2**40), np.float32), np.zeros((0, 2**40), np.float32), LINEAR).shape == (0,)
    with pytest.raises(MemoryError):
        _core.row_sums(np.zeros((2**58, 0), np.float32), np.zeros((1, 0), np.float32), LINEAR)
