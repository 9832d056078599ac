// Steps of training and evaluation of layers of all kinds, some of which fail: memory stays level, and a call that throws
// changes nothing.

import assert from "node:assert/strict";
import { BatchNorm, type Dtype, init, type LayerForwardOptions, type Options, tensor } from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { drop, makeOf } from "../support/worlds.ts";
import { count, errorOf, megabytes, memoryLevel, progress, type Random, type Run, snapshot } from "./support.ts";

/** Layers, each with its inputs. */
const LAYERS = 40;
/** Bytes by which JavaScript's heap may differ after a collection. A step that keeps 8 bytes takes 8 MB in a long run. */
const HELD = 4 * 2 ** 20;
/** Bytes by which the process may grow after the warm-up: pages that the collector keeps for later. */
const RSS = 96 * 2 ** 20;

/** Returns a random layer and two functions: one step of it, and one call that has to throw. */
function layerOf(random: Random) {
  const dtype = random.of<Dtype>(["float32", "float32", "float64", "bfloat16", "float16"]);
  const layout = random.of(["channels-first", "channels-last"] as const);
  const channels = random.integer(1, 9);
  const [samples, inner] = [random.integer(2, 8), random.integer(1, 12)];
  const shape = layout === "channels-first" ? [samples, channels, inner] : [samples, inner, channels];
  const kind = random.of(["plain", "tensor"] as const);
  const activation = random.of(["none", "none", "relu", "leaky_relu", "relu6", "silu"] as const);
  const options: Options<Dtype> = {
    dtype,
    layout,
    activation,
    estimator: random.of(["ema", "debiased", "cumulative", "population"] as const),
    ghostBatchSize: random.of([null, null, 2]),
    scale: random() < 0.8,
    shift: random() < 0.8,
    renorm: null,
  };
  if (options.ghostBatchSize) options.ghostBatchSize = inner > 1 ? 2 : null;
  const bn = new BatchNorm<Dtype, boolean, boolean>(channels, options);
  const length = samples * channels * inner;
  const make = () => {
    const values = random.values(length);
    const data = { float32: values, float64: Float64Array.from(values) };
    // bits of bfloat16 from 0.5 to 4, which are finite numbers of float16 too
    const bits = () => Uint16Array.from(values, () => 0x3f00 + random.integer(0, 0x17f));
    return makeOf<Dtype>(dtype, kind, shape, dtype === "float32" || dtype === "float64" ? data[dtype] : bits());
  };
  const [x, dy, residual] = [make(), make(), make()];
  const forward: LayerForwardOptions<typeof x> = {};
  if (activation !== "none" && random() < 0.5) forward.residual = residual;
  if (!options.ghostBatchSize && random() < 0.3)
    forward.mask = Array.from({ length: samples * inner }, (_, i) => i % 3 > 0 || i < 2);
  const outs = random() < 0.5 ? { out: make(), dxOut: make() } : undefined;

  const step = () => {
    const y = bn.forward(x, outs ? { ...forward, out: outs.out } : forward);
    const { dx, dResidual } = bn.backward(dy, outs ? { dxOut: outs.dxOut } : {});
    const predicted = bn.forward(x, { mode: "eval", ...(forward.residual && { residual }) });
    drop(...(outs ? [] : [y, dx]), dResidual, predicted);
  };

  const wrongCalls: [string, () => unknown][] = [
    ["a wrong shape", () => bn.forward({ data: new Float32Array(6) as never, shape: [2, 3, 1, 1, 7] })],
    ["a wrong mode", () => bn.forward(x, { mode: "bogus" as never })],
    ["a wrong mask", () => bn.forward(x, { mask: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13] })],
    ["a wrong dy", () => bn.backward({ data: new Float32Array(5) as never, shape: [5] })],
    ["a wrong state", () => bn.loadStateDict({ weight: new Float32Array(99) } as never)],
    [
      "one value per channel",
      () => bn.forward({ data: x.data.slice(0, channels) as never, shape: [1, channels], dtype } as never),
    ],
  ];
  if (dtype === "float32" || dtype === "float64") {
    const poisoned = make();
    (poisoned.data as Float32Array)[random.integer(0, length - 1)] = Number.NaN;
    wrongCalls.push(["NaN in x", () => bn.forward(poisoned)]);
  }
  const fail = () => {
    const [name, call] = random.of(wrongCalls);
    const check = snapshot(bn, [x, dy, residual]);
    const error = errorOf(call);
    assert(
      error && /^(BatchNormError|TypeError|RangeError)$/.test(String(error.name)),
      `${name}: ${error ?? "no error"}`,
    );
    check(`${name} in ${JSON.stringify({ shape, ...options })}`);
  };
  return { step, fail };
}

export const run: Run = async (size, random) => {
  await init({ threads: 1 });
  const layers = Array.from({ length: LAYERS }, () => layerOf(random));
  const warmUp = Math.ceil(size / 10);
  let failed = 0;
  const work = (from: number, to: number) => {
    for (let i = from; i < to; i++) {
      const { step, fail } = layers[i % LAYERS] as (typeof layers)[number];
      step();
      if (random() < 0.05) {
        fail();
        failed++;
      }
      progress("steps", i, size);
    }
  };
  work(0, warmUp);
  const before = await memoryLevel();
  const { used, capacity } = defaultHeap().usage;
  work(warmUp, size);
  const after = await memoryLevel();
  const usage = defaultHeap().usage;
  assert.deepEqual(usage, { used, capacity }, "wasm memory is not level");
  assert(after.held - before.held < HELD, `JavaScript holds ${megabytes(after.held - before.held)} more`);
  assert(after.rss - before.rss < RSS, `the process has ${megabytes(after.rss - before.rss)} more`);
  tensor([1]).dispose(); // the memory is in use to the end
  return [
    `${count(size)} steps of train, backward and eval, ${LAYERS} layers`,
    count(failed),
    `wasm ${megabytes(usage.used)}, ±0; JavaScript ${megabytes(after.held - before.held)} more, process ${megabytes(after.rss - before.rss)}`,
  ];
};
