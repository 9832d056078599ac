"""Makes the ONNX models in fixtures/, with inputs and outputs in fixtures/*.json. The outputs are PyTorch's for the
models that it has exported, and those of onnx's reference evaluator for the others.

Debian 12, with packages python3-torch and python3-venv:
    /usr/bin/python3 -m venv --system-site-packages venv && venv/bin/pip install "onnx==1.23.2" "numpy<2"
    venv/bin/python test/tools/onnx/generate.py
"""

import io
import json
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

OUT = Path(__file__).parent / "fixtures"
F, H, D, B = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
random = np.random.default_rng(20)
torch.manual_seed(20)


def normal(*shape, scale=0.5):
    return (random.standard_normal(shape) * scale).astype(np.float32)


def positive(*shape):
    return np.exp(random.standard_normal(shape) * 0.7).astype(np.float32)


def encoded(array):
    array = np.asarray(array)
    # the shortest decimals that are these numbers in the array's own type
    data = [float(str(v + 0)) for v in array.ravel()]
    return {"type": str(array.dtype), "dims": list(array.shape), "data": data}


def save(name, model, check=True, evaluate=True, external=None, outputs=None, described=False, **inputs):
    if check:
        onnx.checker.check_model(model, full_check=True)
    if external:
        (OUT / external).unlink(missing_ok=True)  # it would get longer
        onnx.external_data_helper.convert_model_to_external_data(model, location=external, size_threshold=0)
        onnx.save(model, OUT / f"{name}.onnx")
        model = onnx.load(OUT / f"{name}.onnx")
    else:
        (OUT / f"{name}.onnx").write_bytes(model.SerializeToString())
    if described:
        describe(name, model.graph)
    if not evaluate:
        return
    names = [output.name for output in model.graph.output]
    # the evaluator takes batch norms before version 14 of the operators for ones in training
    newer = onnx.ModelProto.FromString(model.SerializeToString())
    newer.opset_import[0].version = max(15, newer.opset_import[0].version)
    outputs = outputs or dict(zip(names, ReferenceEvaluator(newer).run(None, inputs)))
    case = {kind: {k: encoded(v) for k, v in values.items()} for kind, values in [("inputs", inputs), ("outputs", outputs)]}
    (OUT / f"{name}.json").write_text(json.dumps(case, separators=(",", ":")) + "\n")


# Networks, as PyTorch exports them


BATCH_NORMS = {}


def describe(name, graph, path="", outer=None):
    """Notes the batch norms of a graph as onnx's own reader of tensors has them."""
    values = dict(outer or {})
    values.update({t.name: numpy_helper.to_array(t, str(OUT)) for t in graph.initializer})
    for n in graph.node:
        if n.op_type == "Constant":
            values[n.output[0]] = numpy_helper.to_array(n.attribute[0].t)
        if n.op_type == "Identity" and n.input[0] in values:
            values[n.output[0]] = values[n.input[0]]
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                describe(name, a.g, f"{path}{n.name or n.output[0]}/{a.name}/", values)
        if n.op_type == "BatchNormalization":
            attributes = {a.name: float(str(np.float32(a.f))) for a in n.attribute if a.type == onnx.AttributeProto.FLOAT}
            vectors = [np.asarray(values[i]).astype(np.float64).ravel().tolist() for i in n.input[1:]]
            BATCH_NORMS.setdefault(name, []).append({
                "name": path + (n.name or n.output[0]), "epsilon": attributes.get("epsilon", 1e-5),
                "momentum": attributes.get("momentum", 0.9), **dict(zip(["gamma", "beta", "mean", "variance"], vectors))})


