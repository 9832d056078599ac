// The end of a ResNet block in one pass over memory: y = relu(gamma·x̂ + beta + residual).
import { BatchNorm } from "batchnorm-wasm";

const shape = [2, 3, 4, 4]; // [samples, channels, height, width]
const image = (f) => ({ shape, data: Float32Array.from({ length: 96 }, (_, i) => f(i)) });
const [x, residual] = [image((i) => Math.sin(i * i)), image((i) => Math.cos(i))];
const dy = image(() => 1);

const fused = new BatchNorm(3, { activation: "relu" });
const y = fused.forward(x, { residual });
const { dx, dResidual } = fused.backward(dy);

const plain = new BatchNorm(3);
const z = plain.forward(x).data.map((v, i) => Math.max(0, v + residual.data[i]));
console.log("y", y);
console.log("dResidual: 1 where y > 0", dResidual);
console.log("dx", dx);
console.log("largest difference from three steps", Math.max(...z.map((v, i) => Math.abs(v - y.data[i]))));
