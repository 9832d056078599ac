// A batch that does not fit is done in three parts, and gives what the whole batch gives. Statistics come first, then y;
// sums of gradients come first, then dx.
import {
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormStatistics,
  mergeStatistics,
} from "batchnorm-wasm";

const channels = 2;
const rows = (from, to, f) => ({
  shape: [to - from, channels],
  data: Float32Array.from({ length: (to - from) * channels }, (_, i) => f(from * channels + i)),
});
const bounds = [0, 8, 24, 32];
const cut = (f) => bounds.slice(1).map((to, i) => rows(bounds[i], to, f));
const [f, g] = [(i) => Math.sin(i * i), (i) => Math.cos(3 * i)];

const parts = cut(f);
const statistics = mergeStatistics(parts.map((part) => batchNormStatistics(part)));
const forwards = parts.map((part) => batchNormForward(part, {}, { statistics }));

const dys = cut(g);
const sums = { dGamma: new Float64Array(channels), dBeta: new Float64Array(channels) };
for (const [i, { saved }] of forwards.entries()) {
  const own = batchNormGradientSums(dys[i], saved);
  for (let c = 0; c < channels; c++) {
    sums.dGamma[c] += own.dGamma[c];
    sums.dBeta[c] += own.dBeta[c];
  }
}
const dxs = forwards.map(({ saved }, i) => batchNormBackward(dys[i], saved, { sums }).dx);

const bn = new BatchNorm(channels);
const y = bn.forward(rows(0, 32, f));
const { dx } = bn.backward(rows(0, 32, g));
const apart = (pieces, whole) =>
  Math.max(...pieces.flatMap(({ data }) => [...data]).map((v, i) => Math.abs(v - whole.data[i])));
const differences = {
  y: apart(
    forwards.map(({ y }) => y),
    y,
  ),
  dx: apart(dxs, dx),
};
console.log("statistics", statistics);
console.log("largest difference from the whole batch", differences);
console.log("the same within rounding", differences.y < 1e-5 && differences.dx < 1e-5);
