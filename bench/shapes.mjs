// What is measured: the listed shapes, the sweeps over sizes, and the channels-last twin of a channels-first shape.

const first = (...shape) => ({ shape, layout: "channels-first" });
const last = (...shape) => ({ shape, layout: "channels-last" });

/** The listed shapes, in the order of the report. */
export const SHAPES = [
  first(32, 64, 56, 56),
  last(32, 56, 56, 64),
  first(32, 256, 14, 14),
  first(8, 32, 16, 16),
  first(128, 512),
  first(4096, 1024),
  first(32, 512, 7, 7),
  first(32, 1024, 2, 2),
  first(256, 64, 1, 1),
  first(4, 4),
];

/** Sides of square images, 8 of them of 32 channels: 10³ to 10⁸ elements, in steps of about √10. */
const SIDES = [2, 4, 6, 11, 20, 35, 63, 111, 198, 351, 625];

/** Cost per element over size: the same batch and channels, ever larger images. */
export const SWEEP = [
  ...SIDES.map((side) => first(8, 32, side, side)),
  ...SIDES.map((side) => last(8, side, side, 32)),
];

/** About a million elements each, in shapes that vectors of four do not fit, or that fall on the same cache sets. */
export const AWKWARD = [
  { ...first(64, 320, 7, 7), why: "inner 49" },
  { ...first(512, 400, 5), why: "inner 5" },
  { ...first(512, 640, 3), why: "inner 3" },
  { ...first(64, 1, 128, 128), why: "C 1" },
  { ...last(64, 128, 128, 1), why: "C 1" },
  { ...first(32, 3, 104, 104), why: "C 3" },
  { ...last(32, 104, 104, 3), why: "C 3" },
  { ...first(32, 5, 80, 80), why: "C 5" },
  { ...last(32, 80, 80, 5), why: "C 5" },
  { ...first(32, 1000, 6, 6), why: "C 1000" },
  { ...first(1024, 1000), why: "C 1000" },
  { ...first(1024, 1024), why: "rows of 4 KiB" },
  { ...first(256, 4096), why: "rows of 16 KiB" },
  { ...first(32, 32, 32, 32), why: "planes of 4 KiB" },
  { ...first(4, 16, 128, 128), why: "planes of 64 KiB" },
];

export const sizeOf = ({ shape }) => shape.reduce((a, b) => a * b, 1);

export const titleOf = ({ shape, layout }) =>
  `[${shape.join(", ")}]${shape.length > 2 ? `, ${layout.replace("-", " ")}` : ""}`;

export const sameShape = (a, b) => titleOf(a) === titleOf(b);

/** The same tensor in the other layout. */
export function twinOf({ shape, layout }) {
  const [n, ...rest] = shape;
  return layout === "channels-first" ? last(n, ...rest.slice(1), rest[0]) : first(n, rest.at(-1), ...rest.slice(0, -1));
}
