"""The C++ back end beside threads and processes of others: callers at once, forks, workers that load data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import attnc


@pytest.fixture(scope="module")
def op() -> attnc.ops.Op:
    return attnc.compile("std:causal", backend="cpp")


@pytest.fixture
def q() -> torch.Tensor:
    return torch.randn(1, 4, 500, 32)


def test_callers_at_once_get_what_one_gets(op: attnc.ops.Op, q: torch.Tensor) -> None:
    inputs = [q * n for n in range(1, 5)]
    expected = [op(x, x, x) for x in inputs]
    same: list[bool] = []

    def call(number: int) -> None:
        x = inputs[number]
        same.extend(torch.equal(op(x, x, x), expected[number]) for _ in range(15))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert same == [True] * 60


def test_forks_while_another_thread_computes(op: attnc.ops.Op, q: torch.Tensor) -> None:
    expected, stop = op(q, q, q), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            op(q, q, q)

    other = threading.Thread(target=compute)
    other.start()
    codes: list[int] = []
    try:
        for _ in range(10):
            time.sleep(0.003)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is the point
                child = os.fork()
            if child == 0:
                signal.alarm(30)  # a child that hangs is a failure, not a hanging test
                os._exit(0 if np.array_equal(op(q, q, q).numpy(), expected.numpy()) else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    finally:
        stop.set()
        other.join()
    assert codes == [0] * 10


class _Attended(Dataset[torch.Tensor]):
    def __init__(self, op: attnc.ops.Op, q: torch.Tensor) -> None:
        self.op, self.q = op, q

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.op(self.q, self.q, self.q)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_that_load_data(op: attnc.ops.Op, q: torch.Tensor) -> None:
    expected = op(q, q, q)
    loaded = list(DataLoader(_Attended(op, q), num_workers=2))
    assert len(loaded) == 4
    assert all(torch.equal(batch[0], expected) for batch in loaded)


def test_threads_are_as_many_as_torch_is_told() -> None:
    """None beside the caller's with OMP_NUM_THREADS=1, two more once torch has three."""
    program = (
        "import os, torch, attnc; op = attnc.compile('std:causal', backend='cpp'); q = torch.randn(1, 4, 500, 32)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count(); op(q, q, q); one = count() - before\n"
        "torch.set_num_threads(3); torch.randn(10**6).exp() @ torch.ones(10**6)  # torch starts its own\n"
        "before = count(); op(q, q, q); print(one, count() - before)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run((sys.executable, "-c", program), env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2"]
