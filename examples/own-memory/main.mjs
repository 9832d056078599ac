// Batch norm on the memory of another WebAssembly program, without copies. Run it with `npm run build && node
// examples/own-memory/main.mjs`. It prints the mean square of y, which is 1 for normalised values.

import { readFile } from "node:fs/promises";
import asc from "assemblyscript/asc";
import { attachMemory, BatchNorm } from "batchnorm-wasm";

const SHAPE = [64, 8];
const LENGTH = 64 * 8;

const source = await readFile(new URL("program.ts", import.meta.url), "utf8");
const { binary, error, stderr } = await asc.compileString(source, { runtime: "minimal", optimizeLevel: 3 });
if (error) throw new Error(`${error.message}\n${stderr}`);
const instantiate = async () => (await WebAssembly.instantiate(binary, { env: { abort() {} } })).instance.exports;

// AssemblyScript and wasm-bindgen: the exports of the instance
const { memory, malloc, free, produce, sumOfSquares } = await instantiate();
const { tensorAt } = attachMemory({ memory, malloc, free });
const at = malloc(LENGTH * 4);
produce(at, LENGTH); // the program writes x where it likes
const x = tensorAt(at, SHAPE);
const bn = new BatchNorm(8, { momentum: 1 });
bn.forward(x).dispose(); // training: y is a new tensor in the program's memory
bn.eval().forward(x, { out: x }); // prediction, in place
console.log("AssemblyScript", (sumOfSquares(at, LENGTH) / LENGTH).toFixed(3)); // the program reads y there
free(at);

// Emscripten: the object Module, which here has the same program under Emscripten's names
const exports = await instantiate();
const Module = { wasmMemory: exports.memory, _malloc: exports.malloc, _free: exports.free };
const attached = attachMemory({ memory: Module.wasmMemory, malloc: Module._malloc, free: Module._free });
const values = attached.tensor(SHAPE, Float32Array.from({ length: LENGTH }, Math.random));
const y = new BatchNorm(8).forward(values);
console.log("Emscripten", (exports.sumOfSquares(y.data.byteOffset, LENGTH) / LENGTH).toFixed(3));
for (const tensor of [values, y]) tensor.dispose();
