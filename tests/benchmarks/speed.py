"""Time and memory of the network as it is used on a CPU, as ratios against the literal transcription.

    python tests/benchmarks/speed.py [ROUNDS [PRESET HEIGHT WIDTH]]

Both run in turn, A B A B, in one process with the command's allocator settings; times are medians of ROUNDS (5).
Memory is what a process of its own grows by at its highest during one forward pass, as Linux counts it.

The two limits are what the rearranged network would need if it did nothing but its multiplications, at the rate of a
large matrix product, or nothing but read the inputs and write the outputs of its operations, at the rate of a copy.
"""

from __future__ import annotations

import gc
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
from drsformer.fast import accelerate
from drsformer_cli.device import keep_freed_memory

CASES = (("small", 328, 488), ("plain", 256, 256), ("mefc", 256, 256))  # the first: 481x321, padded


def network(name, preset):
    torch.manual_seed(0)
    model = DRSformer(PRESETS[preset]).eval()
    if name == "fast":
        return accelerate(model)
    state = model.state_dict()
    return lambda x: transcription.forward(state, x)


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def product_rate(rounds):
    """Operations a second of a large matrix product, at best."""
    a, b = torch.rand(2, 2048, 2048)
    return 2 * 2048**3 / min(seconds(torch.mm, a, b) for _ in range(rounds + 1))


def copy_rate(rounds):
    """Bytes read and written a second by a large copy, at best."""
    a, b = torch.rand(2, 2**24)
    return 2 * 4 * 2**24 / min(seconds(a.copy_, b) for _ in range(rounds + 1))


def resident(kind):
    """Bytes of this process in memory: VmRSS now, VmHWM at the highest."""
    return int(re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def print_peak(name, preset, height, width):
    """For a process of its own: bytes that it grows by at its highest."""
    forward = network(name, preset)
    with torch.inference_mode():
        forward(torch.rand(1, 3, 32, 32))  # libraries are loaded
        x = torch.rand(1, 3, height, width)
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest is now
        forward(x)
    print(resident("VmHWM") - before)


def peak(name, preset, height, width):
    command = [sys.executable, __file__, "--peak", name, preset, str(height), str(width)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = [(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))] if len(sys.argv) > 4 else CASES
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    print(
        "| preset | size | transcription | fast | ratio | memory | ratio | arithmetic alone | memory traffic alone |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for preset, height, width in cases:
        networks = {name: network(name, preset) for name in ("transcription", "fast")}
        x = torch.rand(1, 3, height, width)
        times = {name: [] for name in networks}
        with torch.inference_mode():
            for _ in range(rounds + 1):  # the first warms up
                for name, forward in networks.items():
                    times[name].append(seconds(forward, x))
            with FlopCounterMode(display=False) as flops, Traffic() as traffic:
                networks["fast"](x)
        slow, fast = (statistics.median(values[1:]) for values in times.values())
        memory = {name: peak(name, preset, height, width) for name in networks}
        print(
            f"| {preset} | {width}x{height} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} times as fast "
            f"| {memory['transcription'] / 1e6:.0f} MB, {memory['fast'] / 1e6:.0f} MB "
            f"| {memory['fast'] / memory['transcription']:.2f} "
            f"| {flops.get_total_flops() / product_rate(rounds):.2f} s | {traffic.bytes / copy_rate(rounds):.2f} s |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        keep_freed_memory()
        print_peak(*sys.argv[2:4], *map(int, sys.argv[4:6]))
    else:
        main()
