"""A trainer step with compiled depth-wise convolutions, on a CPU, as a ratio to the package's.

    python tests/benchmarks/compiled_training.py
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 tests/benchmarks/compiled_training.py train --config FILE

With arguments it is the command `drsformer`, training networks without bias with these convolutions. g++ compiles
compiled_training.cpp. Where the processor multiplies bfloat16 (AMX or AVX-512), MSFN and the 1x1 convolutions of TKSA
use it between their inputs and outputs; `FLOAT32=1` prevents that, and is then exact up to rounding.

Shapes as in `drsformer.model`, but (B, H, W, C) inside.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from drsformer import DRSformer, DRSformerConfig
from drsformer.fast_training import RearrangedMSFN, optimize_for_training
from drsformer.model import TKSA

LANES = 16
ROUNDS = 7
CONFIG = DRSformerConfig(stem=2, dim=24, num_blocks=(1, 1, 2, 3), mefc=False)
"""Of the benchmark: the network at half of the resolution, on batches of 8 x 96x96."""

_CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
_HAS_BFLOAT16 = "amx_bf16" in _CPU or "avx512_bf16" in _CPU
TYPE = torch.bfloat16 if _HAS_BFLOAT16 and not os.environ.get("FLOAT32") else torch.float32


@functools.cache
def function(name):
    """A function of compiled_training.cpp for TYPE."""
    return getattr(_library(), f"{name}_{'bf16' if TYPE is torch.bfloat16 else 'f32'}")


@functools.cache
def _library():
    source = Path(__file__).with_suffix(".cpp")
    library = Path(tempfile.gettempdir()) / f"drsformer-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        flags = "-std=c++20 -O3 -march=native -mprefer-vector-width=512 -ffast-math -fno-finite-math-only -shared -fPIC"
        subprocess.run([shutil.which("g++"), *flags.split(), "-o", part, source], check=True)
        part.replace(library)
    return ctypes.CDLL(str(library))


def address(tensor):
    """The address of a contiguous tensor."""
    return ctypes.c_void_p(tensor.data_ptr())


def addresses(tensors):
    """The addresses of contiguous tensors."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class MSFNHalves(torch.autograd.Function):
    """MSFN of x (B, H, W, C); of each half the 1x1 kernels (2 E, C) twice and the eight of compiled_training.cpp."""

    @staticmethod
    def forward(ctx, x, shift, middle, *kernels):
        B, H, W, C = x.shape
        x = x.to(TYPE).reshape(-1, C)
        y, saved = 0, [x]
        for size, (enter, leave, *depthwise) in ((3, kernels[:10]), (5, kernels[10:])):
            into, out = enter.to(TYPE), leave.to(TYPE)
            u = x @ into.t()
            s = torch.empty_like(u)
            function("msfn_forward")(
                size, address(u), addresses(depthwise), address(s), B, H, W, u.shape[1] // 2, shift, middle
            )
            y = y + (s @ out).float()
            saved += [u, s, into, out, *depthwise]
        ctx.save_for_backward(*saved)
        ctx.about = shift, middle, (B, H, W, C)
        return y.view(B, H, W, C)

    @staticmethod
    def backward(ctx, gradient):
        shift, middle, (B, H, W, C) = ctx.about
        x, *saved = ctx.saved_tensors
        gradient = gradient.to(TYPE).reshape(-1, C)
        of_x, of_kernels = 0, []
        for size, (u, s, enter, leave, *depthwise) in ((3, saved[:12]), (5, saved[12:])):
            of_s, of_u = gradient @ leave.t(), torch.empty_like(u)
            of_depthwise = [torch.zeros_like(kernel) for kernel in depthwise]
            function("msfn_backward")(
                size, address(u), addresses(depthwise), address(s), address(of_s), address(of_u),
                addresses(of_depthwise), B, H, W, u.shape[1] // 2, shift, middle,
            )  # fmt: skip
            of_x = of_x + (of_u @ enter).float()
            of_kernels += [(of_u.t() @ x).float(), (s.t() @ gradient).float(), *of_depthwise]
        return of_x.view(B, H, W, C), None, None, *of_kernels


class Linear(torch.autograd.Function):
    """A 1x1 convolution, (..., C) and (D, C) -> (..., D) of TYPE."""

    @staticmethod
    def forward(ctx, x, kernel):
        x, kernel = x.to(TYPE), kernel.to(TYPE)
        ctx.save_for_backward(x, kernel)
        return F.linear(x, kernel)

    @staticmethod
    def backward(ctx, gradient):
        x, kernel = ctx.saved_tensors
        gradient = gradient.to(TYPE)
        return (gradient @ kernel).float(), (gradient.flatten(0, -2).t() @ x.flatten(0, -2)).float()


class Depthwise(torch.autograd.Function):
    """A depth-wise 3x3 convolution, (B, H, W, C) of TYPE and (C / 16, 9, 16) -> (B, H, W, C) float32."""

    @staticmethod
    def forward(ctx, x, kernel):
        y = torch.empty(x.shape)
        function("depthwise_forward")(address(x), address(kernel), address(y), *x.shape)
        ctx.save_for_backward(x, kernel)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, kernel = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x, of_kernel = torch.empty_like(x), torch.zeros_like(kernel)
        function("depthwise_backward")(
            address(x), address(kernel), address(gradient), address(of_x), address(of_kernel), *x.shape
        )
        return of_x, of_kernel


