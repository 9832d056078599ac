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

VERSION = 2  # of the kernels' ABI
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
        if (version := self.call("version")) != VERSION:
            raise ValueError(f"{path}: expected version {VERSION} of the kernels, got {version}")

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
        self.y, self.dx = kernels.array(shape), kernels.array(shape)
        self.workspace = kernels.array(kernels.call("workspace", self.y.itemsize, *self.geometry), np.uint8)

    def _check(self, name: str, tensor: np.ndarray):
        if tensor.shape != self.shape or tensor.dtype != np.float32:
            raise ValueError(f"{name}: expected float32 {self.shape}, got {tensor.dtype} {tensor.shape}")

    def forward(self, x: np.ndarray, training=True) -> np.ndarray:
        """y, by the batch's statistics when training, which also moves the running ones; else by the running ones."""
        self._check("x", x)
        if training and self.count < 2:
            raise ValueError(f"expected more than 1 value per channel when training, got {self.shape}")
        running = self.running_mean, self.running_variance
        mean, variance = (self.mean, self.variance) if training else running
        tensors = x, self.y, self.gamma, self.beta, mean, variance, self.inv_std, self.workspace
        self.kernels.call("forward" if training else "inference", *tensors, *self.geometry, self.epsilon)
        if training:
            self.kernels.call("track", *running, mean, variance, self.momentum, float(self.count), self.geometry[1])
        self.saved = x, mean, int(not training)  # backward needs them
        return self.y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """The gradients of the last forward: dx, which is returned, d_gamma and d_beta. Running statistics are constants."""
        self._check("dy", dy)
        x, mean, constant = self.saved
        tensors = x, dy, self.dx, self.gamma, mean, self.inv_std, self.d_gamma, self.d_beta, self.workspace
        self.kernels.call("backward", *tensors, *self.geometry, constant)
        return self.dx

    def step(self, rate: float):
        """Stochastic gradient descent."""
        self.gamma -= rate * self.d_gamma
        self.beta -= rate * self.d_beta
