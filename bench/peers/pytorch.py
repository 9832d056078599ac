"""Peer: native PyTorch on one thread. Answers each line of stdin, a JSON object, by one line of stdout, and times itself.

Tensors come and go in files of raw float32, vectors in the JSON. The operations are ATen's own, without autograd on top.
"""

import gc
import json
import os
import sys
from time import perf_counter

import torch

torch.set_num_threads(1)
torch.set_grad_enabled(False)
gc.disable()
aten = torch.ops.aten


def read(path, shape, channels_last):
    x = torch.from_file(path, size=os.path.getsize(path) // 4).clone().view(shape)
    return x.movedim(-1, 1) if channels_last else x


def write(path, x, channels_last):
    x = x.movedim(1, -1) if channels_last and x.dim() > 1 else x
    torch.from_file(path, shared=True, size=x.numel()).copy_(x.reshape(-1))


class Prepared:
    def __init__(self, folder, shape, layout, epsilon, vectors):
        self.channels_last = layout == "channels-last" and len(shape) > 2
        x, dy = (read(os.path.join(folder, name), shape, self.channels_last) for name in ("x", "dy"))
        gamma, beta, mean, variance = (torch.tensor(vectors[k]) for k in ("gamma", "beta", "runningMean", "runningVariance"))
        kept = mean.clone(), variance.clone()  # training updates running statistics; inference has others

        def forward():
            return aten.native_batch_norm(x, gamma, beta, *kept, True, 0.1, epsilon)

        def backward(saved):
            return aten.native_batch_norm_backward(dy, x, gamma, *kept, *saved, True, epsilon, [True, True, True])

        saved = forward()[1:]

        def step():
            y, *saved = forward()
            return (y, *backward(saved))

        gradients = ["dx", "dGamma", "dBeta"]
        self.operations = {
            "inference": (["y"], lambda: aten.native_batch_norm(x, gamma, beta, mean, variance, False, 0.1, epsilon)),
            "forward": (["y"], forward),
            "backward": (gradients, lambda: backward(saved)),
            "step": (["y", *gradients], step),
        }

    def time(self, operation, repeats):
        _, call = self.operations[operation]
        if repeats > 1:
            call()
        start = perf_counter()
        for _ in range(repeats):
            call()
        return 1000 * (perf_counter() - start) / repeats

    def results(self, operation, folder):
        names, call = self.operations[operation]
        for name, value in zip(names, call()):
            write(os.path.join(folder, name), value, self.channels_last)
        return names


prepared = {}


def answer(action, folder=None, **options):
    """Prepared problems go by the name of their folder."""
    if action == "version":
        return torch.__version__
    if action == "prepare":
        prepared[folder] = Prepared(folder, **options)
        return list(prepared[folder].operations)
    if action == "dispose":
        return prepared.pop(folder, None) and None
    if action == "time":
        return prepared[folder].time(**options)
    return prepared[folder].results(folder=folder, **options)


for line in sys.stdin:
    try:
        reply = {"answer": answer(**json.loads(line))}
    except Exception as error:
        reply = {"failure": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), flush=True)
