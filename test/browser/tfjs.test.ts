// TF.js's wasm backend in a page. In a page that is cross-origin isolated it has threads with shared memory.

import * as tf from "@tensorflow/tfjs-core";
import { expect, inject, it } from "vitest";
import { batchNorm, info } from "../../src/tfjs/index.ts";
import { useBackend, values } from "../support/tfjs.ts";

it("its memory is worked on in place, shared or not", async () => {
  await useBackend("wasm");
  const { wasm } = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  expect(Object.prototype.toString.call(wasm.HEAPU8.buffer)).toBe(
    inject("isolated") ? "[object SharedArrayBuffer]" : "[object ArrayBuffer]",
  );
  expect(info()).toMatchObject({ backend: "wasm", memory: "in place" });
  const y = values(batchNorm(tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]), {}, { epsilon: 0 }).y);
  const s = Math.sqrt(1.5);
  expect(y).toBeAllclose([-s, -s, 0, 0, s, s], { rtol: 1e-6, atol: 1e-6 });
});
