// The least that a user of the complete entry writes who uses what the small one lacks: an activation works here only if
// the bundler has kept what the entry installs.

import { BatchNorm } from "batchnorm-wasm";

const data = Float32Array.from({ length: 2 * 64 }, (_, i) => (i < 64 ? 1 : 3));
const y = new BatchNorm(64, { activation: "relu" }).forward({ data, shape: [2, 64] });
document.querySelector("pre").textContent = JSON.stringify(Array.from(y.data));
