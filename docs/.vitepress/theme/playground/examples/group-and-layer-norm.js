// The same tensor by four norms. They differ in the values that share a mean and a variance.
import {
  batchNormForward,
  groupNormForward,
  instanceNormForward,
  layerNormForward,
  normBackward,
} from "batchnorm-wasm";

const x = { shape: [2, 4, 3], data: Float32Array.from({ length: 24 }, (_, i) => i * i) }; // [samples, channels, positions]
const norms = {
  "batch: one mean for each channel": batchNormForward(x),
  "instance: for each channel of each sample": instanceNormForward(x),
  "group: for each half of the channels of each sample": groupNormForward(x, 2),
  "layer: for each sample": layerNormForward(x, [4, 3]),
};
for (const [name, { y, mean }] of Object.entries(norms)) {
  console.log(name, mean);
  console.log(y);
}

// One backward for all of them.
const dy = { shape: x.shape, data: Float32Array.from({ length: 24 }, (_, i) => Math.cos(i)) };
const { saved } = groupNormForward(x, 2);
console.log("dx of group norm", normBackward(dy, saved).dx);
