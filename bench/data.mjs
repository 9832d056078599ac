// What is measured: the shapes, their seeded data, and the float64 answers that every peer is held against. Nothing here
// knows a peer.

/** Every shape that is measured; the first two carry the targets of report.mjs. */
export const SHAPES = [
  { shape: [32, 64, 56, 56], layout: "channels-first" },
  { shape: [32, 56, 56, 64], layout: "channels-last" },
  { shape: [32, 256, 14, 14], layout: "channels-first" },
  { shape: [128, 512], layout: "channels-first" },
  { shape: [8, 32, 16, 16], layout: "channels-first" },
];

/** Tensors that an operation must read or write at least once: what its GB/s count. */
export const OPERANDS = { copy: 2, inference: 2, forward: 2, backward: 3 };

export const EPSILON = 1e-5;

/** mulberry32: a seeded stream of numbers in [0, 1). */
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers (Box–Muller). */
function normal(next, length) {
  const draw = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return Float32Array.from({ length }, draw);
}

/** [outer, channels, inner] of a shape. */
export function dimsOf(shape, layout) {
  const axis = layout === "channels-last" ? shape.length - 1 : 1;
  const product = (dims) => dims.reduce((a, b) => a * b, 1);
  return { outer: product(shape.slice(0, axis)), channels: shape[axis], inner: product(shape.slice(axis + 1)) };
}

/**
 * Seeded x and dy of a shape, with parameters. Channels have means of −2 … 2 and deviations of 0.5 … 1.5, as
 * activations have: on standardised data the running statistics would do nothing.
 */
export function makeProblem({ shape, layout }, seed) {
  const next = random(seed);
  const dims = dimsOf(shape, layout);
  const { channels, inner } = dims;
  const length = dims.outer * channels * inner;
  const between = (low, high) => Float32Array.from({ length: channels }, () => low + (high - low) * next());
  const [mean, deviation] = [between(-2, 2), between(0.5, 1.5)];
  const x = normal(next, length);
  for (let i = 0; i < length; i++) {
    const c = Math.floor(i / inner) % channels;
    x[i] = x[i] * deviation[c] + mean[c];
  }
  const runningVariance = deviation.map((s) => s * s);
  const [dy, gamma, beta] = [normal(next, length), between(0.5, 1.5), between(-1, 1)];
  return { shape, layout, dims, x, dy, gamma, beta, runningMean: mean, runningVariance };
}

/** What every operation must give, in float64 from the textbook formulas, slow and independent of every peer. */
export function expectedOf({ dims, x, dy, gamma, beta, runningMean, runningVariance }) {
  const { outer, channels, inner } = dims;
  const m = outer * inner;
  const [inference, forward, dx] = Array.from({ length: 3 }, () => new Float64Array(x.length));
  const [dGamma, dBeta] = Array.from({ length: 2 }, () => new Float64Array(channels));
  for (let c = 0; c < channels; c++) {
    const each = (visit) => {
      for (let n = 0; n < outer; n++) for (let i = 0; i < inner; i++) visit((n * channels + c) * inner + i);
    };
    let mean = 0;
    each((i) => {
      mean += x[i] / m;
    });
    let variance = 0;
    each((i) => {
      variance += (x[i] - mean) ** 2 / m;
    });
    const deviation = Math.sqrt(variance + EPSILON);
    each((i) => {
      dBeta[c] += dy[i];
      dGamma[c] += (dy[i] * (x[i] - mean)) / deviation;
    });
    each((i) => {
      const xHat = (x[i] - mean) / deviation;
      inference[i] = (gamma[c] * (x[i] - runningMean[c])) / Math.sqrt(runningVariance[c] + EPSILON) + beta[c];
      forward[i] = gamma[c] * xHat + beta[c];
      dx[i] = (gamma[c] / deviation) * (dy[i] - dBeta[c] / m - (xHat * dGamma[c]) / m);
    });
  }
  return { copy: { y: x }, inference: { y: inference }, forward: { y: forward }, backward: { dx, dGamma, dBeta } };
}

/** The largest error of any result, each relative to the largest magnitude that is expected of it; NaN counts as infinite. */
export function errorOf(results, expected) {
  let worst = 0;
  for (const [name, want] of Object.entries(expected)) {
    const got = results[name];
    let [error, size] = [0, 0];
    for (let i = 0; i < want.length; i++) {
      const e = Math.abs(got[i] - want[i]);
      error = e <= error ? error : Number.isNaN(e) ? Number.POSITIVE_INFINITY : e;
      size = Math.max(size, Math.abs(want[i]));
    }
    worst = Math.max(worst, got.length === want.length ? error / size : Number.POSITIVE_INFINITY);
  }
  return worst;
}
