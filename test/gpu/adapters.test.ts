// Which GPU, or stand-in for one, the project "gpu" runs on. It fails where there is none, so that its suites do not pass
// on another backend.

import * as tf from "@tensorflow/tfjs-core";
import { expect, it } from "vitest";
import { BACKENDS, useBackend } from "../support/tfjs.ts";

interface Gpu {
  requestAdapter(): Promise<{ info: { vendor: string; architecture: string; description: string } } | null>;
}

/** The renderer of WebGL 2 or the adapter of WebGPU, as the browser names it. */
async function deviceOf(backend: string): Promise<string | undefined> {
  if (backend === "webgpu") {
    const { gpu } = navigator as { gpu?: Gpu };
    const info = (await gpu?.requestAdapter())?.info;
    return info && [info.vendor, info.architecture, info.description].join(" ").trim();
  }
  const context = document.createElement("canvas").getContext("webgl2");
  const { UNMASKED_RENDERER_WEBGL } = context?.getExtension("WEBGL_debug_renderer_info") ?? {};
  return UNMASKED_RENDERER_WEBGL && context?.getParameter(UNMASKED_RENDERER_WEBGL);
}

it.each(BACKENDS)("$backend has a device, and TF.js runs on it", async ({ backend }) => {
  const device = await deviceOf(backend);
  console.info(`${backend}: ${device}`);
  expect(device).toMatch(/\w/);
  await useBackend(backend);
  expect(tf.getBackend()).toBe(backend);
  expect(await tf.add(tf.tensor1d([1, 2]), 1).data()).toEqual(Float32Array.of(2, 3));
});
