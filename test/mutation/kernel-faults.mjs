// Single faults of kernels: each replaces one piece of text in a file of assembly/ by a wrong one. The script kernels.mjs
// builds the kernels with each of them, and shows which tests fail. A piece of text must occur exactly once in its file,
// or `occurrence` says which one is meant, counted from 1. test/assembly/kernel-faults.test.ts checks that every fault
// still applies.

/**
 * @typedef {object} Fault
 * @property {string} file The file in assembly/.
 * @property {string} fault What is wrong, as a phrase that completes "The kernel …".
 * @property {string} before The right text.
 * @property {string} after The wrong text.
 * @property {number} [occurrence] Which occurrence of `before` is replaced, if there are several.
 */

/** @type {Fault[]} */
export const faults = [
  // plan.ts: walks and workspace
  {
    file: "plan.ts",
    fault: "leaves the last rows and stripes out, because a division rounds down",
    before: "return (a + b - 1) / b;",
    after: "return a / b;",
  },
  {
    file: "plan.ts",
    fault: "has room for four rows of coefficients where a map has five",
    before: "const COEFFICIENT_ROWS: usize = 5;",
    after: "const COEFFICIENT_ROWS: usize = 4;",
  },
  {
    file: "plan.ts",
    fault: "has the flags of unreliable channels in the memory of the parameters of an activation",
    before: "behind(parameters, 2 * elementBytes)",
    after: "behind(parameters, 0)",
  },
  {
    file: "plan.ts",
    fault: "does not sum the last, narrow block of columns again",
    before: "return divideUp(end * p.columnsPerChannel, COLUMN_BLOCK);",
    after: "return (end * p.columnsPerChannel) / COLUMN_BLOCK;",
  },
  {
    file: "plan.ts",
    fault: "sums few values in blocks of 64, whose rounding errors do not average out",
    before: "const BLOCKED_64_FROM: usize = 1024;",
    after: "const BLOCKED_64_FROM: usize = 64;",
  },
  // channels.ts: statistics and coefficients
  {
    file: "kernels/channels.ts",
    fault: "leaves out the last stripe where it merges eight channels at once",
    before: "for (let start = channel; start < columns; start += p.period) {",
    after: "for (let start = channel; start + p.period < columns; start += p.period) {",
  },
  {
    file: "kernels/channels.ts",
    fault: "leaves out the last stripe where it merges one channel",
    before: "for (let start = channel * width; start < columns; start += p.period)",
    after: "for (let start = channel * width; start + p.period < columns; start += p.period)",
  },
  {
    file: "kernels/channels.ts",
    fault: "ignores the rounding errors of merged sums of float64",
    before:
      "return Lanes.accumulatesInF64<T>() ? sum : f64x2.extract_lane(Lanes.compensated(f64x2.splat(sum), errors), 0);",
    after: "return sum;",
  },
  {
    file: "kernels/channels.ts",
    fault: "takes a pivot of constant channels that is not exact, because its step is 0",
    before: "return v128.bitselect(rounded, mean, usable);",
    after: "return rounded;",
  },
  {
    file: "kernels/channels.ts",
    fault: "broadcasts a row from its beginning, and so overwrites values before it reads them",
    before: "for (let channel = p.channels; channel--; ) {",
    after: "for (let channel: usize = 0; channel < p.channels; ++channel) {",
  },
  {
    file: "kernels/channels.ts",
    fault: "has an infinite invStd for an odd last channel whose variance and epsilon are 0",
    before: "store<f64>(p.invStd + Lanes.bytes<f64>(channel), v == 0 ? 0 : 1 / sqrt<f64>(v));",
    after: "store<f64>(p.invStd + Lanes.bytes<f64>(channel), 1 / sqrt<f64>(v));",
  },
  {
    file: "kernels/channels.ts",
    fault: "has an infinite invStd for a pair of channels whose variance and epsilon are 0",
    before: "v128.store(p.invStd + offset, v128.andnot(invStd, f64x2.eq(v, f64x2.splat(0))));",
    after: "v128.store(p.invStd + offset, invStd);",
  },
  {
    file: "kernels/channels.ts",
    fault: "lets rounding errors make the variance of a pair of channels negative",
    before: "const v = f64x2.max(f64x2.sub(square, deltaSquare), f64x2.splat(0));",
    after: "const v = f64x2.sub(square, deltaSquare);",
  },
  {
    file: "kernels/channels.ts",
    fault: "does not mark channels of a pair whose pivot is far from the mean",
    before: "f64x2.le(deltaSquare, v)",
    after: "f64x2.eq(deltaSquare, deltaSquare)",
  },
  {
    file: "kernels/channels.ts",
    fault: "does not mark an odd last channel whose pivot is far from the mean",
    before: "const good = inside && delta * delta <= v;",
    after: "const good = inside;",
  },
  {
    file: "kernels/channels.ts",
    fault: "stores the mark of a pair's second channel for the first one",
    before: "store<u8>(p.unreliable + channel, u8(bad >> 1), 1);",
    after: "store<u8>(p.unreliable + channel, u8(bad >> 1));",
    occurrence: 1,
  },
  {
    file: "kernels/channels.ts",
    fault: "does not mark the gradient sums of a pair whose products underflow",
    before: "      f64x2.ge(size, smallest),\n",
    after: "      f64x2.eq(size, size),\n",
  },
  {
    file: "kernels/channels.ts",
    fault: "adds the low part of the mean to dGamma of a pair instead of subtracting it",
    before: "f64x2.sub(dot, f64x2.mul(low, sum))",
    after: "f64x2.add(dot, f64x2.mul(low, sum))",
  },
  {
    file: "kernels/channels.ts",
    fault: "adds the low part of the mean to dGamma of an odd last channel",
    before: "(dot - (mean - hi) * sum) * invStd); // B3",
    after: "(dot + (mean - hi) * sum) * invStd); // B3",
  },
  {
    file: "kernels/channels.ts",
    fault: "leaves the low part of the mean out of the shift of a pair",
    before: "const shift = f64x2.sub(Pair.valuesOr(beta, channel, f64x2.splat(0)), f64x2.mul(low, scale));",
    after: "const shift = Pair.valuesOr(beta, channel, f64x2.splat(0));",
  },
  {
    file: "kernels/channels.ts",
    fault: "has the wrong sign in the coefficient of x of an odd last channel",
    before: "const xCoefficient = (-load<f64>(p.invStd + offset) * load<f64>(p.dGamma + offset)) / count; // B4",
    after: "const xCoefficient = (load<f64>(p.invStd + offset) * load<f64>(p.dGamma + offset)) / count; // B4",
  },
  {
    file: "kernels/channels.ts",
    fault: "adds the low part of the mean to the shift of a pair's gradient",
    before: "Pair.store(entry + 2 * row, f64x2.sub(dBeta, f64x2.mul(low, xCoefficient))); // B5",
    after: "Pair.store(entry + 2 * row, f64x2.add(dBeta, f64x2.mul(low, xCoefficient))); // B5",
  },
  {
    file: "kernels/channels.ts",
    fault: "blends without the factor that makes the variance unbiased",
    before: "(1 - weight) * load<f64>(entry) + weight * value * factor",
    after: "(1 - weight) * load<f64>(entry) + weight * value",
  },
  {
    file: "kernels/channels.ts",
    fault: "takes the mean as hi where x − hi overflows",
    before: "const hi = f32x4.demote_f64x2_zero(v128.and(mean, near));",
    after: "const hi = f32x4.demote_f64x2_zero(mean);",
  },
  {
    file: "kernels/channels.ts",
    fault: "lets a finite coefficient become infinite",
    before: "return v128.bitselect(inside, values, f64x2.lt(f64x2.abs(values), f64x2.splat(Infinity)));",
    after: "return values;",
  },
  {
    file: "kernels/sums.ts",
    fault: "rounds the product of dy and a slope before it sums in f64",
    before: "    if (leaky) {",
    after: "    if (false) {",
  },
  // lanes.ts
  {
    file: "kernels/lanes.ts",
    fault: "has the wrong sign in the rounding error of a sum",
    before: "return f64x2.add(f64x2.sub(a, f64x2.sub(sum, c)), f64x2.sub(b, c));",
    after: "return f64x2.sub(f64x2.sub(a, f64x2.sub(sum, c)), f64x2.sub(b, c));",
  },
  // sums.ts
  {
    file: "kernels/sums.ts",
    fault: "reads one vector of a block of moments twice and skips its neighbour",
    before: "d1 = v128.sub<T>(v128.load(a2, 16), p);",
    after: "d1 = v128.sub<T>(v128.load(a2), p);",
  },
  {
    file: "kernels/sums.ts",
    fault: "drops the values of a plane that do not fill a block",
    before: "  if (length) {",
    after: "  if (length > 4 * lanes) {",
  },
  {
    file: "kernels/sums.ts",
    fault: "sums the last values of one far plane only",
    before: "for (let plane: usize = 0; plane < planes; ++plane) {",
    after: "for (let plane: usize = 0; plane < 1; ++plane) {",
  },
  {
    file: "kernels/sums.ts",
    fault: "adds the pivot in the unused lanes of single elements",
    before: "const firstLane = single.load<T>(pivot);",
    after: "const firstLane = p;",
  },
  {
    file: "kernels/sums.ts",
    fault: "ignores the rounding errors of planar sums of float64",
    before: "v128.store(sum, v128.shuffle<u64>(after, error, 0, 2));",
    after: "v128.store(sum, v128.shuffle<u64>(after, f64x2.splat(0), 0, 2));",
  },
  {
    file: "kernels/sums.ts",
    fault: "multiplies the wrong half of a vector in f64 sums",
    before: "dotHigh = Lanes.madd<f64>(uHigh, dHigh, dotHigh);",
    after: "dotHigh = Lanes.madd<f64>(uLow, dHigh, dotHigh);",
  },
  {
    file: "kernels/sums.ts",
    fault: "reads the seventh of eight rows of a column twice and skips the eighth",
    before: "const d7 = v128.sub<T>(v128.load(x4 + 3 * stride), pivot);",
    after: "const d7 = v128.sub<T>(v128.load(x4 + 2 * stride), pivot);",
  },
  {
    file: "kernels/sums.ts",
    fault: "adds the low half of a block to the columns of the high half",
    before: "f64x2.add(f64x2.add(v128.load(sums, 16), Lanes.high(first)), Lanes.high(second)), 16);",
    after: "f64x2.add(f64x2.add(v128.load(sums, 16), Lanes.high(first)), Lanes.low(second)), 16);",
  },
  {
    file: "kernels/sums.ts",
    fault: "does not flush the running sums of products at the end of a stripe",
    before: "  flush<T>(runningDot, dot, columns);\n  if (!Lanes",
    after: "  if (!Lanes",
  },
  {
    file: "kernels/sums.ts",
    fault: "does not clear running sums after a flush",
    before: "    v128.store(running, v128.splat<T>(<T>0));\n",
    after: "",
  },
  {
    file: "kernels/sums.ts",
    fault: "reads one of four far rows twice",
    before: "const d2 = v128.sub<T>(v128.load(x + 2 * gap), p);",
    after: "const d2 = v128.sub<T>(v128.load(x + gap), p);",
  },
  {
    file: "kernels/sums.ts",
    fault: "is off by one row where the rows that are left begin",
    before: "begin += 4 * fours * columns;",
    after: "begin += 4 * fours * columns + (fours ? columns : 0);",
  },
  {
    file: "kernels/sums.ts",
    fault: "reads behind the end of a last row that is cut short",
    before: "let left = min(columns, end - begin);",
    after: "let left = columns;",
  },
  {
    file: "kernels/sums.ts",
    fault: "adds sums by column to those that stood in memory before",
    before: "memory.fill(dot + Lanes.bytes<f64>(begin), 0, Lanes.bytes<f64>(end - begin));",
    after: "",
  },
  // maps.ts
  {
    file: "kernels/maps.ts",
    fault: "reads one vector of the second source twice in a line of four",
    before: "b + 48,",
    after: "b + 32,",
  },
  {
    file: "kernels/maps.ts",
    fault: "does not map the last element of a plane",
    before: "for (; left; --left) {\n        Step.withVectors",
    after: "for (; left > 1; --left) {\n        Step.withVectors",
  },
  {
    file: "kernels/maps.ts",
    fault: "does not map the last images if their number is no multiple of the streams",
    before: "images = outer - done;",
    after: "images = 0;",
  },
  {
    file: "kernels/maps.ts",
    fault: "writes one of four far rows twice",
    before: "y + three,",
    after: "y + two,",
  },
  {
    file: "kernels/maps.ts",
    fault: "skips one row after those that are mapped by fours",
    before: "begin += 4 * rows * columns;",
    after: "begin += 4 * rows * columns + (rows ? columns : 0);",
  },
  {
    file: "kernels/maps.ts",
    fault: "skips too little from one image to the next",
    before: "const skip = Lanes.bytes<T>((plan.pitch - end + begin) * inner);",
    after: "const skip = Lanes.bytes<T>((plan.pitch - end) * inner);",
    occurrence: 1,
  },
  {
    file: "kernels/maps.ts",
    fault: "subtracts the shift of a gradient",
    before: "return v128.mul<T>(Lanes.madd<T>(d, xCoefficient, v128.add<T>(dz, shift)), scale);",
    after: "return v128.mul<T>(Lanes.madd<T>(d, xCoefficient, v128.sub<T>(dz, shift)), scale);",
  },
  {
    file: "kernels/maps.ts",
    fault: "makes +0 of −0 where a residual is missing",
    before: "return v128.splat<T>(<T>-0.0);",
    after: "return v128.splat<T>(<T>0);",
  },
  // activations.ts
  {
    file: "kernels/activations.ts",
    fault: "has the derivative 1 of ReLU at 0 in sums and maps of gradients",
    before: "return v128.andnot(dy, v128.le<T>(v128.mul<T>(d, scale), shift));",
    after: "return v128.andnot(dy, v128.lt<T>(v128.mul<T>(d, scale), shift));",
  },
  {
    file: "kernels/activations.ts",
    fault: "has the derivative 1 of leaky ReLU at 0",
    before: "return v128.bitselect(leak, dy, v128.le<T>(v128.mul<T>(d, scale), shift));",
    after: "return v128.bitselect(leak, dy, v128.lt<T>(v128.mul<T>(d, scale), shift));",
  },
  {
    file: "kernels/activations.ts",
    fault: "has the derivative 1 of ReLU6 at 6",
    before: "v128.ge<T>(z, v128.splat<T>(<T>6))",
    after: "v128.gt<T>(z, v128.splat<T>(<T>6))",
  },
  {
    file: "kernels/activations.ts",
    fault: "multiplies infinity by a slope of 0",
    before: "return v128.and(v128.mul<T>(v, slope), v128.ne<T>(slope, v128.splat<T>(<T>0)));",
    after: "return v128.mul<T>(v, slope);",
  },
  {
    file: "kernels/activations.ts",
    fault: "computes the exponential of SiLU's derivative beyond its range",
    before: "const t = this.clampAbove<T>(this.clampBelow<T>(z));",
    after: "const t = this.clampBelow<T>(z);",
  },
  // half.ts
  {
    file: "kernels/half.ts",
    fault: "rounds ties to bfloat16 down instead of to even",
    before: "return i32x4.add(f, i32x4.add(odd, i32x4.splat(0x7fff)));",
    after: "return i32x4.add(f, i32x4.splat(0x7fff));",
  },
  {
    file: "kernels/half.ts",
    fault: "makes a number of NaN where it rounds to float16",
    before: "return v128.or(sign, v128.bitselect(value, i32x4.splat(0x7e00), f32x4.eq(f, f)));",
    after: "return v128.or(sign, value);",
  },
  {
    file: "kernels/half.ts",
    fault: "widens an infinity of float16 as if it were finite",
    before: "i16x8.splat(0x7bff))",
    after: "i16x8.splat(0x7c00))",
  },
  // weights.ts
  {
    file: "kernels/weights.ts",
    fault: "adds masked gradients that are not finite",
    before: "if (w != 0 || (gradients && d * 0 * u == 0)) {",
    after: "if (w != 0 || gradients) {",
  },
  {
    file: "kernels/weights.ts",
    fault: "takes masked values that are not finite into the moments",
    before: "      v = v128.andnot(v, masked);\n",
    after: "",
  },
  {
    file: "kernels/weights.ts",
    fault: "reads weights behind the end of their row",
    before: "if (columns && weights >= end) weights -= back;",
    after: "if (columns && weights > end) weights -= back;",
  },
  {
    file: "kernels/weights.ts",
    fault: "lets the weights of a row run on into the next row where elements are mapped one by one",
    before: "if (weights >= end) weights -= plan.inner * bytes;",
    after: "",
  },
  // phases.ts and embed.ts
  {
    file: "phases.ts",
    fault: "sums blocks of columns of all stripes from the first stripe",
    before: "const stripe = begin / blocks;",
    after: "const stripe: usize = 0;",
  },
  {
    file: "phases.ts",
    fault: "reads sums that were taken again from the entries of the first sums",
    before: "const byColumn = inF64 || plan.byColumn;",
    after: "const byColumn = plan.byColumn;",
  },
  {
    file: "embed.ts",
    fault: "blends the biased variance into the running variance of a host",
    before: "blend(runningVariance, variance, momentum, count / (count - 1), 0, channels);",
    after: "blend(runningVariance, variance, momentum, 1, 0, channels);",
  },
  {
    file: "embed.ts",
    fault: "does not sum unreliable channels of a host again",
    before:
      "if (readSums<f32>(p, operation, epsilon, 0, p.channels)) sumAgain<S>(p, operation | AGAIN, x, dy, epsilon);",
    after: "readSums<f32>(p, operation, epsilon, 0, p.channels);",
  },
];

/**
 * Returns the text of a file with the fault in it.
 * @param {string} text The right text of `fault.file`.
 * @param {Fault} fault
 * @returns {string}
 * @throws {Error} If the text to replace does not occur, or if it occurs several times and `occurrence` is missing.
 */
export function withFault(text, { file, fault, before, after, occurrence }) {
  const parts = text.split(before);
  const found = parts.length - 1;
  if (occurrence === undefined ? found !== 1 : found < Math.max(occurrence, 2))
    throw new Error(
      `assembly/${file}: expected ${occurrence ?? "one"} occurrence of ${JSON.stringify(before)} for the fault "${fault}", found ${found}`,
    );
  const at = occurrence ?? 1;
  return parts.slice(0, at).join(before) + after + parts.slice(at).join(before);
}
