// Peer: batch normalization written by hand in JavaScript, with care: tensors read in memory order, sums in float64, the
// variance in a second pass about the mean, maps of few coefficients per channel. No library, no wasm.
//
// Tensors are [outer, channels, inner]. Every pass has two forms: planes, and for inner = 1, where a loop over a plane
// would be all overhead, rows with channel beside channel. Sums take a plane in four parts, because in one each addition
// waits for the one before, and rows four at a time, because each costs a load and a store of the sum: twice as fast.

import { EPSILON } from "../data.mjs";

/** Σ x per channel. */
function sums(x, { outer, channels, inner }) {
  const total = new Float64Array(channels);
  let i = 0;
  if (inner === 1) {
    let n = 0;
    for (; n + 4 <= outer; n += 4, i += 3 * channels)
      for (let c = 0; c < channels; c++, i++)
        total[c] += x[i] + x[i + channels] + (x[i + 2 * channels] + x[i + 3 * channels]);
    for (; n < outer; n++) for (let c = 0; c < channels; c++, i++) total[c] += x[i];
    return total;
  }
  for (let n = 0; n < outer; n++)
    for (let c = 0; c < channels; c++) {
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      const end = i + inner;
      for (; i + 4 <= end; i += 4) {
        s0 += x[i];
        s1 += x[i + 1];
        s2 += x[i + 2];
        s3 += x[i + 3];
      }
      for (; i < end; i++) s0 += x[i];
      total[c] += s0 + s1 + (s2 + s3);
    }
  return total;
}

/** Σ (x − xMean)·(u − uMean) per channel. */
function products(x, xMean, u, uMean, { outer, channels, inner }) {
  const total = new Float64Array(channels);
  let i = 0;
  if (inner === 1) {
    let n = 0;
    for (; n + 4 <= outer; n += 4, i += 3 * channels)
      for (let c = 0; c < channels; c++, i++) {
        const a = xMean[c];
        const b = uMean[c];
        const p0 = (x[i] - a) * (u[i] - b);
        const p1 = (x[i + channels] - a) * (u[i + channels] - b);
        const p2 = (x[i + 2 * channels] - a) * (u[i + 2 * channels] - b);
        const p3 = (x[i + 3 * channels] - a) * (u[i + 3 * channels] - b);
        total[c] += p0 + p1 + (p2 + p3);
      }
    for (; n < outer; n++) for (let c = 0; c < channels; c++, i++) total[c] += (x[i] - xMean[c]) * (u[i] - uMean[c]);
    return total;
  }
  for (let n = 0; n < outer; n++)
    for (let c = 0; c < channels; c++) {
      const a = xMean[c];
      const b = uMean[c];
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      const end = i + inner;
      for (; i + 4 <= end; i += 4) {
        s0 += (x[i] - a) * (u[i] - b);
        s1 += (x[i + 1] - a) * (u[i + 1] - b);
        s2 += (x[i + 2] - a) * (u[i + 2] - b);
        s3 += (x[i + 3] - a) * (u[i + 3] - b);
      }
      for (; i < end; i++) s0 += (x[i] - a) * (u[i] - b);
      total[c] += s0 + s1 + (s2 + s3);
    }
  return total;
}

/** y = scale·x + shift */
function map(x, y, scale, shift, { outer, channels, inner }) {
  let i = 0;
  for (let n = 0; n < outer; n++) {
    if (inner === 1) {
      for (let c = 0; c < channels; c++, i++) y[i] = scale[c] * x[i] + shift[c];
      continue;
    }
    for (let c = 0; c < channels; c++) {
      const a = scale[c];
      const b = shift[c];
      for (const end = i + inner; i < end; i++) y[i] = a * x[i] + b;
    }
  }
}

/** dx = scale·dy + slope·x + shift */
function map2(dy, x, dx, scale, slope, shift, { outer, channels, inner }) {
  let i = 0;
  for (let n = 0; n < outer; n++) {
    if (inner === 1) {
      for (let c = 0; c < channels; c++, i++) dx[i] = scale[c] * dy[i] + slope[c] * x[i] + shift[c];
      continue;
    }
    for (let c = 0; c < channels; c++) {
      const a = scale[c];
      const b = slope[c];
      const d = shift[c];
      for (const end = i + inner; i < end; i++) dx[i] = a * dy[i] + b * x[i] + d;
    }
  }
}

const inverseDeviation = (variance) => Float64Array.from(variance, (v) => 1 / Math.sqrt(v + EPSILON));

/** y of given statistics. */
export function normalize(x, y, dims, { gamma, beta, mean, invStd }) {
  const scale = invStd.map((s, c) => gamma[c] * s);
  const shift = scale.map((s, c) => beta[c] - mean[c] * s);
  map(x, y, scale, shift, dims);
}

/** Inference: y from running statistics. */
export const infer = (x, y, dims, { gamma, beta, mean, variance }) =>
  normalize(x, y, dims, { gamma, beta, mean, invStd: inverseDeviation(variance) });

/** Training forward: y, and the statistics that backward wants. */
export function forward(x, y, dims, { gamma, beta }) {
  const m = dims.outer * dims.inner;
  const mean = sums(x, dims).map((s) => s / m);
  const invStd = inverseDeviation(products(x, mean, x, mean, dims).map((s) => s / m));
  normalize(x, y, dims, { gamma, beta, mean, invStd });
  return { mean, invStd };
}

/** dx, dGamma and dBeta, with what forward returned. */
export function backward(x, dy, dx, dims, { gamma, mean, invStd }) {
  const m = dims.outer * dims.inner;
  const dBeta = sums(dy, dims);
  const dyMean = dBeta.map((s) => s / m);
  const dGamma = products(x, mean, dy, dyMean, dims).map((s, c) => s * invStd[c]); // Σ (x − mean) is 0: dyMean is free
  const scale = invStd.map((s, c) => gamma[c] * s);
  const slope = scale.map((s, c) => (-s * invStd[c] * dGamma[c]) / m);
  const shift = slope.map((s, c) => -s * mean[c] - scale[c] * dyMean[c]);
  map2(dy, x, dx, scale, slope, shift, dims);
  return { dx, dGamma: Float32Array.from(dGamma), dBeta: Float32Array.from(dBeta) };
}

export const javascript = {
  prepare({ dims, x, dy, gamma, beta, runningMean, runningVariance }) {
    const y = new Float32Array(x.length);
    const dx = new Float32Array(x.length);
    const running = { gamma, beta, mean: runningMean, variance: runningVariance };
    const saved = { gamma, ...forward(x, y, dims, { gamma, beta }) };
    let gradients = {};
    const differentiate = (saved) => {
      gradients = backward(x, dy, dx, dims, saved);
    };
    return {
      operations: {
        inference: { call: () => infer(x, y, dims, running), results: () => ({ y }) },
        forward: { call: () => forward(x, y, dims, { gamma, beta }), results: () => ({ y }) },
        backward: { call: () => differentiate(saved), results: () => gradients },
        step: {
          call: () => differentiate({ gamma, ...forward(x, y, dims, { gamma, beta }) }),
          results: () => ({ y, ...gradients }),
        },
      },
    };
  },
};
