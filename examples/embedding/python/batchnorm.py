"""A batch norm layer on WebAssembly kernels: wasmtime runs them, NumPy arrays over its linear memory are the tensors.

The module owns nothing and allocates nothing, so this file lays out the memory:

    0        64                                                              grows
    | unused | gamma | beta | ... | x | y | dx | ... each at a 64-byte boundary |

Address 0 means "none" to the kernels, and no array lies there. Nothing is copied on the way to them or back.
"""

from __future__ import annotations

from math import prod

import numpy as np
import wasmtime

ALIGNMENT = 64
PAGE = 65536


class Kernels:
    """One instance of the module, with its memory. `array` makes the tensors, `call` runs an export on them."""

    def __init__(self, path: str):
        config = wasmtime.Config()
        config.memory_may_move = False  # it grows in place, so that a view stays valid
        self.store = wasmtime.Store(wasmtime.Engine(config))
        module = wasmtime.Module.from_file(self.store.engine, path)
        imports = []
        if module.imports:  # env.memory: ours; a module that imports nothing brings its own
            imports = [wasmtime.Memory(self.store, module.imports[0].type)]
        exports = wasmtime.Instance(self.store, module, imports).exports(self.store)
        self.memory = imports[0] if imports else exports["memory"]
        self.exports = exports
        self.base = self.view().ctypes.data
        self.end = ALIGNMENT

    def view(self) -> np.ndarray:
        return np.frombuffer(self.memory.get_buffer_ptr(self.store), np.uint8)

    def array(self, shape, dtype=np.float32) -> np.ndarray:
        """Zeros in linear memory."""
        size = prod(np.atleast_1d(shape)) * np.dtype(dtype).itemsize
        begin, self.end = self.end, -(-(self.end + size) // ALIGNMENT) * ALIGNMENT
        missing = self.end - self.memory.data_len(self.store)
        if missing > 0:
            self.memory.grow(self.store, -(-missing // PAGE))
        return self.view()[begin : begin + size].view(dtype).reshape(shape)

    def copy(self, source: np.ndarray) -> np.ndarray:
        target = self.array(source.shape, source.dtype)
        target[...] = source
        return target

    def address(self, array: np.ndarray | None) -> int:
        if array is None:
            return 0
        address = array.ctypes.data - self.base
        if not (0 < address <= self.end - array.nbytes and array.flags.c_contiguous):
            raise ValueError("expected a contiguous array made by Kernels.array, got one outside of linear memory")
        return address

    def call(self, name: str, *arguments):
        """Arrays go as their addresses, numbers as they are."""
        plain = (a if isinstance(a, (int, float)) else self.address(a) for a in arguments)
        return self.exports[name](self.store, *plain)


class BatchNorm:
    """Batch normalization over one axis of a fixed shape, with PyTorch's conventions."""

    def __init__(self, kernels: Kernels, shape, axis=1, epsilon=1e-5, momentum=0.1):
        self.kernels, self.shape, self.epsilon, self.momentum = kernels, tuple(shape), epsilon, momentum
        channels = shape[axis]
        self.geometry = prod(shape[:axis]), channels, prod(shape[axis + 1 :])
        self.count = prod(shape) // channels

        self.gamma, self.beta = (kernels.array(channels) for _ in range(2))
        self.running_mean, self.running_variance = (kernels.array(channels, np.float64) for _ in range(2))
        self.gamma[:] = 1
        self.running_variance[:] = 1

        self.mean, self.variance, self.inv_std, self.d_gamma, self.d_beta = (
            kernels.array(channels, np.float64) for _ in range(5)
        )
        self.workspace = kernels.array(kernels.call("workspaceF32", *self.geometry), np.uint8)
        self.y, self.dx = kernels.array(shape), kernels.array(shape)

    def _check(self, name: str, tensor: np.ndarray):
        if tensor.shape != self.shape or tensor.dtype != np.float32:
            raise ValueError(f"{name}: expected float32 {self.shape}, got {tensor.dtype} {tensor.shape}")

    def forward(self, x: np.ndarray, training=True) -> np.ndarray:
        self._check("x", x)
        call, affine, rest = self.kernels.call, (self.gamma, self.beta), (self.workspace, *self.geometry)
        if training:
            if self.count < 2:
                raise ValueError(f"expected more than 1 value per channel when training, got {self.shape}")
            statistics = self.mean, self.variance
            call("forwardF32", x, self.y, *affine, *statistics, self.inv_std, *rest, self.epsilon)
            running = self.running_mean, self.running_variance
            call("trackF64", *running, *statistics, self.momentum, float(self.count), self.geometry[1])
            self.x = x  # backward needs it
        else:
            statistics = self.running_mean, self.running_variance
            call("inferenceF32", x, self.y, *affine, *statistics, *rest, self.epsilon)
        return self.y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """The gradients of the last training forward: dx, which is returned, d_gamma and d_beta."""
        self._check("dy", dy)
        saved, gradients = (self.gamma, self.mean, self.inv_std), (self.d_gamma, self.d_beta)
        self.kernels.call("backwardF32", self.x, dy, self.dx, *saved, *gradients, self.workspace, *self.geometry)
        return self.dx

    def step(self, rate: float):
        """Stochastic gradient descent."""
        self.gamma -= rate * self.d_gamma
        self.beta -= rate * self.d_beta
