"""python main.py WASM GOLDEN: a small training run, the golden cases, and one step timed beside PyTorch's."""

from __future__ import annotations

import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from batchnorm import BatchNorm, Kernels

# The largest errors allowed, in u: see the golden cases.
GATES = dict(y=4, dx=4, dGamma=1, dBeta=1, mean=1, variance=1, runningMean=1, runningVariance=1)
SHAPE = (32, 64, 56, 56)
REPETITIONS = 15


def train(kernels: Kernels, steps=200, rate=0.5):
    """Learns the gamma and beta of a teacher from its outputs. The inputs are far from standardised."""
    rng = np.random.default_rng(1)
    layer = BatchNorm(kernels, (16, 8, 10, 10))
    x, dy = kernels.array(layer.shape), kernels.array(layer.shape)
    centre, spread = rng.normal(0, 50, (8, 1, 1)), rng.uniform(1, 3, (8, 1, 1))
    gamma, beta = rng.normal(size=(2, 8, 1, 1))
    losses = []
    for _ in range(steps):
        noise = rng.normal(size=layer.shape)
        x[:] = centre + spread * noise
        target = gamma * noise + beta
        error = layer.forward(x) - target
        losses.append(np.mean(error**2))
        dy[:] = 2 * error / layer.count
        layer.backward(dy)
        layer.step(rate)
    # with running statistics, which then are constants of a last step on the same batch
    error = layer.forward(x, training=False) - target
    held_out = np.mean(error**2)
    dy[:] = 2 * error / layer.count
    layer.backward(dy)
    layer.step(rate)
    frozen = np.mean((layer.forward(x, training=False) - target) ** 2)
    inference = f"{held_out:.5f} in inference, {frozen:.1e} after a frozen step"
    print(f"training: loss {losses[0]:.3f} -> {losses[-1]:.5f} in {steps} steps, {inference}")
    if not (losses[-1] < losses[0] / 50 and held_out < losses[0] / 50):
        sys.exit("training: the loss did not fall to a fiftieth")
    if not frozen < held_out:
        sys.exit("training: the loss did not fall in a frozen step")


def golden(kernels: Kernels, path: str) -> tuple[int, dict[str, float]]:
    """Holds every case against its float64 references, and its bits against those that Node computed."""
    data, position = Path(path).read_bytes(), 0

    def take(dtype, *shape):
        nonlocal position
        array = np.frombuffer(data, dtype, int(np.prod(shape)), position).reshape(shape)
        position += array.nbytes
        return array

    def align():
        nonlocal position
        position = -(-position // 8) * 8

    (cases,) = map(int, take("<u4", 1))
    if not cases:
        sys.exit("golden: there is no case")
    worst = dict.fromkeys(GATES, 0.0)
    for case in range(cases):
        align()
        *shape, _ = map(int, take("<u4", 4))
        channels = shape[1]
        epsilon, momentum = map(float, take("<f8", 2))
        layer = BatchNorm(kernels, shape, epsilon=epsilon, momentum=momentum)
        x, dy = (kernels.copy(take("<f4", *shape)) for _ in range(2))
        layer.gamma[:], layer.beta[:] = take("<f4", 2, channels)
        align()
        layer.running_mean[:], layer.running_variance[:] = take("<f8", 2, channels)
        references = [take("<f8", *(shape if name in ("y", "dx") else [channels])) for name in GATES]
        scales = [take("<f8", channels) for _ in GATES]
        node = [take("<f4", *shape), take("<f4", *shape)]
        align()
        node += [take("<f8", channels) for _ in range(2)]

        y, dx = layer.forward(x), layer.backward(dy)
        got = y, dx, layer.d_gamma, layer.d_beta, layer.mean, layer.variance, layer.running_mean, layer.running_variance
        for name, value, bits in zip(GATES, got, node):  # the first four
            if value.tobytes() != bits.tobytes():
                sys.exit(f"golden: case {case} {shape}: {name} has other bits than in Node")
        for name, value, reference, scale in zip(GATES, got, references, scales):
            unit = np.maximum(2.0**-24 * scale, 2.0**-149)
            error = np.max(np.abs(value - reference) / (unit if value.ndim == 1 else unit[:, np.newaxis]))
            if not error <= GATES[name]:
                sys.exit(f"golden: case {case} {shape}: {name} is {error:.2f} u off, allowed are {GATES[name]}")
            worst[name] = max(worst[name], float(error))
    print(f"golden: {cases} cases, bits as in Node, largest errors in u:", {k: round(u, 2) for k, u in worst.items()})
    return cases, worst


def race(kernels: Kernels) -> tuple[float, float]:
    """Medians in milliseconds of forward + running statistics + backward: the kernels, and PyTorch on the same data."""
    rng = np.random.default_rng(2)
    layer = BatchNorm(kernels, SHAPE)
    x, dy = (kernels.copy(rng.standard_normal(SHAPE, np.float32)) for _ in range(2))

    channels = SHAPE[1]
    tx, tdy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
    weight, bias = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
    running = torch.zeros(channels), torch.ones(channels)

    def ours():
        layer.forward(x)
        return layer.backward(dy)

    def theirs():
        y = torch.nn.functional.batch_norm(tx, *running, weight, bias, training=True, momentum=0.1, eps=1e-5)
        return torch.autograd.grad(y, (tx, weight, bias), tdy)[0]

    apart = np.abs(ours() - theirs().numpy()).max()
    if not apart < 1e-4:
        sys.exit(f"race: dx and PyTorch's are {apart} apart")
    times = {ours: [], theirs: []}
    for _ in range(REPETITIONS):
        for step, samples in times.items():
            begin = perf_counter()
            step()
            samples.append(1000 * (perf_counter() - begin))
    return tuple(map(statistics.median, times.values()))


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python main.py WASM GOLDEN")
    torch.set_num_threads(1)
    kernels = Kernels(sys.argv[1])
    train(kernels)
    cases, worst = golden(kernels, sys.argv[2])
    step, native = race(kernels)
    torch_version = f"PyTorch {torch.__version__.split('+')[0]}"
    print(f"one step of {list(SHAPE)}: {step:.1f} ms, {torch_version} {native:.1f} ms ({native / step:.1f}x)")
    report = {
        "host": "Python",
        "engine": f"wasmtime {version('wasmtime')}",
        "cases": cases,
        "maxU": {name: round(u, 3) for name, u in worst.items()},
        "equalBits": True,
        "shape": SHAPE,
        "stepMs": round(step, 2),
        "native": torch_version,
        "nativeMs": round(native, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
