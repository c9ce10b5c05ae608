"""Export whole networks, of every kind, and print how much the files differ from them; many minutes.

The test suite exports a network of a single block: the exporter takes seconds for each.
"""

import time
from dataclasses import replace

import torch
from conftest import TINY

from drsformer import PRESETS, DRSformer, load_model
from drsformer.ablations import Ablation, build
from drsformer_cli.exporting import onnx


def networks():
    """Networks by name; weights are random except for `general`."""
    torch.manual_seed(0)
    yield "general", load_model("general")
    yield "small, stem 2", DRSformer(replace(TINY, stem=2)).eval()
    yield "small, mefc", DRSformer(replace(TINY, mefc=True)).eval()
    yield "small, without norm_bias", DRSformer(replace(TINY, norm_bias=False, bias=True)).eval()
    yield "small, ablated", build(TINY, Ablation(top_k=(0.5,), feed_forward="gdfn")).eval()
    yield "mefc", DRSformer(PRESETS["mefc"]).eval()


def main():
    print(f"{'network':<26} {'size':<8} {'half':<5} {'MB':>6} {'seconds':>8} {'difference':>11}")
    for name, network in networks():
        for size in (None, (64, 96)):
            for half in (False, True):
                began = time.perf_counter()
                content, difference = onnx.export_verified(network, {}, size=size, half=half)
                seconds = time.perf_counter() - began
                shown = "any" if size is None else f"{size[0]}x{size[1]}"
                megabytes = len(content) / 1e6
                print(
                    f"{name:<26} {shown:<8} {half!s:<5} {megabytes:6.1f} {seconds:8.0f} {difference:11.1e}", flush=True
                )


if __name__ == "__main__":
    main()
