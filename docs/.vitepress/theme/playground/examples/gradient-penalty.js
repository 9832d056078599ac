// A loss that contains a gradient: L = Σ dx², as a gradient penalty has it. Its own gradient is a double backward, checked
// here against a finite difference.
import { batchNormBackward, batchNormDoubleBackward, batchNormForward } from "batchnorm-wasm";

const shape = [8, 2];
const dtype = "float64";
const make = (f) => ({ shape, dtype, data: Float64Array.from({ length: 16 }, (_, i) => f(i)) });
const [x, dy] = [make((i) => Math.sin(i * i)), make((i) => Math.cos(i))];
const gamma = Float64Array.of(1.5, -0.5);
const beta = new Float64Array(2);

function penalty(x) {
  const { saved } = batchNormForward(x, { gamma, beta });
  const { dx } = batchNormBackward(dy, saved);
  return { saved, dx, loss: dx.data.reduce((sum, v) => sum + v * v, 0) };
}

const { saved, dx, loss } = penalty(x);
const ddx = { shape, dtype, data: dx.data.map((v) => 2 * v) }; // ∂L/∂dx
const gradient = batchNormDoubleBackward(dy, saved, { ddx });
console.log("penalty", loss);
console.log("its gradient to x", gradient.dx);
console.log("its gradient to gamma", gradient.dGamma);

const step = 1e-6;
const moved = make((i) => x.data[i] + (i === 3 ? step : 0));
console.log("by x[3], analytic", gradient.dx.data[3]);
console.log("by x[3], finite difference", (penalty(moved).loss - loss) / step);
