// The oracle: batch normalization in float64 and plain loops, with the terms numbered as in docs/batchnorm.md. It knows
// nothing of SIMD, blocks, pivots or columns.

import type { Layout } from "../src/options.ts";

export interface Dims {
  readonly outer: number;
  readonly channels: number;
  readonly inner: number;
}

/** [N, C, …] or [N, …, C] as [outer, channels, inner]. */
export function dimsOf(shape: readonly number[], layout: Layout): Dims {
  const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);
  if (layout === "channels-last")
    return { outer: product(shape.slice(0, -1)), channels: shape.at(-1) as number, inner: 1 };
  return { outer: shape[0] as number, channels: shape[1] as number, inner: product(shape.slice(2)) };
}

/** Calls `visit` with the index of every value of a channel. */
export function eachOf(d: Dims, channel: number, visit: (index: number) => void): void {
  for (let n = 0; n < d.outer; n++) for (let i = 0; i < d.inner; i++) visit((n * d.channels + channel) * d.inner + i);
}

type Vector = ArrayLike<number>;
const at = (v: Vector | null | undefined, i: number, missing: number) => (v ? (v[i] as number) : missing);

/** F1 to F4, as two passes and a correction: mean and biased variance, [C]. */
export function statistics(x: Vector, d: Dims): { mean: Float64Array; variance: Float64Array } {
  const mean = new Float64Array(d.channels);
  const variance = new Float64Array(d.channels);
  const m = d.outer * d.inner;
  for (let c = 0; c < d.channels; c++) {
    let sum = 0;
    eachOf(d, c, (i) => {
      sum += x[i] as number;
    });
    const rough = sum / m;
    let residue = 0;
    let squares = 0;
    eachOf(d, c, (i) => {
      const e = (x[i] as number) - rough;
      residue += e;
      squares += e * e;
    });
    mean[c] = rough + residue / m;
    variance[c] = (squares - (residue * residue) / m) / m;
  }
  return { mean, variance };
}

/** F5 */
export const invStdOf = (variance: Float64Array, epsilon: number): Float64Array =>
  variance.map((v) => (v + epsilon === 0 ? 0 : 1 / Math.sqrt(v + epsilon)));

/** F6, F7, with the condition scale of every element: |gamma·x̂| + |beta|. */
export function forward(x: Vector, d: Dims, mean: Vector, invStd: Vector, gamma?: Vector | null, beta?: Vector | null) {
  const y = new Float64Array(x.length);
  const scale = new Float64Array(x.length);
  for (let c = 0; c < d.channels; c++)
    eachOf(d, c, (i) => {
      const term = at(gamma, c, 1) * ((x[i] as number) - at(mean, c, 0)) * at(invStd, c, 1);
      y[i] = term + at(beta, c, 0);
      scale[i] = Math.abs(term) + Math.abs(at(beta, c, 0));
    });
  return { y, scale };
}

/** B1 to B6 in their textbook form, with condition scales. `batch` false: statistics are constants. */
export function backward(
  x: Vector,
  dy: Vector,
  d: Dims,
  mean: Vector,
  invStd: Vector,
  gamma: Vector | null | undefined,
  batch: boolean,
) {
  const m = d.outer * d.inner;
  const dx = new Float64Array(x.length);
  const dxScale = new Float64Array(x.length);
  const [dGamma, dBeta, dGammaScale, dBetaScale] = Array.from({ length: 4 }, () => new Float64Array(d.channels)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let c = 0; c < d.channels; c++) {
    const xHat = (i: number) => ((x[i] as number) - at(mean, c, 0)) * at(invStd, c, 1);
    let [sum, dot, sumScale, dotScale] = [0, 0, 0, 0];
    eachOf(d, c, (i) => {
      const g = dy[i] as number;
      sum += g;
      dot += g * xHat(i);
      sumScale += Math.abs(g);
      dotScale += Math.abs(g * xHat(i));
    });
    const k = at(gamma, c, 1) * at(invStd, c, 1);
    eachOf(d, c, (i) => {
      const g = dy[i] as number;
      dx[i] = batch ? k * (g - sum / m - (xHat(i) * dot) / m) : k * g;
      dxScale[i] = Math.abs(k) * (Math.abs(g) + (batch ? sumScale / m + (Math.abs(xHat(i)) * dotScale) / m : 0));
    });
    dGamma[c] = dot;
    dBeta[c] = sum;
    dGammaScale[c] = dotScale;
    dBetaScale[c] = sumScale;
  }
  return { dx, dGamma, dBeta, dxScale, dGammaScale, dBetaScale };
}

/** mean |x| of every channel: the condition scale of the mean. */
export function meanMagnitude(x: Vector, d: Dims): Float64Array {
  const magnitude = new Float64Array(d.channels);
  for (let c = 0; c < d.channels; c++)
    eachOf(d, c, (i) => {
      magnitude[c] = (magnitude[c] as number) + Math.abs(x[i] as number) / (d.outer * d.inner);
    });
  return magnitude;
}
