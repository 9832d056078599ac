"""Folds four networks of onnx's own test data, with random weights instead of their constants, and runs them before and
after in onnxruntime-web. It needs a build, and the packages that generate.py needs; docs/guides/folding-files.md has the result:

    npm run build && venv/bin/python test/tools/onnx/networks.py
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
ROOT = Path(__file__).parents[3]
random = np.random.default_rng(1)


def values(kind, shape):
    """Returns a batch norm's scale, bias, mean or variance, or, if kind is None, the weight or bias of a layer."""
    normal = random.standard_normal(shape)
    if kind == 4:
        return np.exp(0.3 * normal)
    if kind in (2, 3):
        return 0.3 * normal
    if kind is None and len(shape) >= 2:
        return normal * np.sqrt(2 / np.prod(shape[1:]))
    return 1 + 0.2 * normal


for name in ["resnet50", "inception_v2", "shufflenet", "densenet121"]:
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kinds = {i: k for n in graph.node if n.op_type == "BatchNormalization" for k, i in enumerate(n.input) if k > 0}
    fills = [n for n in graph.node if n.op_type == "ConstantOfShape"]
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    outputs = list(graph.output)
    if nodes[-1].op_type == "Softmax":  # it would make one of them 1 and all others 0
        shape = [d.dim_value for d in outputs[0].type.tensor_type.shape.dim]
        outputs = [helper.make_tensor_value_info(nodes.pop().input[0], onnx.TensorProto.FLOAT, shape)]
    used = {i for n in nodes for i in n.input}
    tensors = [t for t in graph.initializer if t.name in used]
    for n in fills:
        shape = tuple(int(v) for v in constants[n.input[0]])
        tensors.append(numpy_helper.from_array(values(kinds.get(n.output[0]), shape).astype(np.float32), n.output[0]))
    # before version 4 of the format every initialiser is an input
    inputs = [i for i in graph.input if i.name in used]
    known = {i.name for i in inputs}
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors if t.name not in known]
    filled = helper.make_graph(nodes, graph.name, inputs, outputs, tensors, value_info=graph.value_info)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        onnx.save(helper.make_model(filled, opset_imports=model.opset_import, ir_version=model.ir_version), file)
        command = ["node", ROOT / "dist/cli.js", "fold", file, Path(folder) / "folded.onnx", "--verify"]
        text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        print("\n".join(line for line in text.splitlines() if "batch norms folded" in line or line.startswith("verified")))
