// Every public function with values of a wrong kind at every position, in options too. Each outcome is an error of ours
// that begins with the argument's name; none comes from the engine.

import { beforeAll, describe, expect, test } from "vitest";
import * as lib from "../../src/index.ts";
import { normal, useBuild } from "../support/worlds.ts";
import type { Wrong } from "../support/wrong-use.ts";

beforeAll(() => useBuild("simd"));

const operand = () => ({ data: normal(1, 24), shape: [4, 3, 2] });
const vector = () => Float32Array.of(1, 2, 3);
const statistics = () => ({ count: 8, mean: new Float64Array(3), variance: new Float64Array(3).fill(1) });
const layer = () => new lib.BatchNorm(3);
const ready = () => {
  const bn = layer();
  bn.forward(operand(), { mode: "batch" });
  return bn;
};
const saved = () => lib.batchNormForward(operand()).saved;
const group = { rank: 0, size: 1, sum: () => undefined };

/** Makes valid arguments anew for every call. Objects of options are gone through, too. */
type Arguments = Record<string, () => unknown>;
const FUNCTIONS: Record<string, [call: (...args: Wrong[]) => unknown, args: Arguments]> = {
  BatchNorm: [
    (channels, options) => new lib.BatchNorm(channels, options),
    {
      channels: () => 3,
      options: () => ({
        epsilon: 1e-5,
        momentum: 0.1,
        layout: "channels-first",
        dtype: "float32",
        estimator: "ema",
      }),
    },
  ],
  forward: [
    (x, options) => ready().forward(x, options),
    {
      x: operand,
      options: () => ({
        mode: "train",
        out: operand(),
        residual: operand(),
        mask: Array(8).fill(true),
        statistics: undefined,
      }),
    },
  ],
  "forward with statistics": [(statistics) => ready().forward(operand(), { statistics }), { statistics }],
  "forward with perSample": [
    (perSample) => ready().forward(operand(), { perSample }),
    { perSample: () => ({ gamma: new Float32Array(12) }) },
  ],
  backward: [
    (dy, options) => ready().backward(dy, options),
    {
      dy: operand,
      options: () => ({
        dxOut: operand(),
        needs: { dx: true },
        dGammaOut: vector(),
        dBetaOut: vector(),
        accumulate: false,
      }),
    },
  ],
  "backward with sums": [
    (sums) => ready().backward(operand(), { sums }),
    { sums: () => ({ dGamma: new Float64Array(3), dBeta: new Float64Array(3) }) },
  ],
  track: [(s) => layer().track(s), { statistics }],
  SyncBatchNorm: [
    (channels, options) => new lib.SyncBatchNorm(channels, options),
    { channels: () => 3, options: () => ({ group }) },
  ],
  batchNormForward: [
    lib.batchNormForward as Wrong,
    {
      x: operand,
      parameters: () => ({ gamma: vector(), beta: vector() }),
      options: () => ({
        layout: "channels-first",
        epsilon: 1,
        out: operand(),
        residual: operand(),
        mask: Array(8).fill(1),
        activation: "relu",
      }),
    },
  ],
  batchNormInference: [
    lib.batchNormInference as Wrong,
    {
      x: operand,
      parameters: () => ({ gamma: vector(), beta: vector(), mean: vector(), variance: vector() }),
      options: () => ({ out: operand() }),
    },
  ],
  batchNormStatistics: [lib.batchNormStatistics as Wrong, { x: operand, options: () => ({ mask: Array(8).fill(1) }) }],
  batchNormBackward: [lib.batchNormBackward as Wrong, { dy: operand, saved, options: () => ({ dGammaOut: vector() }) }],
  batchNormGradientSums: [lib.batchNormGradientSums as Wrong, { dy: operand, saved }],
  batchNormDoubleBackward: [
    lib.batchNormDoubleBackward as Wrong,
    {
      dy: operand,
      saved,
      gradients: () => ({ ddx: operand(), ddGamma: vector(), ddBeta: vector() }),
      options: () => ({ needs: { dx: true } }),
    },
  ],
  instanceNormForward: [
    lib.instanceNormForward as Wrong,
    { x: operand, parameters: () => ({ gamma: vector() }), options: () => ({ out: operand() }) },
  ],
  groupNormForward: [
    lib.groupNormForward as Wrong,
    { x: operand, groups: () => 3, parameters: () => ({ beta: vector() }), options: () => ({}) },
  ],
  layerNormForward: [
    lib.layerNormForward as Wrong,
    { x: operand, normalizedShape: () => [3, 2], parameters: () => ({}), options: () => ({ out: operand() }) },
  ],
  rmsNormForward: [
    lib.rmsNormForward as Wrong,
    { x: operand, normalizedShape: () => 2, parameters: () => ({ gamma: Float32Array.of(1, 2) }), options: () => ({}) },
  ],
  normBackward: [
    lib.normBackward as Wrong,
    {
      dy: operand,
      saved: () => lib.layerNormForward(operand(), 2, { gamma: Float32Array.of(1, 2) }).saved,
      options: () => ({ dxOut: operand() }),
    },
  ],
  mergeStatistics: [lib.mergeStatistics as Wrong, { statistics: () => [statistics()] }],
  packStatistics: [lib.packStatistics as Wrong, { statistics }],
  unpackStatistics: [lib.unpackStatistics as Wrong, { packed: () => Float64Array.of(2, 1, 4) }],
  diagnose: [
    lib.diagnose as Wrong,
    { bn: layer, x: operand, options: () => ({ activation: "relu", residual: operand() }) },
  ],
  recalibrate: [
    lib.recalibrate as Wrong,
    { layers: layer, batches: () => [operand()], options: () => ({ estimator: "ema" }) },
  ],
  tensor: [lib.tensor as Wrong, { tensor: () => [3], data: vector, options: () => ({ dtype: "float32" }) }],
  readSafetensors: [lib.readSafetensors as Wrong, { file: () => lib.writeSafetensors({ a: vector() }) }],
  writeSafetensors: [lib.writeSafetensors as Wrong, { tensors: () => ({ a: vector() }), metadata: () => ({ a: "b" }) }],
  toAffine: [lib.toAffine as Wrong, { bn: layer }],
};

