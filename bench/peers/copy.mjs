// Peer: a copy of the tensor inside the memory it lives in. Batch normalization cannot be had for less than reading x and
// writing y once, so this is the floor that the others' times are divided by.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { tensor } from "batchnorm-wasm";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

// a process of its own, because a megabyte of compiler has no business in the heap of a benchmark
const compile = () =>
  execFileSync(
    process.execPath,
    [
      "--enable-source-maps", // asc would start a second process to set it
      path("../../node_modules/assemblyscript/bin/asc.js"),
      path("../assembly/copy.ts"),
      ...["--config", "none"], // there is no such file, and so the root's is not merged in
      ...["-O3", "--noAssert", "--runtime", "stub", "--importMemory", "--noExportMemory", "--enable", "simd"],
      ...["--use", "abort=", "--outFile"], // no name: to stdout
    ],
    { cwd: path("../..") },
  );

let module;

/** copy(from, to, bytes) over a memory, as bench/assembly/copy.ts has it. */
export function copyKernel(memory) {
  module ??= new WebAssembly.Module(compile());
  return new WebAssembly.Instance(module, { env: { memory } }).exports.copy;
}

export const copy = {
  name: "copy",
  prepare({ shape, x }) {
    const from = tensor(shape, x);
    const to = tensor(shape);
    const run = copyKernel(from.heap.memory);
    const call = () => run(from.pointer, to.pointer, x.byteLength);
    return {
      operations: { copy: { call, results: () => ({ y: to.data }) } },
      dispose() {
        from.dispose();
        to.dispose();
      },
    };
  },
};
