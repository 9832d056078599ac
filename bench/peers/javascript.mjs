// Peer: batch normalization as one would write it by hand in JavaScript and with care: tensors read in memory order, sums
// in float64, the variance in a second pass about the mean, a map of two coefficients per channel. No library, no wasm.
//
// x, y, dy and dx are [outer, channels, inner]. With inner = 1 channels lie side by side, and the loop over a plane would
// be all overhead: every pass has a second form for that.

import { EPSILON } from "../data.mjs";

/** Σ (x − pivot)^power per channel, power 1 or 2. */
function sums(x, { outer, channels, inner }, pivot, power) {
  const total = new Float64Array(channels);
  let i = 0;
  for (let n = 0; n < outer; n++)
    for (let c = 0; c < channels; c++) {
      if (inner === 1) {
        const d = x[i++] - pivot[c];
        total[c] += power === 2 ? d * d : d;
        continue;
      }
      const p = pivot[c];
      let sum = 0;
      if (power === 2)
        for (const end = i + inner; i < end; i++) {
          const d = x[i] - p;
          sum += d * d;
        }
      else for (const end = i + inner; i < end; i++) sum += x[i] - p;
      total[c] += sum;
    }
  return total;
}
