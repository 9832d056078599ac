// What our own features cost beside the plain operation: their rows by part, the seeded data, and the float64 answers in
// plain loops. A feature is
//
//   { feature, options?, residual?, separate?, masked?, conditional?, tensors?, tolerance? }
//
// `options` are BatchNorm's. `separate`: the activation, and the residual with it, as a pass of its own over what the plain
// operation wrote. `tensors` are those that inference, forward and backward must at least read or write beyond the plain
// operation, whatever they compute; `tolerance` is the error that a type of numbers may have.

import { EPSILON, makeProblem, OPERANDS, random } from "./data.mjs";

export const OPERATIONS = ["inference", "forward", "backward"];

/** Tensors that the plain operation reads and writes, one after the other: x for statistics and again for the map, as dy in backward. */
export const TENSORS = {
  inference: OPERANDS.inference,
  forward: OPERANDS.forward + 1,
  backward: OPERANDS.backward + 2,
};

const activation = (name) => ({ feature: name, options: { activation: name } });

// backward with a residual writes dResidual, and reads dy or the residual once more for it
const ADDED = { inference: 1, forward: 1, backward: 2 };
const PASS = { inference: 2, forward: 2, backward: 3 };
const PASS_ADDED = { inference: 3, forward: 3, backward: 3 };

/** The first is what the others are compared with. */
export const FUSIONS = [
  { feature: "plain" },
  ...["relu", "leaky_relu", "relu6", "silu"].map(activation),
  { feature: "residual", residual: true, tensors: ADDED },
  { ...activation("relu"), feature: "residual + relu", residual: true, tensors: ADDED },
  { ...activation("relu"), feature: "relu, separate pass", separate: true, tensors: PASS },
  {
    ...activation("relu"),
    ...{ feature: "residual + relu, separate pass", residual: true, separate: true, tensors: PASS_ADDED },
  },
];

export const DTYPES = [
  { feature: "float32" },
  { feature: "float64", options: { dtype: "float64" } },
  // half of the last place of numbers with 11 and 8 bits
  { feature: "float16", options: { dtype: "float16" }, tolerance: 2 ** -11 },
  { feature: "bfloat16", options: { dtype: "bfloat16" }, tolerance: 2 ** -8 },
];

export const MODES = [
  { feature: "plain" },
  { feature: "masked, 70 % kept", masked: true },
  { feature: "ghost batches of 8", options: { ghostBatchSize: 8 } },
  { feature: "conditional", conditional: true },
];

/** f and f′ by name. */
const ACTIVATIONS = {
  none: [(z) => z, () => 1],
  relu: [(z) => Math.max(z, 0), (z) => (z > 0 ? 1 : 0)],
  leaky_relu: [(z) => (z > 0 ? z : 0.01 * z), (z) => (z > 0 ? 1 : 0.01)],
  relu6: [(z) => Math.min(Math.max(z, 0), 6), (z) => (z > 0 && z < 6 ? 1 : 0)],
  silu: [
    (z) => z / (1 + Math.exp(-z)),
    (z) => (1 + z * (1 - 1 / (1 + Math.exp(-z)))) / (1 + Math.exp(-z)), // σ·(1 + z·(1 − σ))
  ],
};

const activationOf = ({ options }) => ACTIVATIONS[options?.activation ?? "none"];

/** Where float32 may see a value on the other side of a bend, whose derivative jumps there. */
const NEAR = 1e-5;

/** Calls visit(i, c, n, p) for every element: its index, channel, sample, and position within the sample. */
function each({ shape, dims: { outer, channels, inner } }, visit) {
  const [samples] = shape;
  const rows = outer / samples;
  let i = 0;
  for (let n = 0; n < samples; n++)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < channels; c++) for (let q = 0; q < inner; q++) visit(i++, c, n, r * inner + q);
}

/** To eight bits, which every type of numbers has, and away from where float16 has fewer. */
function shorten(values) {
  const bits = new Uint32Array(values.buffer);
  for (let i = 0; i < values.length; i++) bits[i] = Math.abs(values[i]) < 2 ** -14 ? 0 : bits[i] & 0xffff0000;
  return values;
}

/**
 * The problem of data.mjs with what features need: a residual, lengths of which 70 % is kept, scale and shift of every
 * sample's own. dy is 0 where a rounding error would decide whether it gets through an activation.
 */
export function makeFeatureProblem(description, seed) {
  const problem = makeProblem(description, seed);
  const next = random(seed + 1);
  const { dims, shape, x, dy } = problem;
  const [samples] = shape;
  const positions = (dims.outer * dims.inner) / samples;
  const lengths = Array.from({ length: samples }, (_, n) =>
    Math.round(positions * (0.4 + (0.6 * n) / Math.max(samples - 1, 1))),
  );
  const between = (low, high) =>
    Float32Array.from({ length: samples * dims.channels }, () => low + (high - low) * next());
  const [gammas, betas] = [between(0.5, 1.5), between(-1, 1)];
  shorten(x);
  const residual = shorten(dy.slice().reverse());
  shorten(dy);
  const made = { ...problem, residual, lengths, gammas, betas };
  const z = answersTo(made)({ feature: "plain" }, "forward").y;
  for (let i = 0; i < z.length; i++)
    for (const value of [z[i], z[i] + residual[i]]) if (Math.abs(value) < NEAR || Math.abs(value - 6) < NEAR) dy[i] = 0;
  return made;
}

