// A network that only predicts needs no batch norm: it is folded into the convolution before it.
import { BatchNorm, foldIntoConv } from "batchnorm-wasm";

const [samples, inputs, outputs, side] = [4, 2, 3, 5];
const weight = { shape: [outputs, inputs, 1, 1], data: Float32Array.of(0.5, -1, 2, 0.25, -0.75, 1.5) }; // OIHW
const bias = Float32Array.of(0.1, 0.2, 0.3);
const x = Float32Array.from({ length: samples * inputs * side * side }, (_, i) => Math.sin(i * i));

/** A convolution of 1×1, channels first. */
function convolve({ weight, bias }) {
  const data = new Float32Array(samples * outputs * side * side);
  for (let n = 0; n < samples; n++)
    for (let o = 0; o < outputs; o++)
      for (let p = 0; p < side * side; p++) {
        let sum = bias[o];
        for (let i = 0; i < inputs; i++) sum += weight.data[o * inputs + i] * x[(n * inputs + i) * side * side + p];
        data[(n * outputs + o) * side * side + p] = sum;
      }
  return { data, shape: [samples, outputs, side, side] };
}

const bn = new BatchNorm(outputs);
for (let step = 0; step < 50; step++) bn.forward(convolve({ weight, bias })); // train: running statistics
const apart = bn.eval().forward(convolve({ weight, bias }));

const folded = foldIntoConv({ weight, bias }, bn);
const together = convolve(folded);
console.log("folded weight", folded.weight);
console.log("folded bias", folded.bias);
const difference = Math.max(...apart.data.map((v, i) => Math.abs(v - together.data[i])));
console.log("largest difference of the predictions", difference);
console.log("the same within rounding", difference < 1e-5);
