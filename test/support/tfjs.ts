// TF.js's backends as the suites of batchnorm-wasm/tfjs use them: its wasm backend, whose memory the kernels run on; the same
// without a way to its memory; and cpu.

import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-layers"; // registers the gradients, which core's build for Node leaves out
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";

tf.enableProdMode(); // without advice on the console
// not by new URL(…, import.meta.url), which Vite takes for a module
const binaries = import.meta.url.replace(/test\/support\/[^/]*$/, "node_modules/@tensorflow/tfjs-backend-wasm/dist/");
setWasmPaths(fileURLToPath(binaries));

/** A backend of which `hidden` parts do not show. */
export function hiding<B extends object>(backend: B, instead: { readonly [key: string]: unknown }): B {
  return new Proxy(backend, {
    get: (target, key) => (key in instead ? instead[key as string] : Reflect.get(target, key, target)),
  });
}

export const BACKENDS = [
  { backend: "wasm", memory: "in place" },
  { backend: "hidden", memory: "copied" },
  { backend: "cpu", memory: "copied" },
] as const;

/** Starts a backend of the list and makes it TF.js's current one. */
export async function useBackend(name: string): Promise<void> {
  if (name === "hidden" && !tf.engine().registryFactory.hidden) {
    await tf.setBackend("wasm");
    const wasm = tf.backend() as tf.KernelBackend & { wasm: object };
    tf.copyRegisteredKernels("wasm", name);
    tf.registerBackend(name, () => hiding(wasm, { wasm: hiding(wasm.wasm, { asm: {}, wasmMemory: undefined }) }));
  }
  if (!(await tf.setBackend(name))) throw new Error(`TF.js's backend ${name} did not start`);
}

export const values = (t: tf.Tensor): Float32Array => Float32Array.from(t.dataSync());
