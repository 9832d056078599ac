// What every JavaScript host runs: training and evaluation of all golden cases by the packed library, as a digest of the
// bits and as distances from the reference. Imports nothing, since some hosts have no imports: the library and the data
// are handed in.

/** As test/golden/README.md: u is 2⁻²⁴ × the channel's condition scale. */
const U = 2 ** -24;
const GATES = { y: 4, dx: 4, dGamma: 1, dBeta: 1, runningMean: 1, runningVariance: 1 };

/**
 * FNV-1a over the bytes of all results, 32 bits. Every byte of a NaN counts as 255: WebAssembly leaves its sign and payload
 * to the engine, and JavaScriptCore's differ between two runs of one program.
 */
class Digest {
  #hash = 0x811c9dc5;

  add(values) {
    const { buffer, byteOffset, byteLength, BYTES_PER_ELEMENT: size } = values;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    let hash = this.#hash;
    for (let i = 0; i < byteLength; i++) {
      const byte = Number.isNaN(values[Math.floor(i / size)]) ? 255 : bytes[i];
      hash = Math.imul(hash ^ byte, 0x01000193);
    }
    this.#hash = hash;
  }

  toString() {
    return (this.#hash >>> 0).toString(16).padStart(8, "0");
  }
}

const LAST = ["NLC", "NHWC", "NDHWC", "NSC"];
const product = (dims) => dims.reduce((a, b) => a * b, 1);
const ARRAYS = { f32: Float32Array, f64: Float64Array, u8: Uint8Array };

/** The cases that one layer by itself covers in one step, with their arrays. */
function casesOf({ manifest, data }) {
  const array = ({ dtype, offset, bytes }) => new ARRAYS[dtype](data, offset, bytes / ARRAYS[dtype].BYTES_PER_ELEMENT);
  return manifest.cases
    .filter(({ kind, tags }) => (kind === "train" || kind === "eval") && !tags.includes("slow"))
    .map(({ id, params, tags, in: inputs, out }) => {
      const { shape, layout } = params;
      const last = LAST.includes(layout);
      const channels = last ? shape.at(-1) : shape[1];
      const inner = last ? 1 : product(shape.slice(2));
      const load = (name) => inputs[name] && array(inputs[name]);
      const reference = (name) => out[name] && array(out[name].f64);
      return { id, tags, params, last, channels, inner, load, reference };
    });
}

/** One step of a fresh layer. */
function step({ BatchNorm }, { params, last, channels, load }) {
  const { shape, eps, momentum, trackRunningStats, training } = params;
  const [gamma, beta, runningMean] = [load("weight"), load("bias"), load("running_mean")];
  const bn = new BatchNorm(channels, {
    layout: last ? "channels-last" : "channels-first",
    epsilon: eps,
    scale: gamma !== undefined && gamma !== null,
    shift: beta !== undefined && beta !== null,
    trackRunningStats: trackRunningStats ?? true,
    onNonFinite: "allow",
    ...(typeof momentum === "number" ? { momentum } : {}),
    ...(momentum === null ? { estimator: "cumulative" } : {}),
  });
  if (gamma) bn.gamma = gamma.slice();
  if (beta) bn.beta = beta.slice();
  if (runningMean) {
    bn.runningMean = runningMean.slice();
    bn.runningVariance = load("running_var").slice();
  }
  const y = bn.forward({ data: load("x"), shape }, { mode: training ? "train" : "eval" });
  const dy = load("dy");
  const { dx, dGamma, dBeta } = dy ? bn.backward({ data: dy, shape }) : {};
  const running = runningMean && training ? { runningMean: bn.runningMean, runningVariance: bn.runningVariance } : {};
  return { y: y.data, ...(dx && { dx: dx.data }), ...(dGamma && { dGamma }), ...(dBeta && { dBeta }), ...running };
}

/** Condition scales of all outputs, [C] each. */
function scalesOf({ params, channels, inner, load, reference }) {
  const [x, dy, gamma, beta] = ["x", "dy", "weight", "bias"].map(load);
  const count = x.length / channels;
  const channel = (i) => Math.floor(i / inner) % channels;
  const zeros = () => new Float64Array(channels);
  const at = (list, c, otherwise) => (list ? list[c] : otherwise);
  const [mean, variance] = params.training
    ? [reference("mean"), reference("var")]
    : [load("running_mean"), load("running_var")];
  const invStd = Float64Array.from(variance, (v) => (v + params.eps === 0 ? 0 : 1 / Math.sqrt(v + params.eps)));
  const [y, dx, dGamma, dBeta, magnitude] = [zeros(), zeros(), zeros(), zeros(), zeros()];
  const raise = (list, c, value) => {
    if (value > list[c] && value < Infinity) list[c] = value;
  };
  for (let i = 0; i < x.length; i++) {
    const c = channel(i);
    const xHat = Math.abs((x[i] - mean[c]) * invStd[c]);
    raise(y, c, xHat * Math.abs(at(gamma, c, 1)) + Math.abs(at(beta, c, 0)));
    magnitude[c] += Math.abs(x[i]) / count;
    if (!dy) continue;
    dGamma[c] += Math.abs(dy[i]) * xHat;
    dBeta[c] += Math.abs(dy[i]);
  }
  if (dy)
    for (let i = 0; i < x.length; i++) {
      const c = channel(i);
      const xHat = Math.abs((x[i] - mean[c]) * invStd[c]);
      const statistics = params.training ? dBeta[c] / count + (xHat * dGamma[c]) / count : 0;
      raise(dx, c, Math.abs(at(gamma, c, 1)) * invStd[c] * (Math.abs(dy[i]) + statistics));
    }
  const blend = (old, batch) =>
    old ? old.map((v, c) => (1 - params.momentum) * Math.abs(v) + params.momentum * batch(c)) : zeros();
  const running = params.training && typeof params.momentum === "number";
  return {
    y,
    dx,
    dGamma,
    dBeta,
    runningMean: running ? blend(Float64Array.from(load("running_mean") ?? []), (c) => magnitude[c]) : zeros(),
    runningVariance: running
      ? blend(Float64Array.from(load("running_var") ?? []), (c) => (variance[c] * count) / (count - 1))
      : zeros(),
  };
}

const REFERENCES = {
  y: "y",
  dx: "dx",
  dGamma: "dgamma",
  dBeta: "dbeta",
  runningMean: "running_mean",
  runningVariance: "running_var",
};

/** Raises `worst` to the distances of one case's results; returns what is beyond its gate. */
function measure(of, results, worst) {
  if (of.tags.includes("special")) return []; // NaN and infinities have no distance; their bits are in the digest
  const scales = scalesOf(of);
  const beyond = [];
  for (const [name, got] of Object.entries(results)) {
    const expected = of.reference(REFERENCES[name]);
    const perElement = name === "y" || name === "dx";
    for (let i = 0; i < got.length; i++) {
      if (got[i] === Math.fround(expected[i])) continue; // beyond float32, infinite
      const scale = scales[name][perElement ? Math.floor(i / of.inner) % of.channels : i];
      const u = Math.abs(got[i] - expected[i]) / Math.max(U * scale, 2 ** -149);
      if (u > (worst[name] ?? 0)) worst[name] = u;
      if (!(u <= GATES[name])) beyond.push(`${of.id}: ${name}[${i}] is ${got[i]}, expected ${expected[i]}: ${u} u`);
    }
  }
  return beyond;
}

/** Everything that the second module does, in a few steps: activations, residuals, float64 and 16 bits. */
function extendedDigest({ BatchNorm }, golden) {
  const digest = new Digest();
  const of = casesOf(golden).find(
    ({ params, tags }) => params.training && params.layout === "NCHW" && !tags.includes("special"),
  );
  const { shape } = of.params;
  const [x, dy] = [of.load("x"), of.load("dy")];
  for (const activation of ["relu", "leaky_relu", "relu6", "silu"]) {
    const bn = new BatchNorm(of.channels, { activation });
    const y = bn.forward({ data: x, shape }, { residual: { data: dy, shape } });
    const { dx, dResidual, dGamma } = bn.backward({ data: dy, shape });
    for (const { data } of [y, dx, dResidual]) digest.add(data);
    digest.add(dGamma);
  }
  const wide = new BatchNorm(of.channels, { dtype: "float64" });
  digest.add(wide.forward({ data: Float64Array.from(x), shape }).data);
  digest.add(wide.backward({ data: Float64Array.from(dy), shape }).dx.data);
  const narrow = new BatchNorm(of.channels, { dtype: "bfloat16" });
  digest.add(narrow.forward({ data: Uint16Array.from(x, (_, i) => 16256 + (i % 97)), shape, dtype: "bfloat16" }).data);
  return digest.toString();
}

function run(library, golden) {
  const [digest, worst, beyond] = [new Digest(), {}, []];
  const cases = casesOf(golden);
  for (const of of cases) {
    const results = step(library, of);
    for (const values of Object.values(results)) digest.add(values);
    beyond.push(...measure(of, results, worst));
  }
  return { digest: digest.toString(), cases: cases.length, worst, beyond };
}

/** Runs the golden cases on the build that an entry chooses, and on the one without fused multiply-add. */
async function runBuilds(entry, golden, simd) {
  const { build } = entry.kernelInfo();
  const own = run(entry, golden);
  if (build !== "simd") await entry.init({ module: simd });
  const { digest } = build === "simd" ? own : run(entry, golden);
  return { build, ...own, ownDigest: own.digest, digest };
}

/** The error by which the small entry refuses what only the complete one has. */
function refusalOf({ BatchNorm }) {
  try {
    new BatchNorm(2, { activation: "relu" });
    return "none";
  } catch ({ name, message }) {
    return `${name}: ${message}`;
  }
}

/**
 * Runs the golden cases on the build that the library chooses, and on the one without fused multiply-add, given as a
 * module (`simd`), where that is another. `golden` is { manifest, data }: manifest.json, parsed, and data.bin. The small
 * entry (`core`) does the same where the host has it beside the complete one.
 */
export async function check(library, golden, simd, core) {
  const checked = await runBuilds(library, golden, simd);
  const found = { ...checked, extendedDigest: extendedDigest(library, golden) };
  if (!core) return found;
  const { digest, ownDigest } = await runBuilds(core, golden, simd);
  return { ...found, core: { digest, ownDigest, refusal: refusalOf(core) } };
}
