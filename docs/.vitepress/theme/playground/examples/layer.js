// A layer of 3 channels normalises each column of a batch of 4 rows: mean 0 and variance 1, whatever its scale was.
import { BatchNorm } from "batchnorm-wasm";

const x = {
  shape: [4, 3],
  data: Float32Array.of(1, 100, 0.001, 2, 200, 0.002, 3, 300, 0.003, 4, 400, 0.004),
};
const bn = new BatchNorm(3, { epsilon: 0 });
console.log("x", x);
console.log("y", bn.forward(x));

// gamma and beta are learned. Here the second channel is scaled and shifted by hand.
bn.gamma[1] = 10;
bn.beta[1] = 5;
console.log("y with gamma 10 and beta 5 in channel 1", bn.forward(x));
console.log("running mean after two batches", bn.runningMean);
