// Three sequences of different lengths, padded to 6 positions with 99. A mask of lengths keeps padding out of the statistics.
import { BatchNorm } from "batchnorm-wasm";

const sequences = [[1, 2, 3, 4, 5, 6], [2, 4, 6], [5]];
const padded = sequences.flatMap((s) => Array.from({ length: 6 }, (_, t) => s[t] ?? 99));
const x = { shape: [3, 1, 6], data: Float32Array.from(padded) }; // [samples, channels, positions]
const lengths = sequences.map((s) => s.length);

const bn = new BatchNorm(1, { momentum: 1 }); // running statistics = those of the last batch
bn.forward(x);
console.log("mean with the padding", bn.runningMean[0]);

const y = bn.forward(x, { mask: { lengths } });
const values = sequences.flat();
console.log("mean with the mask", bn.runningMean[0]);
console.log("mean of the values", values.reduce((sum, v) => sum + v, 0) / values.length);
console.log("y; positions behind the length are for nobody to read", y);

// Leave dy 0 under the mask, as a masked loss does: then dGamma and dBeta are those of the values, too.
const dy = { shape: x.shape, data: x.data.map((v) => (v === 99 ? 0 : 1)) };
console.log("dBeta counts the kept positions", bn.backward(dy).dBeta[0]);