/** A Proxy that throws whatever is read of it. */
function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

const WRONG: [string, unknown][] = [
  ["a revoked Proxy", revoked({})],
  ["a revoked Proxy around an array", revoked([])],
  ["null", null],
  ["undefined", undefined],
  ["0", 0],
  ["a string", ""],
  ["an array", []],
  ["an object", {}],
  ["a function", () => undefined],
  ["a symbol", Symbol("s")],
  ["a Proxy around a tensor", new Proxy(new lib.Tensor({ allocate: () => 64 } as Wrong, [2], 2, "float32"), {})],
  ["a Proxy around a layer", new Proxy(layer(), {})],
];

/** What is no mistake: the argument is optional, and these values are among those that it may have. */
const VALID: Record<string, readonly unknown[]> = {
  epsilon: [0],
  momentum: [0],
  gamma: [null],
  beta: [null],
  ddGamma: [null],
  ddBeta: [null],
};

/** An error of ours, whose message begins with one of these names. */
const isOurs = (error: unknown, names: readonly string[]): boolean =>
  (error instanceof TypeError || error instanceof RangeError || error instanceof lib.BatchNormError) &&
  (names.some((name) => new RegExp(`^(\\w+ )?${name}\\b`).test(error.message)) ||
    error.message.startsWith("backward: expected a forward")) &&
  / expected .*, got /.test(error.message);

describe.each(Object.entries(FUNCTIONS))("%s", (_, [call, args]) => {
  const names = Object.keys(args);
  const make = () => names.map((name) => args[name]?.());

  /** Calls the function with `wrong` in an argument, or in one of its options, and returns what is no error of ours. */
  async function outcome(i: number, option: string | undefined, wrong: unknown): Promise<unknown> {
    const list = make();
    const name = option ?? (names[i] as string);
    if (option === undefined) list[i] = wrong;
    else list[i] = { ...(list[i] as object), [option]: wrong };
    try {
      await call(...list);
    } catch (error) {
      return isOurs(error, [name, ...names]) ? undefined : error;
    }
    return "accepted";
  }

  test("accepts what is right", async () => {
    await call(...make());
  });

  test.each(names.map((name, i) => [name, i] as const))(
    "refuses all that is wrong as %s, by its name",
    async (name, i) => {
      const valid = args[name]?.();
      const isOptions = typeof valid === "object" && Object.getPrototypeOf(valid) === Object.prototype;
      const found: string[] = [];
      for (const [what, wrong] of WRONG) {
        if (what === "a Proxy around a layer" && !/^(bn|layers)$/.test(name)) continue;
        if (what === "a Proxy around a tensor" && name === "tensors") continue; // an object of named values
        const isObject = what === "an object" && isOptions;
        if (wrong !== undefined && !isObject) {
          const result = await outcome(i, undefined, wrong);
          if (result && !VALID[name]?.includes(wrong)) found.push(`${what}: ${result}`);
        }
        if (!/^(options|parameters|gradients)$/.test(name)) continue;
        for (const option of Object.keys(valid as object)) {
          const result = await outcome(i, option, wrong);
          const isNone = wrong === undefined || (what === "an object" && option === "needs");
          if (result && !isNone && !VALID[option]?.includes(wrong)) found.push(`${what} as ${option}: ${result}`);
        }
      }
      expect(found).toEqual([]);
    },
  );
});
