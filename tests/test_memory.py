"""What is known about memory, of networks, devices and errors; and memory that is kept."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from drsformer import memory
from drsformer.fast_inference import optimize_for_inference
from drsformer.memory import free_memory, is_out_of_memory, measure_bytes_per_pixel

CPU = torch.device("cpu")


def test_bytes_per_pixel_are_measured(general):
    measured = measure_bytes_per_pixel(general, CPU)
    # 2h = 170 channels at full resolution: the plain MSFN holds several such tensors of float32.
    assert 3 * 170 * 4 < measured < 10 * 170 * 4
    assert measure_bytes_per_pixel(optimize_for_inference(general), CPU) < measured / 3
    assert measured > 2 * measure_bytes_per_pixel(nn.Identity(), CPU)


def test_bytes_per_pixel_count_what_is_alive_at_once():
    def forward(x):
        for _ in range(20):
            y = x + 1  # the previous y is released after the next one exists
        return y

    assert measure_bytes_per_pixel(forward, CPU) == 3 * 3 * 4  # x and two y: 3 channels of float32 each


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Write a file of /proc or /sys that is read instead of the real one."""
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / str(path).strip("/"))

    def write(path, text):
        file = tmp_path / path.strip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def test_free_memory_is_what_the_system_and_the_container_have_left(machine, monkeypatch):
    assert free_memory(CPU) == 4 * 2**30  # neither says anything
    machine("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert free_memory(CPU) == 2**21
    machine("/sys/fs/cgroup/memory.current", "1000000\n")
    machine("/sys/fs/cgroup/memory.max", "max\n")
    assert free_memory(CPU) == 2**21
    machine("/sys/fs/cgroup/memory.max", "1500000\n")
    assert free_memory(CPU) == 500_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == 125_000


def test_damaged_meminfo(machine):
    machine("/proc/meminfo", "MemAvailable:\n")
    assert free_memory(CPU) == 4 * 2**30


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux has /proc")
def test_this_machine_has_memory():
    assert 0 < free_memory(CPU) < math.inf


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("size mismatch"), False),
        (KeyError("x"), False),
    ],
)
def test_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


FAULTS = """
import contextlib, resource, torch
from drsformer import memory

def faults(block):
    # The fewest of 20 allocations: the first ones may each find the freed block too small for their alignment.
    found = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with block():
            torch.ones(10_000_000)  # 40 MB: 10,000 pages
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found)
"""


def in_a_process(code, **environment):
    command = [sys.executable, "-c", FAULTS + code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment}).stdout


@pytest.mark.skipif(memory._mallopt() is None, reason="only for glibc whose malloc is not tuned")
def test_memory_is_kept():
    plain = int(in_a_process("print(faults(contextlib.nullcontext))"))
    in_blocks = int(in_a_process("print(faults(memory.kept_memory))"))
    in_all = int(in_a_process("memory.keep_freed_memory(); print(faults(memory.kept_memory))"))
    assert 3 * in_blocks < plain
    assert 3 * in_all < plain


@pytest.mark.skipif(memory._mallopt() is None, reason="only for glibc whose malloc is not tuned")
def test_memory_outside_of_the_block_is_returned():
    code = """
with memory.kept_memory():
    pass
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
large = torch.ones(50_000_000)
assert resident() - before > 190e6
del large
print(resident() - before)
"""
    assert int(in_a_process(code)) < 20e6


def test_malloc_that_is_tuned_by_the_environment_is_left_alone():
    code = "print(memory._mallopt())"
    assert in_a_process(code, MALLOC_MMAP_THRESHOLD_="1000000") == "None\n"
    assert in_a_process(code, GLIBC_TUNABLES="glibc.malloc.arena_max=2") == "None\n"


def test_measuring_imports_nothing_slow():
    """Torch would import Dynamo and sympy, a second of work, for the first tensor that is counted."""
    code = "memory.measure_bytes_per_pixel(torch.nn.Conv2d(3, 3, 1), torch.device('cpu'))\n"
    assert in_a_process(code + "import sys; print('sympy' in sys.modules)") == "False\n"
