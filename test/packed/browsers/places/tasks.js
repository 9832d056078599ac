// What a place is asked to do. It answers over a port: a worker's own, an audio processor's, or one to the page around it.
// The library is handed in, as some places have it by import and others as a global; the small entry, where it is an import.

import { check } from "../../check.js";

/** Enough for two threads to share, and nothing in it that two, or four lanes, divide. */
const SHAPE = [7, 33, 57, 57];

/** (module (func (export "twice") (param f32) (result f32) local.get 0 local.get 0 f32.add)) */
const TWICE = [
  [0, 97, 115, 109, 1, 0, 0, 0],
  [1, 6, 1, 96, 1, 125, 1, 125],
  [3, 2, 1, 0],
  [7, 9, 1, 5, 116, 119, 105, 99, 101, 0, 0],
  [10, 9, 1, 7, 0, 32, 0, 32, 0, 146, 11],
].flat();

const TASKS = {
  check: (library, { golden, simd }, core) => check(library, golden, new WebAssembly.Module(simd), core),

  /** Whether WebAssembly takes numbers below 2⁻¹²⁶ for zero here. */
  flushes() {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(TWICE)));
    return exports.twice(2 ** -140) === 0;
  },

  /** A step on one thread, and one more after asking for two: how many of its values have other bits. */
  async threads(library) {
    const before = step(library);
    const failure = await library.init({ threads: 2 }).then(() => undefined, describe);
    const after = step(library);
    return {
      failure,
      threads: library.kernelInfo().threads,
      values: before.length,
      different: before.filter((bits, i) => bits !== after[i]).length,
    };
  },

  construct: ({ BatchNorm }) => new BatchNorm(3).forward({ data: new Float32Array(6), shape: [2, 3] }),
};

/** The bits of all that a step writes. On tensors: threads share no other work. */
function step({ BatchNorm, tensor }) {
  const size = SHAPE.reduce((a, b) => a * b, 1);
  const values = (seed) => Float32Array.from({ length: size }, (_, i) => Math.sin(seed * (i + 1)) * 3 + seed);
  const bn = new BatchNorm(SHAPE[1]);
  const [x, dy] = [tensor(SHAPE, values(1)), tensor(SHAPE, values(2))];
  const y = bn.forward(x);
  const { dx, dGamma, dBeta } = bn.backward(dy);
  const bits = [y.data, dx.data, dGamma, dBeta].flatMap((list) => [...new Int32Array(Float32Array.from(list).buffer)]);
  for (const one of [x, dy, y, dx, bn]) one.dispose();
  return bits;
}

/** An error for a port, which carries no class of ours. */
const describe = ({ name, message, code }) => ({ name, message, code });

/** Answers every question that comes in, and says that it is ready for them. */
export function answer(library, port, core) {
  port.onmessage = async ({ data: { task, input } }) => {
    try {
      port.postMessage({ result: await TASKS[task](library, input, core) });
    } catch (error) {
      port.postMessage({ failure: describe(error) });
    }
  };
  port.postMessage("ready");
}

/** A port to the page around this one. */
export function portToParent() {
  const { port1, port2 } = new MessageChannel();
  parent.postMessage("port", "*", [port2]);
  return port1;
}
