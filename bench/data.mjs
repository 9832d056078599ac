// The seeded data of a shape, and the float64 answers that every peer is held against. Nothing here knows a peer.

/** Tensors that an operation must read or write at least once: what its GB/s count. */
export const OPERANDS = { copy: 2, inference: 2, forward: 2, backward: 3, step: 5 };

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

/** In shared memory, so that threads get it without a copy. */
const shared = (length) => new Float32Array(new SharedArrayBuffer(4 * length));

/** After so many numbers they repeat: drawing 10⁸ takes too long. A prime, so that no two planes or rows are alike. */
const PERIOD = 1_000_003;

/** Standard normal numbers (Box–Muller). */
function normal(next, length) {
  const numbers = shared(length);
  for (let i = 0; i < Math.min(length, PERIOD); i++)
    numbers[i] = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  for (let i = PERIOD; i < length; i *= 2) numbers.copyWithin(i, 0, i);
  return numbers;
}

/** [outer, channels, inner] of a shape. */
export function dimsOf(shape, layout) {
  const axis = layout === "channels-last" ? shape.length - 1 : 1;
  const product = (dims) => dims.reduce((a, b) => a * b, 1);
  return { outer: product(shape.slice(0, axis)), channels: shape[axis], inner: product(shape.slice(axis + 1)) };
}

/** Calls visit(i, c) for every element i, of channel c, in memory order. */
function each({ outer, channels, inner }, visit) {
  let i = 0;
  for (let n = 0; n < outer; n++)
    for (let c = 0; c < channels; c++) for (const end = i + inner; i < end; i++) visit(i, c);
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
  each(dims, (i, c) => {
    x[i] = x[i] * deviation[c] + mean[c];
  });
  const runningVariance = deviation.map((s) => s * s);
  const [dy, gamma, beta] = [normal(next, length), between(0.5, 1.5), between(-1, 1)];
  return { shape, layout, dims, x, dy, gamma, beta, runningMean: mean, runningVariance };
}

/** The same problem in the layout of `twin`, which is twinOf its shape. */
export function transposed(problem, twin) {
  const { channels } = problem.dims;
  const pixels = problem.shape.slice(1).reduce((a, b) => a * b, 1) / channels;
  const toLast = twin.layout === "channels-last";
  const [rows, columns] = toLast ? [channels, pixels] : [pixels, channels];
  const turned = (source) => {
    const target = shared(source.length);
    for (let image = 0; image < source.length; image += rows * columns)
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++)
          target[image + column * rows + row] = source[image + row * columns + column];
    return target;
  };
  return { ...problem, ...twin, dims: dimsOf(twin.shape, twin.layout), x: turned(problem.x), dy: turned(problem.dy) };
}

/** What every operation must give, in float64 from the textbook formulas, slow and independent of every peer. */
export function expectedOf({ dims, x, dy, gamma, beta, runningMean, runningVariance }) {
  const m = dims.outer * dims.inner;
  const [inference, y, dx] = Array.from({ length: 3 }, () => new Float64Array(x.length));
  const [mean, variance, dGamma, dBeta] = Array.from({ length: 4 }, () => new Float64Array(dims.channels));
  each(dims, (i, c) => {
    mean[c] += x[i] / m;
  });
  each(dims, (i, c) => {
    variance[c] += (x[i] - mean[c]) ** 2 / m;
  });
  const deviation = variance.map((v) => Math.sqrt(v + EPSILON));
  const running = Float64Array.from(runningVariance, (v) => Math.sqrt(v + EPSILON));
  each(dims, (i, c) => {
    const xHat = (x[i] - mean[c]) / deviation[c];
    inference[i] = (gamma[c] * (x[i] - runningMean[c])) / running[c] + beta[c];
    y[i] = gamma[c] * xHat + beta[c];
    dBeta[c] += dy[i];
    dGamma[c] += dy[i] * xHat;
  });
  each(dims, (i, c) => {
    const xHat = (x[i] - mean[c]) / deviation[c];
    dx[i] = (gamma[c] / deviation[c]) * (dy[i] - dBeta[c] / m - (xHat * dGamma[c]) / m);
  });
  const gradients = { dx, dGamma, dBeta };
  return {
    copy: { y: x },
    inference: { y: inference },
    forward: { y },
    backward: gradients,
    step: { y, ...gradients },
  };
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
