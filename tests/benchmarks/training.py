"""Time of a trainer step on a CPU, as a ratio to the literal transcription of the network.

    python tests/benchmarks/training.py [ROUNDS [PRESET BATCH PATCH]]

Forward, L1, backward and AdamW on the same batch; the networks are interleaved (A B A B) in one process with the
command's allocator settings. A row is the median of ROUNDS (5). Default: `small`, batches of 8 x 128x128 and 4 x 64x64.
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
from drsformer.fast_training import optimize_for_training
from drsformer.memory import keep_freed_memory

CASES = (("small", 8, 128), ("small", 4, 64))


def trained(network, parameters, x, clean):
    """A function that makes one step."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step():
        optimizer.zero_grad()
        (network(x) - clean).abs().mean().backward()
        optimizer.step()

    return step


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = [(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))] if len(sys.argv) > 4 else CASES
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    print("| preset | batch | transcription | plain | rearranged | rearranged is |")
    print("|---|---|---|---|---|---|")
    for preset, batch, patch in cases:
        plain, fast = DRSformer(PRESETS[preset]), DRSformer(PRESETS[preset])
        optimize_for_training(fast)
        state = {key: tensor.detach().clone().requires_grad_() for key, tensor in plain.state_dict().items()}
        x, clean = torch.rand(2, batch, 3, patch, patch)
        last = x.to(memory_format=torch.channels_last)
        steps = {
            "transcription": trained(lambda x, w=state: transcription.forward(w, x), list(state.values()), x, clean),
            "plain": trained(plain, plain.parameters(), x, clean),
            "rearranged": trained(fast, fast.parameters(), last, clean),
        }
        times = {name: [] for name in steps}
        for _ in range(rounds + 1):  # the first warms up
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        row = " | ".join(f"{medians[name]:.2f} s" for name in steps)
        print(
            f"| {preset} | {batch} of {patch}x{patch} | {row} "
            f"| {medians['transcription'] / medians['rearranged']:.1f} times as fast |",
            flush=True,
        )


if __name__ == "__main__":
    main()
