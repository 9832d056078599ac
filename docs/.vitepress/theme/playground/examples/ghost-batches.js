// A batch of 256 is normalised in ghost batches of 8, each by its own statistics: the noise of small batches in a large one.
import { BatchNorm } from "batchnorm-wasm";

const x = { shape: [256, 1], data: Float32Array.from({ length: 256 }, (_, i) => Math.sin(i * i)) };
const whole = new BatchNorm(1);
const ghosts = new BatchNorm(1, { ghostBatchSize: 8 });
const y = whole.forward(x).data;
const yGhosts = ghosts.forward(x).data;

plot({ "one batch": y.subarray(0, 48), "ghost batches of 8": yGhosts.subarray(0, 48) }, { title: "y of 48 samples" });
const difference = y.map((v, i) => Math.abs(v - yGhosts[i]));
console.log("largest difference", Math.max(...difference));
console.log("batches tracked", { whole: whole.batchesTracked, ghosts: ghosts.batchesTracked });