def filled(module):
    """Gives all batch norms statistics that are neither trivial nor ill-conditioned."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            c = m.num_features
            m.weight.data = torch.tensor(normal(c) + 1)
            m.bias.data = torch.tensor(normal(c))
            m.running_mean = torch.tensor(normal(c, scale=1))
            m.running_var = torch.tensor(positive(c))
    return module.eval()


def export(name, module, *shape, fill=True):
    module = filled(module) if fill else module.eval()
    x = torch.tensor(normal(*shape, scale=1))
    file = io.BytesIO()
    # PRESERVE, because in training mode EVAL the exporter itself folds convolutions
    torch.onnx.export(module, x, file, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                      opset_version=13, input_names=["x"], output_names=["y"])
    with torch.no_grad():
        outputs = {"y": module(x).numpy()}
    save(name, onnx.load_from_string(file.getvalue()), outputs=outputs, described=name in ["mlp", "untrained"],
         x=x.numpy())


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Inverted(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return x + self.layers(x)


class Dense(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth), nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


export("resnet", nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
    Residual(6, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), 2, 3, 8, 8)
export("mobilenet", nn.Sequential(
    nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), Inverted(4, 12),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 5)), 2, 3, 8, 8)
export("densenet", nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1, bias=False), Dense(4, 3), Dense(7, 3), nn.BatchNorm2d(10), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)), 2, 3, 6, 6)
export("decoder", nn.Sequential(
    nn.ConvTranspose2d(6, 8, 3, 2, 1, output_padding=1, groups=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.1),
    nn.ConvTranspose2d(8, 4, 2, 2, bias=False), nn.BatchNorm2d(4), nn.Tanh()), 1, 6, 4, 4)
export("mlp", nn.Sequential(
    nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 6, bias=False), nn.BatchNorm1d(6)), 4, 7)
# the end of ArcFace: a batch norm behind an activation, whose flattened channels a linear layer takes
export("arcface", nn.Sequential(
    nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Dropout(0.4), nn.Flatten(),
    nn.Linear(36, 5), nn.BatchNorm1d(5)), 2, 2, 5, 5)

# the exporter writes equal parameters once, and Identity nodes for the others
export("untrained", nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=1e-3, momentum=0.2)), 1, 2, 4, 4, fill=False)

# PyTorch's fused weights
fused, pairs = {}, {}
for name, layer, fuse, options in [
    ("conv", nn.Conv2d(4, 6, 3, groups=2), fuse_conv_bn_eval, {}),
    ("transposed", nn.ConvTranspose2d(4, 6, 3), fuse_conv_bn_eval, {"transpose": True}),
    ("linear", nn.Linear(4, 6), fuse_linear_bn_eval, {}),
]:
    bn = filled((nn.BatchNorm1d if name == "linear" else nn.BatchNorm2d)(6))
    x = torch.tensor(normal(*([2, 4] if name == "linear" else [1, 4, 5, 5])))
    file = io.BytesIO()
    torch.onnx.export(nn.Sequential(layer.eval(), bn), x, file, training=torch.onnx.TrainingMode.PRESERVE,
                      do_constant_folding=False, opset_version=13, input_names=["x"], output_names=["y"])
    save(f"fused-{name}", onnx.load_from_string(file.getvalue()), evaluate=False)
    result = fuse(layer, bn, **options)
    pairs.update({f"{name}.{k}": v for k, v in layer.state_dict().items()})
    pairs.update({f"{name}_bn.{k}": v for k, v in bn.state_dict().items()})
    fused[name] = {"weight": encoded(result.weight.detach().numpy()), "bias": encoded(result.bias.detach().numpy())}
(OUT / "fused.json").write_text(json.dumps(fused, separators=(",", ":")) + "\n")


# the same layers as a state of PyTorch
(OUT / "pairs.json").write_text(json.dumps({k: encoded(v.numpy()) for k, v in pairs.items()}, separators=(",", ":")) + "\n")


# Single cases, with onnx.helper

RANDOM = {"bn_scale": lambda c: normal(c) + 1, "bn_B": lambda c: normal(c), "bn_mean": lambda c: normal(c, scale=1),
          "bn_var": lambda c: positive(c)}


def parameters(name, channels, **others):
    """Returns four initialisers of a batch norm."""
    return {f"{name}_{kind}": others.get(kind, RANDOM[f"bn_{kind}"](channels)) for kind in ["scale", "B", "mean", "var"]}


def bn(name, x, y, outputs=(), **attributes):
    return helper.make_node("BatchNormalization", [x] + [f"{name}_{k}" for k in ["scale", "B", "mean", "var"]],
                            [y, *outputs], name=name, **attributes)


def node(op, inputs, outputs, name=None, **attributes):
    return helper.make_node(op, inputs, outputs, name=name or outputs[0], **attributes)


def info(name, shape, dtype=F):
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, initializers, opset=17, ir=8, values=(), overridable=(), dtype=F, **more):
    tensors = [tensor(k, v) if isinstance(v, np.ndarray) else v for k, v in initializers.items()]
    graph = helper.make_graph(
        nodes, "graph", [info(k, s, dtype) for k, s in inputs.items()] + list(overridable),
        [info(k, s, dtype) for k, s in outputs.items()], tensors, value_info=list(values), **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="test")


X = normal(2, 4, 5, 5, scale=1)
IMAGE = {"x": [2, 4, 5, 5]}
W = {"w": normal(6, 4, 3, 3)}
CONV = node("Conv", ["x", "w"], ["c"])
SHAPE = [2, 6, 3, 3]

# version 3 of the format, where every initialiser is an input
tensors = {**W, **parameters("bn", 6)}
save("ir3", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, tensors, opset=9, ir=3,
                  overridable=[info(k, v.shape) for k, v in tensors.items()]), x=X)
save("overridable", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, tensors, overridable=[info("w", [6, 4, 3, 3])]),
     x=X, w=tensors["w"])
save("overridable-mean", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, tensors,
                               overridable=[info("bn_mean", [6])]), x=X, bn_mean=tensors["bn_mean"])
# two convolutions with one weight, and two batch norms with one mean
save("shared", model(
    [CONV, bn("bn", "c", "y"), node("Conv", ["x", "w"], ["d"]),
     node("BatchNormalization", ["d", "bn2_scale", "bn2_B", "bn_mean", "bn2_var"], ["z"])],
    IMAGE, {"y": SHAPE, "z": SHAPE},
    {**W, **parameters("bn", 6), **{k: v for k, v in parameters("bn2", 6).items() if k != "bn2_mean"}}), x=X)
save("shared-kept", model([CONV, bn("bn", "c", "y"), node("Conv", ["x", "w"], ["z"])],
                          IMAGE, {"y": SHAPE, "z": SHAPE}, {**W, **parameters("bn", 6)}), x=X)
save("consumers", model([CONV, bn("bn", "c", "n"), node("Relu", ["c"], ["r"]), node("Add", ["n", "r"], ["y"])],
                        IMAGE, {"y": SHAPE}, {**W, **parameters("bn", 6)}), x=X)
save("conv-is-output", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE, "c": SHAPE}, {**W, **parameters("bn", 6)}), x=X)
save("mean-is-output", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE, "bn_mean": [6]}, {**W, **parameters("bn", 6)}), x=X)
constants = [node("Constant", [], [k], value=tensor(k, v)) for k, v in {**W, **parameters("bn", 6)}.items()]
save("constants", model([*constants, CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, {}), described=True, x=X)
save("between", model(
    [CONV, node("Identity", ["c"], ["i"]), node("Dropout", ["i"], ["d"]), node("AveragePool", ["d"], ["a"], kernel_shape=[2, 2]),
     bn("bn", "a", "y")], IMAGE, {"y": [2, 6, 2, 2]}, {**W, **parameters("bn", 6)}, values=[info("a", [2, 6, 2, 2])]), x=X)
save("chain", model([CONV, bn("bn", "c", "n"), bn("bn2", "n", "y")], IMAGE, {"y": SHAPE},
                    {**W, **parameters("bn", 6), **parameters("bn2", 6)}), x=X)
save("max-pool", model(
    [CONV, node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), bn("bn", "p", "y")], IMAGE, {"y": SHAPE},
    {**W, **parameters("bn", 6, scale=positive(6))}), x=X)
save("max-pool-negative", model(
    [CONV, node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]), bn("bn", "p", "y")], IMAGE, {"y": [2, 6, 2, 2]},
    {**W, **parameters("bn", 6, scale=-positive(6))}), x=X)

# forward
save("forward-conv", model(
    [node("Relu", ["x"], ["r"]), bn("bn", "r", "n"), node("Conv", ["n", "w", "b"], ["y"], group=2)], IMAGE, {"y": SHAPE},
    {"w": normal(6, 2, 3, 3), "b": normal(6), **parameters("bn", 4)}, values=[info("n", [2, 4, 5, 5])]), x=X)
save("forward-padded", model(
    [bn("bn", "x", "n"), node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])], IMAGE, {"y": [2, 6, 5, 5]},
    {**W, **parameters("bn", 4)}), x=X)
save("forward-same", model(
    [bn("bn", "x", "n"), node("Conv", ["n", "w"], ["y"], auto_pad="SAME_UPPER")], IMAGE, {"y": [2, 6, 5, 5]},
    {**W, **parameters("bn", 4)}), x=X)
save("forward-two", model(
    [bn("bn", "x", "n"), node("Conv", ["n", "w"], ["y"]),
     node("GlobalAveragePool", ["n"], ["g"]), node("Flatten", ["g"], ["f"]), node("Gemm", ["f", "v"], ["z"], alpha=0.5)],
    IMAGE, {"y": SHAPE, "z": [2, 3]}, {**W, "v": normal(4, 3), **parameters("bn", 4)}), x=X)
save("forward-transposed", model(
    [bn("bn", "x", "n"), node("ConvTranspose", ["n", "w"], ["y"])], IMAGE, {"y": [2, 6, 7, 7]},
    {"w": normal(4, 6, 3, 3), **parameters("bn", 4)}), x=X)
save("forward-reshape", model(
    [bn("bn", "x", "n"), node("Reshape", ["n", "s"], ["f"]), node("MatMul", ["f", "v"], ["m"]), node("Add", ["b", "m"], ["y"])],
    IMAGE, {"y": [2, 3]}, {"v": normal(100, 3), "b": normal(3), "s": np.array([-1, 100]), **parameters("bn", 4)},
    values=[info("f", [2, 100]), info("n", [2, 4, 5, 5])]), x=X)

# linear
ROWS = {"x": [3, 4]}
R = normal(3, 4, scale=1)
V = {"w": normal(4, 6)}
save("matmul", model([node("MatMul", ["x", "w"], ["m"]), bn("bn", "m", "y")], ROWS, {"y": [3, 6]}, {**V, **parameters("bn", 6)}), x=R)
save("matmul-add", model(
    [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), bn("bn", "a", "y")], ROWS, {"y": [3, 6]},
    {**V, "b": normal(1, 6), **parameters("bn", 6)}), x=R)
save("matmul-scalar", model(
    [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), bn("bn", "a", "y")], ROWS, {"y": [3, 6]},
    {**V, "b": normal(1)[0:1].reshape(()), **parameters("bn", 6)}), x=R)
save("matmul-rank3", model(
    [node("MatMul", ["x", "w"], ["m"]), bn("bn", "m", "y")], {"x": [2, 6, 4]}, {"y": [2, 6, 6]}, {**V, **parameters("bn", 6)}),
    x=normal(2, 6, 4))
save("matmul-forward", model([bn("bn", "x", "n"), node("MatMul", ["n", "w"], ["y"])], ROWS, {"y": [3, 6]}, {**V, **parameters("bn", 4)}), x=R)
save("gemm", model(
    [node("Gemm", ["x", "w", "b"], ["g"], alpha=0.75, beta=-2.0, transB=1), bn("bn", "g", "y")], ROWS, {"y": [3, 6]},
    {"w": normal(6, 4), "b": normal(1, 6), **parameters("bn", 6)}), x=R)
save("gemm-rows", model(
    [node("Gemm", ["x", "w", "b"], ["g"]), bn("bn", "g", "y")], ROWS, {"y": [3, 6]},
    {**V, "b": normal(3, 6), **parameters("bn", 6)}), x=R)
save("gemm-forward", model(
    [bn("bn", "x", "n"), node("Gemm", ["n", "w", "b"], ["y"], alpha=0.75, beta=-2.0)], ROWS, {"y": [3, 6]},
    {**V, "b": normal(6), **parameters("bn", 4)}), x=R)

# modes in which batch norm is something else
save("training", model([CONV, bn("bn", "c", "y", ["m", "v"], training_mode=1)], IMAGE, {"y": SHAPE}, {**W, **parameters("bn", 6)}), x=X)
save("training-9", model([CONV, bn("bn", "c", "y", ["bn_mean2", "bn_var2"])], IMAGE, {"y": SHAPE}, {**W, **parameters("bn", 6)},
                         opset=9, ir=4), check=False, evaluate=False)
save("spatial", model([CONV, bn("bn", "c", "y", spatial=0)], IMAGE, {"y": SHAPE},
                      {**W, **{k: np.broadcast_to(v[:, None, None], (6, 3, 3)).copy() for k, v in parameters("bn", 6).items()}},
                      opset=7, ir=4), check=False, evaluate=False)
save("lossy", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, {**W, **parameters("bn", 6, mean=normal(6) + 1e4)}), x=X)
save("negative-variance", model([CONV, bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, {**W, **parameters("bn", 6, var=-positive(6))}),
     evaluate=False)

# graphs inside nodes: one branch has a layer of its own, the other takes an outer value and the outer weight
then = helper.make_graph(
    [node("Conv", ["x", "w2"], ["t1"]), bn("bn1", "t1", "t2")], "then", [], [info("t2", SHAPE)],
    [tensor("w2", normal(6, 4, 3, 3)), *[tensor(k, v) for k, v in parameters("bn1", 6).items()]])
other = helper.make_graph(
    [node("Conv", ["x", "w"], ["e1"]), bn("bn", "e1", "e2"), bn("bn2", "c", "e3"), node("Add", ["e2", "e3"], ["e4"])],
    "else", [], [info("e4", SHAPE)])
branches = model(
    [CONV, bn("bn", "c", "n"), node("If", ["flag"], ["y"], then_branch=then, else_branch=other)], IMAGE, {"y": SHAPE, "n": SHAPE},
    {**W, **parameters("bn", 6), **parameters("bn2", 6)}, overridable=[helper.make_tensor_value_info("flag", TensorProto.BOOL, [])])
for flag in [True, False]:
    save(f"if-{str(flag).lower()}", branches, described=flag, x=X, flag=np.array(flag))

# external data, one tensor of which two initialisers share
save("external", model([CONV, bn("bn", "c", "y"), node("Conv", ["y", "w2"], ["d"]), bn("bn2", "d", "z")], IMAGE, {"z": [2, 3, 1, 1]},
                       {**W, "w2": normal(3, 6, 3, 3), **parameters("bn", 6), **parameters("bn2", 3)}), external="external.data", described=True, x=X)

# other types, in raw_data and in the fields of their own
for name, dtype, kind in [("float16", np.float16, H), ("float64", np.float64, D)]:
    cast = {k: v.astype(dtype) for k, v in {**W, "b": normal(6), **parameters("bn", 6)}.items()}
    save(name, model([node("Conv", ["x", "w", "b"], ["c"]), bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, cast, dtype=kind), described=True,
         x=X.astype(dtype))
    lists = {k: helper.make_tensor(k, kind, v.shape, v.astype(np.float32 if kind == H else dtype).ravel().tolist()) for k, v in cast.items()}
    save(f"{name}-list", model([node("Conv", ["x", "w", "b"], ["c"]), bn("bn", "c", "y")], IMAGE, {"y": SHAPE}, lists, dtype=kind),
         described=True, x=X.astype(dtype))
brain = {k: v.astype(ml_dtypes.bfloat16) for k, v in {"w": normal(6, 4), "b": normal(6), **parameters("bn", 6)}.items()}
save("bfloat16", model([node("Gemm", ["x", "w", "b"], ["c"], transB=1), bn("bn", "c", "y")], ROWS, {"y": [3, 6]}, {
    k: helper.make_tensor(k, B, v.shape, v.tobytes(), raw=True) for k, v in brain.items()}, dtype=B), evaluate=False, described=True)
# graphs that run several times, of a Loop and of a Scan; numbers of their own, so that those above stay as they are
random = np.random.default_rng(21)
body = helper.make_graph(
    [node("Identity", ["going"], ["goes"]),
     node("Conv", ["s", "w1"], ["c1"], pads=[1, 1, 1, 1]), bn("bn1", "c1", "n1"), node("Relu", ["n1"], ["r"]),
     node("Conv", ["r", "w2"], ["c2"], pads=[1, 1, 1, 1]), bn("bn2", "c2", "n2"),
     helper.make_node("BatchNormalization", ["n2", "bn3_scale", "bn3_B", "m", "bn3_var"], ["s2"], name="bn3"),
     node("Mul", ["m", "bn3_scale"], ["m2"])],
    "body", [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("going", TensorProto.BOOL, []),
             info("s", [2, 4, 5, 5]), info("m", [4])],
    [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), info("s2", [2, 4, 5, 5]), info("m2", [4])],
    [tensor("w1", normal(4, 4, 3, 3)), *[tensor(k, v) for k, v in parameters("bn1", 4).items()]])
save("loop", model(
    [node("Loop", ["times", "true", "x", "mean"], ["y", "last"], body=body)], {"x": [2, 4, 5, 5]}, {"y": [2, 4, 5, 5], "last": [4]},
    {"times": np.array(3), "true": np.array(True), "mean": normal(4), "w2": normal(4, 4, 3, 3), **parameters("bn2", 4), **parameters("bn3", 4)}), x=X)
body = helper.make_graph(
    [bn("bn1", "s", "n1"), node("Conv", ["n1", "w"], ["c"]), bn("bn2", "c", "n2"), node("Add", ["a", "n2"], ["a2"])],
    "body", [info("a", [2, 6, 3, 3]), info("s", [2, 4, 5, 5])], [info("a2", [2, 6, 3, 3]), info("n2", [2, 6, 3, 3])],
    [tensor("w", normal(6, 4, 3, 3))])
save("scan", model(
    [node("Scan", ["zero", "x"], ["sum", "y"], body=body, num_scan_inputs=1)], {"x": [3, 2, 4, 5, 5]},
    {"sum": [2, 6, 3, 3], "y": [3, 2, 6, 3, 3]},
    {"zero": np.zeros((2, 6, 3, 3), np.float32), **parameters("bn1", 4), **parameters("bn2", 6)}),
     described=True, x=normal(3, 2, 4, 5, 5, scale=1))
(OUT / "batch-norms.json").write_text(json.dumps(BATCH_NORMS, separators=(",", ":")) + "\n")

print(sum(f.stat().st_size for f in OUT.iterdir()), "bytes in", len(list(OUT.iterdir())), "files", file=sys.stderr)
