// Measures all peers on one case: checks their results, then times them against the copy.

import { readFileSync } from "node:fs";
import { interleave } from "./harness.mjs";
import { arrays, tensors } from "./peers/ours.mjs";
import * as plain from "./peers/plain.mjs";

// Peers from outside (TF.js, onnxruntime-web, PyTorch) will be further entries here.
const PEERS = [tensors, arrays, plain];

/** Tensors that an operation has to read and write at the least. */
export const OPERATIONS = { inference: 2, forward: 3, backward: 5 };

/** Beyond this, relative to the largest value, a result is called wrong. */
const WRONG = 1e-4;

const copyModule = new WebAssembly.Module(readFileSync(new URL("../build/copy.wasm", import.meta.url)));

/** The v128 copy over a memory. */
export const copyOver = (memory) => new WebAssembly.Instance(copyModule, { env: { memory } }).exports.copy;

/** Largest error over the outputs, each relative to its largest value. */
export function errorOf(result, reference) {
  let worst = 0;
  for (const [output, expected] of Object.entries(reference)) {
    let size = 0;
    let error = 0;
    for (let i = 0; i < expected.length; i++) {
      size = Math.max(size, Math.abs(expected[i]));
      // NaN is the largest error of all
      const e = Math.abs(result[output][i] - expected[i]);
      error = e <= error ? error : e;
    }
    const relative = error / size;
    worst = relative <= worst ? worst : relative;
  }
  return worst;
}

/** @returns {{ name: string, bytes: number, copy: object, rows: object[] }} */
export function measure(data, options) {
  const reference = plain.prepare(data, Float64Array);
  reference.forward();
  reference.backward();
  const expected = reference.result();

  const peers = PEERS.map((peer) => ({ name: peer.name, ...peer.prepare(data) }));
  const errors = peers.map((peer) => {
    peer.forward();
    peer.backward();
    return errorOf(peer.result(), expected);
  });

  const { x, y } = peers[0];
  const copy = copyOver(x.heap.memory);
  const tasks = [
    { run: () => copy(x.pointer, y.pointer, 4 * data.length) },
    ...peers.flatMap((peer) => Object.keys(OPERATIONS).map((operation) => ({ run: peer[operation] }))),
  ];
  const [floor, ...timings] = interleave(tasks, options);
  const rows = peers.flatMap(({ name }, p) =>
    Object.entries(OPERATIONS).map(([operation, passes], o) => {
      const { ms, spread } = timings[p * 3 + o];
      const gigabytesPerSecond = (4 * data.length * passes) / ms / 1e6;
      const error = errors[p];
      return {
        peer: name,
        operation,
        ms,
        spread,
        copies: ms / floor.ms,
        gigabytesPerSecond,
        error,
        wrong: !(error < WRONG),
      };
    }),
  );
  for (const peer of peers) peer.dispose();
  const bandwidth = (8 * data.length) / floor.ms / 1e6;
  return { name: data.name, bytes: 4 * data.length, copy: { ...floor, gigabytesPerSecond: bandwidth }, rows };
}
