// The least that a user of the small entry writes: its size is what plain batch normalization adds to a page.

import { BatchNorm } from "batchnorm-wasm/core";

const data = Float32Array.from({ length: 2 * 64 }, (_, i) => (i < 64 ? 1 : 3));
const y = new BatchNorm(64).forward({ data, shape: [2, 64] });
document.querySelector("pre").textContent = JSON.stringify(Array.from(y.data));
