"""Folds every model in fixtures/, and checks the results with onnx's checker, its shape inference and, where it can run
them, its reference evaluator. It needs a build, and the packages that generate.py needs:

    npm run build && venv/bin/python test/tools/onnx/check.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

FIXTURES = Path(__file__).parent / "fixtures"
CLI = Path(__file__).parents[3] / "dist/cli.js"
# the checker refuses these two before they are folded, too, and nothing in them can be folded
REFUSED = {"spatial", "training-9"}
NOT_RUN = {"decoder": "the evaluator of onnx 1.23.2 cannot run a ConvTranspose with groups"}


def decoded(array):
    return np.array(array["data"], array["type"]).reshape(array["dims"])


checked = ran = 0
for file in sorted(FIXTURES.glob("*.onnx")):
    name = file.stem
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        subprocess.run(["node", CLI, "fold", file, out, "--json"], check=True, stdout=subprocess.DEVNULL)
        if name in REFUSED:
            continue
        onnx.checker.check_model(str(out), full_check=True)
        checked += 1
        case = FIXTURES / f"{name}.json"
        if name in NOT_RUN or not case.exists():
            continue
        model = onnx.load(out)
        # the evaluator takes batch norms before version 14 of the operators for ones in training
        model.opset_import[0].version = max(15, model.opset_import[0].version)
        case = json.loads(case.read_text())
        inputs = {k: decoded(v) for k, v in case["inputs"].items()}
        outputs = ReferenceEvaluator(model).run(None, inputs)
        for output, value in zip(model.graph.output, outputs):
            expected = decoded(case["outputs"][output.name]).astype(np.float64)
            tolerance = {"float16": 4e-3, "float32": 1e-6, "float64": 1e-14}[case["outputs"][output.name]["type"]]
            difference = np.abs(value - expected).max() / np.abs(expected).max()
            assert difference < tolerance, (name, output.name, difference)
        ran += 1
print(f"{checked} folded models pass onnx's checker, and {ran} give the expected outputs in its evaluator", file=sys.stderr)
