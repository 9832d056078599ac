"""Makes the checkpoint of this folder, batch-norms.safetensors, and what PyTorch computes from it: expected.json.

    python3 -m venv venv && venv/bin/pip install "torch==2.15.0" "safetensors==0.8.0" numpy
    venv/bin/python test/tools/torch/make.py && npm run format

The batch norms have been trained on a few batches, and differ in the type of their values, in momentum, and in what they have: one
has neither gamma nor beta, and one has no count of batches, as PyTorch before 0.4.1 wrote them.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

folder = pathlib.Path(__file__).parent
torch.manual_seed(20)
torch.set_num_threads(1)

net = nn.ModuleDict(
    {
        "conv1": nn.Conv2d(3, 4, 3, bias=False),
        "bn1": nn.BatchNorm2d(4),
        "layer1": nn.ModuleList([nn.ModuleDict({"bn1": nn.BatchNorm2d(5), "bn2": nn.BatchNorm2d(5, momentum=None)})]),
        "head": nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)),
        "plain": nn.BatchNorm1d(3, affine=False),
        "old": nn.BatchNorm2d(3),
    }
)
types = {"layer1.0.bn1": torch.float16, "layer1.0.bn2": torch.bfloat16, "head.1": torch.float64}


def batch(bn, size):
    image = isinstance(bn, nn.BatchNorm2d)
    return torch.randn((size, bn.num_features) + ((3, 2) if image else ())) * 2 + torch.arange(bn.num_features).reshape(
        (1, -1) + ((1, 1) if image else ())
    )


norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
for name, bn in norms.items():
    if bn.affine:
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    for _ in range(7):
        bn(batch(bn, 16))
    bn.to(types.get(name, torch.float32)).eval()

state = net.state_dict()
del state["old.num_batches_tracked"]
save_file(state, folder / "batch-norms.safetensors", metadata={"format": "pt"})

expected = {}
for name, bn in norms.items():
    # the stored values, and arithmetic in float64
    wide = type(bn)(bn.num_features, affine=bn.affine)
    wide.load_state_dict({key: value.double() for key, value in bn.state_dict().items()})
    wide = wide.double().eval()
    wide.load_state_dict({key: value.double() for key, value in bn.state_dict().items()})
    x = batch(bn, 2)
    expected[name] = {"shape": list(x.shape), "x": x.flatten().tolist(), "y": wide(x.double()).flatten().tolist()}
(folder / "expected.json").write_text(json.dumps(expected))