@functools.cache
def orders(h):
    """Which of h channels stand where, h standing for none; names as in compiled_training.cpp."""
    pairs, odd = h // 2, h % 2
    places = torch.arange(-(-(pairs + odd) // LANES) * LANES)

    def known(channels):
        return channels.where((channels >= 0) & (channels < h), torch.tensor(h))

    of_b = known(pairs + places)
    return {
        "even": known(2 * places),
        "odd": known(2 * places + 1),
        "odd5": known(2 * (places - odd) + 1),
        "a": places.where(places < pairs + odd, torch.tensor(h)),
        "a_odd": places.where(places < pairs, torch.tensor(h)),
        "b": of_b,
        "b_odd": of_b.where(places >= odd, torch.tensor(h)),
    }


def with_zeros(kernel):
    """(h, ...) -> (h + 1, ...)."""
    return torch.cat([kernel, kernel.new_zeros(1, *kernel.shape[1:])])


def in_chunks(kernel):
    """(E, taps) -> (E / 16, taps, 16)."""
    return kernel.view(-1, LANES, kernel.shape[1]).transpose(1, 2).contiguous()


def msfn(self, x):
    """MSFN.forward."""
    h = self.dwconv3x3_1.out_channels
    order, odd = orders(h), h % 2
    kernels = []
    for half, second in ((slice(0, h), self.dwconv3x3_1), (slice(h, 2 * h), self.dwconv5x5_1)):
        enter, first3, first5 = (
            with_zeros(conv.weight[half].flatten(1)) for conv in (self.project_in, self.dwconv3x3, self.dwconv5x5)
        )
        leave = with_zeros(self.project_out.weight[:, half].flatten(1).t())
        # Of the pair that an output reads; for pairs of b the even channel is the second one if h is odd.
        one, other = with_zeros(second.weight.flatten(2)).unbind(1)
        even, uneven = (other, one) if odd else (one, other)
        kernels += [enter[torch.cat([order["even"], order["odd"]])], leave[torch.cat([order["a"], order["b_odd"]])]]
        kernels += [
            in_chunks(kernel[order[name]])
            for kernel, name in (
                (first3, "even"), (first3, "odd"), (first5, "even"), (first5, "odd5"),
                (one, "a"), (other, "a_odd"), (even, "b"), (uneven, "b_odd"),
            )
        ]  # fmt: skip
    return MSFNHalves.apply(x.permute(0, 2, 3, 1), odd, h // 2 if odd else -1, *kernels).permute(0, 3, 1, 2)


def tksa(self, x):
    """TKSA.forward."""
    B, C, H, W = x.shape
    more = -3 * C % LANES
    qkv, depthwise = (F.pad(conv.weight.flatten(1), (0, 0, 0, more)) for conv in (self.qkv, self.qkv_dwconv))
    y = Depthwise.apply(Linear.apply(x.permute(0, 2, 3, 1), qkv), in_chunks(depthwise))  # (B, H, W, 3 C + more)
    y = y.flatten(1, 2)[..., : 3 * C].view(B, H * W, 3, self.num_heads, -1)  # (B, HW, 3, N, D)
    q, k, v = y.permute(2, 0, 3, 4, 1)  # each (B, N, D, HW)
    z = self.sparse_attention(self.scores(q, k)) @ v
    z = z.permute(0, 3, 1, 2).reshape(B, H, W, C)
    return Linear.apply(z, self.project_out.weight.flatten(1)).float().permute(0, 3, 1, 2)


METHODS = ((RearrangedMSFN, msfn), (TKSA, tksa))
PLAIN = [kind.forward for kind, _ in METHODS]


def use(*, compiled):
    """Let networks that `optimize_for_training` has seen use the compiled convolutions, or the package's."""
    for (kind, method), plain in zip(METHODS, PLAIN, strict=True):
        kind.forward = method if compiled else plain


def main():
    """Measure a step forward and backward, one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = DRSformer(CONFIG).train()
    optimize_for_training(network)
    x = torch.rand(8, 3, 96, 96)
    seconds, gradients = {False: [], True: []}, {}
    for round_ in range(ROUNDS + 1):
        for compiled, times in seconds.items():
            use(compiled=compiled)
            network.zero_grad()
            start = time.perf_counter()
            (network(x) - x.flip(3)).square().mean().backward()
            if round_:  # the first one warms up
                times.append(time.perf_counter() - start)
            gradients[compiled] = torch.cat([p.grad.flatten() for p in network.parameters()])
    package, compiled = (statistics.median(seconds[key]) for key in (False, True))
    error = (gradients[True] - gradients[False]).norm() / gradients[False].norm()
    print(f"package {package:.3f} s, compiled ({TYPE}) {compiled:.3f} s: {package / compiled:.2f} times as fast")
    print(f"difference of the gradients, relative to their norm: {error:.1e}")


if __name__ == "__main__":
    if sys.argv[1:]:
        from drsformer_cli.__main__ import run

        use(compiled=True)
        run()
    else:
        main()
