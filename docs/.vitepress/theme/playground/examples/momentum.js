// Running statistics follow the batches: quickly and noisily with a large momentum, slowly and calmly with a small one. The
// exact statistics of all values need the estimator "population".
import { BatchNorm } from "batchnorm-wasm";

let seed = 1;
const random = () => {
  seed = (seed * 48271) % 2147483647;
  return seed / 2147483647;
};
const layers = {
  "momentum 0.5": new BatchNorm(1, { momentum: 0.5 }),
  "momentum 0.1": new BatchNorm(1),
  debiased: new BatchNorm(1, { estimator: "debiased" }),
  population: new BatchNorm(1, { estimator: "population" }),
};
const lines = Object.fromEntries(Object.keys(layers).map((name) => [name, []]));
const all = [];
for (let step = 0; step < 60; step++) {
  const data = Float32Array.from({ length: 16 }, () => 3 + 4 * (random() - 0.5)); // mean 3
  all.push(...data);
  for (const [name, bn] of Object.entries(layers)) {
    bn.forward({ shape: [16, 1], data });
    lines[name].push(bn.runningMean[0]);
  }
}
plot(lines, { title: "Running mean over batches" });
console.log("mean of all values", all.reduce((sum, v) => sum + v, 0) / all.length);
for (const [name, bn] of Object.entries(layers)) console.log(name, bn.runningMean[0]);
