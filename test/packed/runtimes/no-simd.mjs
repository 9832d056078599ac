// In an engine without SIMD: an import is fine, and the first use says what is missing.

import { BatchNorm, BatchNormError, info, init, tensor } from "batchnorm-wasm";

const bn = new BatchNorm(2);
const uses = {
  forward: () => bn.forward({ data: new Float32Array(8), shape: [4, 2] }),
  tensor: () => tensor([4]),
  info: () => info(),
  init: () => init(),
};
const errors = {};
for (const [name, use] of Object.entries(uses))
  try {
    await use();
    errors[name] = "none";
  } catch (error) {
    if (!(error instanceof BatchNormError)) throw error;
    errors[name] = { code: error.code, message: error.message };
  }
console.log(JSON.stringify(errors));
