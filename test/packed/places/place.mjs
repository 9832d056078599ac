// The checks of every place: training, evaluation, a state that goes to another layer and back, an error with a code, two
// threads or the reason against them, and the end of the threads. Imports nothing, since some places have no imports.

const SHAPE = [8, 16, 32, 32];

/** Values that need no generator of random numbers. */
const wave = (period) =>
  Float32Array.from({ length: 8 * 16 * 32 * 32 }, (_, i) => ((i * 7919) % period) / period - 0.25);

/** FNV-1a over the bytes of arrays. */
function digestOf(arrays) {
  let hash = 0x811c9dc5;
  for (const { buffer, byteOffset, byteLength } of arrays)
    for (const byte of new Uint8Array(buffer, byteOffset, byteLength)) hash = Math.imul(hash ^ byte, 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** Class, code and message of what a call throws, or "nothing". */
async function thrownBy(call, BatchNormError) {
  try {
    await call();
    return "nothing";
  } catch (error) {
    return { typed: error instanceof BatchNormError, name: error.name, code: error.code, message: error.message };
  }
}

/** Two steps on tensors, with an activation where the entry has them. */
function steps({ BatchNorm, tensor }, options) {
  const bn = new BatchNorm(16, options);
  const [x, dy] = [tensor(SHAPE, wave(1009)), tensor(SHAPE, wave(997))];
  const y = bn.forward(x);
  const { dx, dGamma, dBeta } = bn.backward(dy);
  const predicted = bn.forward(x, { mode: "eval" });
  const digest = digestOf([
    y.data,
    dx.data,
    dGamma,
    dBeta,
    predicted.data,
    bn.gamma,
    bn.beta,
    bn.runningMean,
    bn.runningVariance,
  ]);
  for (const t of [x, dy, y, dx, predicted]) t.dispose();
  return digest;
}

async function look(library, complete) {
  const { BatchNorm, BatchNormError, init, kernelInfo, stopThreads } = library;
  const first = new BatchNorm(3);
  first.forward({ data: Float32Array.of(1, 2, 3, 4, 5, 7), shape: [2, 3] });
  const second = new BatchNorm(3);
  if (complete) second.loadStateDict(first.stateDict());
  else for (const name of ["gamma", "beta", "runningMean", "runningVariance"]) second[name] = first[name].slice();
  const options = complete ? { activation: "relu" } : {};
  const alone = steps(library, options);
  const threads = await thrownBy(() => init({ build: "simd", threads: 2 }), BatchNormError);
  const started = kernelInfo().threads;
  const together = steps(library, options);
  await stopThreads();
  return {
    state: second.batchesTracked === Number(complete) && String(second.runningMean) === String(first.runningMean),
    error: await thrownBy(() => first.forward({ data: new Float32Array(3), shape: [1, 3] }), BatchNormError),
    kind: await thrownBy(() => first.forward(5), BatchNormError),
    threads: threads === "nothing" ? started : threads,
    ended: kernelInfo().threads,
    digests: [alone, together, steps(library, options)],
  };
}

/** Looks at both entries, which run the build without fused multiply-add. */
export async function place(library, core) {
  for (const { init } of [library, core]) await init({ build: "simd" });
  return { library: await look(library, true), core: await look(core, false) };
}
