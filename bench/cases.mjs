// What is measured: shapes, and their data, the same in every run and for every peer.

export const CASES = [
  { shape: [32, 64, 56, 56], layout: "channels-first" },
  { shape: [32, 56, 56, 64], layout: "channels-last" },
  { shape: [32, 256, 14, 14], layout: "channels-first" },
  { shape: [128, 512], layout: "channels-first" },
  { shape: [8, 32, 16, 16], layout: "channels-first" },
];

/** mulberry32: a seeded stream of numbers in [0, 1). */
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A case with its geometry and its data: x in U(-1, 3), dy in U(-1, 1), gamma in U(0.5, 1.5), beta in U(-1, 1). */
export function load({ shape, layout }) {
  const product = (dims) => dims.reduce((a, b) => a * b, 1);
  const axis = layout === "channels-last" ? shape.length - 1 : 1;
  const next = random(20150211);
  const uniform = (length, low, high) => Float32Array.from({ length }, () => low + (high - low) * next());
  const channels = shape[axis];
  const length = product(shape);
  return {
    name: `[${shape.join(", ")}] ${shape.length === 2 ? "" : layout.replace("-", " ")}`.trim(),
    shape,
    layout,
    outer: product(shape.slice(0, axis)),
    channels,
    inner: product(shape.slice(axis + 1)),
    length,
    x: uniform(length, -1, 3),
    dy: uniform(length, -1, 1),
    gamma: uniform(channels, 0.5, 1.5),
    beta: uniform(channels, -1, 1),
  };
}
