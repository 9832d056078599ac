// A dense layer and batch norm learn a linear map by gradient descent.
import { BatchNorm } from "batchnorm-wasm";

const [samples, inputs, units, rate] = [64, 8, 4, 0.2];
const x = Array.from({ length: samples }, () => Float32Array.from({ length: inputs }, Math.random));
const target = x.flatMap((row) => Array.from(row.subarray(0, units), (v) => 3 * v + 1));
const weight = Array.from({ length: units }, () => Float32Array.from({ length: inputs }, () => Math.random() - 0.5));
const dense = () => x.flatMap((row) => weight.map((w) => w.reduce((sum, v, i) => sum + v * row[i], 0)));

const bn = new BatchNorm(units);
const shape = [samples, units];
const losses = [];
for (let step = 0; step < 200; step++) {
  const y = bn.forward({ data: Float32Array.from(dense()), shape });
  const error = y.data.map((v, k) => v - target[k]);
  losses.push(error.reduce((sum, e) => sum + e * e, 0) / samples);
  const { dx, dGamma, dBeta } = bn.backward({ data: error.map((e) => (2 * e) / samples), shape });
  for (let u = 0; u < units; u++) {
    bn.gamma[u] -= rate * dGamma[u];
    bn.beta[u] -= rate * dBeta[u];
    for (let s = 0; s < samples; s++)
      for (let i = 0; i < inputs; i++) weight[u][i] -= rate * dx.data[s * units + u] * x[s][i];
  }
}
plot({ loss: losses }, { title: "Training loss" });
console.log("first and last loss", losses[0], losses.at(-1));
console.log("gamma", bn.gamma);
console.log("beta", bn.beta);
