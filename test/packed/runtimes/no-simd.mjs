// In an engine without SIMD: an import is fine, and the first use of either entry says what is missing.

import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";

const errors = {};
for (const [entry, { BatchNorm, BatchNormError, kernelInfo, init, tensor }] of Object.entries({ library, core })) {
  const bn = new BatchNorm(2);
  const uses = {
    forward: () => bn.forward({ data: new Float32Array(8), shape: [4, 2] }),
    tensor: () => tensor([4]),
    info: () => kernelInfo(),
    init: () => init(),
  };
  for (const [name, use] of Object.entries(uses))
    try {
      await use();
      errors[`${entry}: ${name}`] = "none";
    } catch (error) {
      if (!(error instanceof BatchNormError)) throw error;
      errors[`${entry}: ${name}`] = { code: error.code, message: error.message };
    }
}
console.log(JSON.stringify(errors));
