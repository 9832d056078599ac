"""Prints as JSON how many inputs PyTorch's own tests have for its norms, on the processor and for one type and mode.

"samples" are valid inputs and "errors" are wrong ones, of operators (common_methods_invocations.py, OpInfo) and of
modules (common_modules.py, ModuleInfo). It needs the packages torch, numpy and expecttest.
"""

import json

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

OPERATORS = ["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"]
MODULES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "LayerNorm", "RMSNorm"]

counts = {}
for op in op_db:
    name = op.name.removeprefix("nn.functional.")
    if name in OPERATORS and not op.variant_test_name:
        samples = list(op.sample_inputs("cpu", torch.float32))
        errors = list(op.error_inputs("cpu")) if op.error_inputs_func else []
        counts[name] = {"samples": len(samples), "errors": len(errors)}
for info in module_db:
    name = info.module_cls.__name__
    if name in MODULES:
        options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
        samples = list(info.module_inputs_func(info, **options))
        errors = list(info.module_error_inputs_func(info, **options)) if info.module_error_inputs_func else []
        counts[name] = {"samples": len(samples), "errors": len(errors)}
print(json.dumps({"version": torch.__version__.split("+")[0], "counts": counts}))
