// Backends of TF.js for the suites of batchnorm-wasm/tfjs: its wasm backend, whose memory the kernels use; the wasm
// backend with its memory hidden; the cpu backend; and the cpu backend as one whose elements are out of reach.

import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-layers"; // registers the gradients, which tfjs-core's build for Node does not contain
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { inject } from "vitest";

tf.enableProdMode(); // suppresses advice on the console
// Vite would treat new URL(…, import.meta.url) as an import of a module
const binaries = import.meta.url.replace(/test\/support\/[^/]*$/, "node_modules/@tensorflow/tfjs-backend-wasm/dist/");
setWasmPaths(fileURLToPath(binaries));

/** Returns a proxy of a backend with other values for some properties. */
export function hiding<B extends object>(backend: B, instead: { readonly [key: string]: unknown }): B {
  return new Proxy(backend, {
    get: (target, key) => (key in instead ? instead[key as string] : Reflect.get(target, key, target)),
  });
}

interface Backend {
  readonly backend: "wasm" | "hidden" | "cpu" | "device" | "webgl" | "webgpu";
  readonly memory: "in place" | "copied" | "composed";
}

/** The backends of a suite: those of a GPU in Chromium's project "gpu", and those of the processor elsewhere. */
export const BACKENDS: readonly Backend[] = inject("gpu")
  ? [
      { backend: "webgl", memory: "composed" },
      { backend: "webgpu", memory: "composed" },
    ]
  : [
      { backend: "wasm", memory: "in place" },
      { backend: "hidden", memory: "copied" },
      { backend: "cpu", memory: "copied" },
      { backend: "device", memory: "composed" },
    ];

/**
 * Returns the cpu backend as one whose tensors are not the arrays that it is given, as those of a GPU are not. Everything
 * else is the cpu backend's.
 */
function deviceOf(cpu: tf.KernelBackend & { data: { get(id: object): { values: unknown } } }): tf.KernelBackend {
  const get = (id: object) => {
    const entry = cpu.data.get(id);
    const { values } = entry;
    return hiding(entry, ArrayBuffer.isView(values) ? { values: (values as Float32Array).subarray(0) } : {});
  };
  return hiding(cpu, { data: hiding(cpu.data, { get }) });
}

/** Starts a backend of BACKENDS and makes it TF.js's current one. */
export async function useBackend(name: string): Promise<void> {
  if (name === "webgl") await import("@tensorflow/tfjs-backend-webgl");
  if (name === "webgpu") await import("@tensorflow/tfjs-backend-webgpu");
  if (name === "hidden" && !tf.engine().registryFactory.hidden) {
    await tf.setBackend("wasm");
    const wasm = tf.backend() as tf.KernelBackend & { wasm: object };
    tf.copyRegisteredKernels("wasm", name);
    tf.registerBackend(name, () => hiding(wasm, { wasm: hiding(wasm.wasm, { asm: {}, wasmMemory: undefined }) }));
  }
  if (name === "device" && !tf.engine().registryFactory.device) {
    await tf.setBackend("cpu");
    const device = deviceOf(tf.backend() as never);
    tf.copyRegisteredKernels("cpu", name);
    tf.registerBackend(name, () => device);
  }
  if (!(await tf.setBackend(name))) throw new Error(`TF.js's backend ${name} did not start`);
}

export const values = (t: tf.Tensor): Float32Array => Float32Array.from(t.dataSync());

/** Returns a tensor's elements on any backend: TF.js's webgpu backend reads reliably only asynchronously. */
export const read = async (t: tf.Tensor): Promise<Float32Array> => Float32Array.from(await t.data());

export const readAll = (tensors: readonly tf.Tensor[]): Promise<Float32Array[]> => Promise.all(tensors.map(read));
