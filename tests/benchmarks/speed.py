"""Time and memory of the network as used on a CPU, as ratios to the literal transcription.

    python tests/benchmarks/speed.py [ROUNDS [PRESET HEIGHT WIDTH]]

Height and width are rounded up to a multiple that the network takes. Both networks run with PyTorch's default allocator
and with the settings of our commands, which make both faster; each in its own process, interleaved (A B C D A B C D).
Times are medians of ROUNDS (5). Memory is the peak growth of a process during one forward pass, as counted by Linux,
the median of PEAKS.

Two lower limits of the time are printed: only the multiplications of the rearranged network, at the rate of a large
matrix product; and only reading the inputs and writing the outputs of its operations, at the rate of a copy.
"""

from __future__ import annotations

import gc
import itertools
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import transcription

from drsformer import PRESETS, DRSformer
from drsformer.fast_inference import optimize_for_inference
from drsformer.memory import keep_freed_memory

CASES = (("small", 321, 481), ("plain", 256, 256), ("mefc", 256, 256))

NETWORKS = ("transcription", "fast")
ALLOCATORS = ("default", "drsformer's")
CONTENDERS = tuple(itertools.product(NETWORKS, ALLOCATORS))
PEAKS = 3


def network(name, preset):
    torch.manual_seed(0)
    model = DRSformer(PRESETS[preset]).eval()
    if name == "fast":
        return optimize_for_inference(model)
    state = model.state_dict()
    return lambda x: transcription.forward(state, x)


def padded(preset, height, width):
    """The case with height and width rounded up to a multiple that the network takes."""
    multiple = PRESETS[preset].size_multiple
    return preset, -(-height // multiple) * multiple, -(-width // multiple) * multiple


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def product_rate(rounds):
    """Highest number of operations per second of a large matrix product."""
    a, b = torch.rand(2, 2048, 2048)
    return 2 * 2048**3 / min(seconds(torch.mm, a, b) for _ in range(rounds + 1))


def copy_rate(rounds):
    """Highest number of bytes per second that a large copy reads and writes."""
    a, b = torch.rand(2, 2**24)
    return 2 * 4 * 2**24 / min(seconds(a.copy_, b) for _ in range(rounds + 1))


def resident(kind):
    """Bytes of this process in memory: VmRSS, the current number, or VmHWM, the peak."""
    return int(re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def print_peak(forward, height, width):
    """Print the peak growth of the process in bytes; called in a separate process."""
    with torch.inference_mode():
        forward(torch.rand(1, 3, 32, 32))  # loads the libraries
        x = torch.rand(1, 3, height, width)
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        forward(x)
    print(resident("VmHWM") - before)


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, torch.Tensor):
                    self.bytes += leaf.numel() * leaf.element_size()
        return result


def print_seconds(forward, height, width):
    """Run and time a forward pass for each line on stdin; called in a separate process."""
    x = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        for _ in sys.stdin:
            print(seconds(forward, x), flush=True)


PARTS = {"--seconds": print_seconds, "--peak": print_peak}


def start(part, contender, case):
    """Start a process for a contender."""
    command = [sys.executable, __file__, part, *contender, *map(str, case)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def timed(case, rounds):
    """Median of the seconds by contender."""
    processes = {contender: start("--seconds", contender, case) for contender in CONTENDERS}
    times = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds + 1):  # the first warms up
        for contender, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            times[contender].append(float(process.stdout.readline()))
    for process in processes.values():
        process.communicate()
    return {contender: statistics.median(values[1:]) for contender, values in times.items()}


def peak(contender, case):
    """Median of the peak growth in bytes."""
    return statistics.median(int(start("--peak", contender, case).communicate()[0]) for _ in range(PEAKS))


def limits(preset, height, width, rounds):
    """Seconds for only the arithmetic, and for only the memory traffic."""
    forward = network("fast", preset)
    with torch.inference_mode(), FlopCounterMode(display=False) as flops, Traffic() as traffic:
        forward(torch.rand(1, 3, height, width))
    return flops.get_total_flops() / product_rate(rounds), traffic.bytes / copy_rate(rounds)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = [(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))] if len(sys.argv) > 4 else CASES
    cases = [padded(*case) for case in cases]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    print("| preset | size | allocator | transcription | fast | ratio | memory | ratio |", "|" + "---|" * 8, sep="\n")
    ends = []
    for case in cases:
        preset, height, width = case
        times = timed(case, rounds)
        for allocator in ALLOCATORS:
            slow, fast = (times[name, allocator] for name in NETWORKS)
            large, small = (peak((name, allocator), case) for name in NETWORKS)
            print(
                f"| {preset} | {width}x{height} | {allocator} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} times "
                f"as fast | {large / 1e6:.0f} MB, {small / 1e6:.0f} MB | {small / large:.2f} |",
                flush=True,
            )
        arithmetic, traffic = limits(*case, rounds)
        ratio = times["transcription", "default"] / times["fast", "drsformer's"]
        ends.append(f"| {preset} | {ratio:.1f} times as fast | {arithmetic:.2f} s | {traffic:.2f} s |")
    print(
        "\n| preset | command against default | arithmetic alone | memory traffic alone |\n|---|---|---|---|",
        *ends,
        sep="\n",
    )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PARTS:
        part, name, allocator, preset, height, width = sys.argv[1:]
        if allocator != "default":
            keep_freed_memory()
        PARTS[part](network(name, preset), int(height), int(width))
    else:
        main()
