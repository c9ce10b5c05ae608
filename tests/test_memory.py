"""What is known about memory, of networks, devices and errors; and memory that is kept."""

import json
import math
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
    # 2h = 254 channels for every fourth pixel: the plain MSFN holds several such tensors of float32.
    assert 3 * 254 * 4 / 4 < measured < 10 * 254 * 4 / 4
    assert measure_bytes_per_pixel(optimize_for_inference(general), CPU) < measured / 2
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
        (RuntimeError("could not create a primitive"), True),  # under ulimit -v
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),  # not implemented
        (RuntimeError("size mismatch"), False),
        (KeyError("x"), False),
    ],
)
def test_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


IN_A_PROCESS = """
import contextlib, json, resource, sys, torch
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

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

memory.measure_bytes_per_pixel(torch.nn.Conv2d(3, 3, 1), torch.device("cpu"))
found = {"imports": "sympy" in sys.modules}
if memory._mallopt() is not None:
    found["plain"] = faults(contextlib.nullcontext)
    found["in_blocks"] = faults(memory.kept_memory)
    before = resident()
    large = torch.ones(50_000_000)
    found["used"] = resident() - before
    del large
    found["left"] = resident() - before
    memory.keep_freed_memory()
    found["in_all"] = faults(memory.kept_memory)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured():
    """What a new process measures: page faults, memory outside of blocks, and imports."""
    command = [sys.executable, "-c", IN_A_PROCESS]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


in_one_process = pytest.mark.xdist_group("measured")  # the fixture is made once
needs_glibc = pytest.mark.skipif(memory._mallopt() is None, reason="only for glibc whose malloc is not tuned")


@needs_glibc
@in_one_process
def test_memory_is_kept(measured):
    assert 3 * measured["in_blocks"] < measured["plain"]
    assert 3 * measured["in_all"] < measured["plain"]


@needs_glibc
@in_one_process
def test_memory_outside_of_the_block_is_returned(measured):
    assert measured["used"] > 190e6
    assert measured["left"] < 20e6


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_MMAP_THRESHOLD_", "1000000"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")],
)
def test_malloc_that_is_tuned_by_the_environment_is_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert memory._mallopt.__wrapped__() is None


@in_one_process
def test_measuring_imports_nothing_slow(measured):
    """Torch would import Dynamo and sympy, a second of work, for the first tensor that is counted."""
    assert measured["imports"] is False
