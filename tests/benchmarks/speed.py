"""Time and memory of the network as it is used on a CPU, as ratios against the literal transcription.

    python tests/benchmarks/speed.py [ROUNDS]

Both run in turn, A B A B, in one process with the command's allocator settings; a row is the median of ROUNDS (5).
Memory is the peak of live tensors beyond the weights, which the machine's load does not disturb.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import transcription

from drsformer import PRESETS, DRSformer
from drsformer.fast import accelerate
from drsformer.inference import measure_bytes_per_pixel
from drsformer_cli.device import keep_freed_memory

CASES = (("small", 328, 488), ("plain", 256, 256), ("mefc", 256, 256))


def seconds(function, x):
    start = time.perf_counter()
    function(x)
    return time.perf_counter() - start


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    keep_freed_memory()
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    print("| preset | size | transcription | plain | fast | fast is | memory a pixel | of the transcription's |")
    print("|---|---|---|---|---|---|---|---|")
    for preset, height, width in CASES:
        model = DRSformer(PRESETS[preset]).eval()
        state = model.state_dict()
        networks = {"transcription": lambda x, state=state: transcription.forward(state, x), "plain": model}
        networks["fast"] = accelerate(model)
        times = {name: [] for name in networks}
        x = torch.rand(1, 3, height, width)
        with torch.inference_mode():
            for _ in range(rounds + 1):  # the first warms up
                for name, network in networks.items():
                    times[name].append(seconds(network, x))
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        memory = {name: measure_bytes_per_pixel(network, cpu) for name, network in networks.items()}
        print(
            f"| {preset} | {width}x{height} | {medians['transcription']:.2f} s | {medians['plain']:.2f} s "
            f"| {medians['fast']:.2f} s | {medians['transcription'] / medians['fast']:.1f} times as fast "
            f"| {memory['fast']:.0f} bytes | {memory['fast'] / memory['transcription']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