/** Mean, deviation and count of every group of samples that is a batch of its own, [groups, C]. */
function statisticsOf(problem, { masked, options = {} }) {
  const { shape, dims, x, lengths } = problem;
  const { channels } = dims;
  const size = options.ghostBatchSize ?? shape[0];
  const counts = (n, p) => !masked || p < lengths[n];
  const at = (c, n) => Math.floor(n / size) * channels + c;
  const length = Math.ceil(shape[0] / size) * channels;
  const [count, mean, deviation] = Array.from({ length: 3 }, () => new Float64Array(length));
  each(problem, (i, c, n, p) => {
    if (!counts(n, p)) return;
    count[at(c, n)] += 1;
    mean[at(c, n)] += x[i];
  });
  for (let k = 0; k < length; k++) mean[k] /= count[k];
  each(problem, (i, c, n, p) => {
    if (counts(n, p)) deviation[at(c, n)] += (x[i] - mean[at(c, n)]) ** 2;
  });
  for (let k = 0; k < length; k++) deviation[k] = Math.sqrt(deviation[k] / count[k] + EPSILON);
  return { counts, at, count, mean, deviation };
}

/** The running statistics in this form. */
const runningOf = ({ runningMean, runningVariance }) => ({
  at: (c) => c,
  mean: runningMean,
  deviation: Float64Array.from(runningVariance, (v) => Math.sqrt(v + EPSILON)),
});

/** x̂, and the value before residual and activation, by statistics; scale and shift stand at own(c, n). */
function normalizedBy(problem, s, { conditional }) {
  const { x, dims } = problem;
  const row = conditional ? dims.channels : 0;
  const own = (c, n) => n * row + c;
  const [scale, shift] = conditional ? [problem.gammas, problem.betas] : [problem.gamma, problem.beta];
  const [xHat, z] = [new Float64Array(x.length), new Float64Array(x.length)];
  each(problem, (i, c, n) => {
    const k = s.at(c, n);
    xHat[i] = (x[i] - s.mean[k]) / s.deviation[k];
    z[i] = scale[own(c, n)] * xHat[i] + shift[own(c, n)];
  });
  return { ...s, own, scale, xHat, z };
}

function forwardOf({ residual }, { z }, feature) {
  const [f] = activationOf(feature);
  const y = new Float64Array(z.length);
  for (let i = 0; i < z.length; i++) y[i] = f(feature.residual ? z[i] + residual[i] : z[i]);
  return { y };
}

function backwardOf(problem, { at, count, counts, deviation, own, scale, xHat, z }, feature) {
  const { dy, residual } = problem;
  const [, derivative] = activationOf(feature);
  const [dz, dx] = [new Float64Array(z.length), new Float64Array(z.length)];
  const [dGamma, dBeta] = [new Float64Array(scale.length), new Float64Array(scale.length)];
  const [first, second] = [new Float64Array(deviation.length), new Float64Array(deviation.length)];
  for (let i = 0; i < z.length; i++) dz[i] = dy[i] * derivative(feature.residual ? z[i] + residual[i] : z[i]);
  each(problem, (i, c, n) => {
    const j = own(c, n);
    dBeta[j] += dz[i];
    dGamma[j] += dz[i] * xHat[i];
    const k = at(c, n);
    first[k] += scale[j] * dz[i];
    second[k] += scale[j] * dz[i] * xHat[i];
  });
  each(problem, (i, c, n, p) => {
    const k = at(c, n);
    const through = counts(n, p) ? (first[k] + xHat[i] * second[k]) / count[k] : 0;
    dx[i] = (scale[own(c, n)] * dz[i] - through) / deviation[k];
  });
  return { dx, dGamma, dBeta, ...(feature.residual && { dResidual: dz }) };
}

/** answer(feature, operation) → what it must give, in float64 from the textbook formulas. */
export function answersTo(problem) {
  let latest = {}; // the same for one feature after the other, and large
  return (feature, operation) => {
    const inferring = operation === "inference";
    const { masked, conditional, options } = feature;
    const key = JSON.stringify([inferring, masked && !inferring, conditional, !inferring && options?.ghostBatchSize]);
    if (latest.key !== key) {
      const statistics = inferring ? runningOf(problem) : statisticsOf(problem, feature);
      latest = { key, normalized: normalizedBy(problem, statistics, feature) };
    }
    return (operation === "backward" ? backwardOf : forwardOf)(problem, latest.normalized, feature);
  };
}
