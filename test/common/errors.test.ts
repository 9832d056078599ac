// Classes and messages of errors, and init with a wrong module. The golden cases of kind "error" are wrong uses for
// which PyTorch raises an error, and for which this library throws one.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test, vi } from "vitest";
import {
  BatchNorm,
  BatchNormError,
  batchNormForward,
  batchNormInference,
  init,
  layerNormForward,
  mergeStates,
  readSafetensors,
  type TensorLike,
  tensor,
  writeSafetensors,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { sizeOf, useBuild } from "../support/worlds.ts";
import { SHAPE, type Wrong } from "../support/wrong-use.ts";

function thrownBy(call: () => unknown): Error {
  try {
    call();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

describe("messages", () => {
  beforeAll(() => useBuild("simd"));

  test("give the shape with the length", () => {
    const bn = new BatchNorm(64);
    bn.forward({ data: new Float32Array(32 * 64 * 28 * 28), shape: [32, 64, 28, 28] }, { mode: "batch" });
    const dy = { data: new Float32Array(802816), shape: [32, 64, 28, 28] };
    expect(() => bn.backward(dy)).toThrow(new RangeError("dy: expected 1605632 elements (32×64×28×28), got 802816"));
    bn.dispose();
  });

  test("stay short, however long the wrong value is", () => {
    const long = Array.from({ length: 100_000 }, (_, i) => i);
    const text = "channels".repeat(10_000);
    const nested = long.slice(0, 64).map(() => Array(64).fill(Array(64).fill(Array(64).fill(0))));
    const cyclic: unknown[] = [];
    cyclic.push(cyclic, cyclic);
    const statistics = { running_mean: new Float32Array(1), running_var: new Float32Array(1) };
    const Named = { [text]: class {} }[text] as new () => object;
    const fileOf = (header: object) => {
      const bytes = new TextEncoder().encode(JSON.stringify(header));
      const file = new Uint8Array(8 + bytes.length + 4);
      new DataView(file.buffer).setBigUint64(0, BigInt(bytes.length), true);
      file.set(bytes, 8);
      return file;
    };
    for (const call of [
      () => new BatchNorm(3).forward({ data: long as Wrong, shape: SHAPE }),
      () => tensor(long.map(String) as Wrong),
      () => tensor(long.map(() => 2)),
      () => new BatchNorm(3, { layout: text as Wrong }),
      () => new BatchNorm(long as Wrong),
      () => new BatchNorm(3).forward({ data: [nested, nested] as Wrong, shape: SHAPE }),
      () => new BatchNorm(3).forward({ data: cyclic as Wrong, shape: SHAPE }),
      () => new BatchNorm(3).forward({ data: new Float32Array(24), shape: cyclic as Wrong }),
      () => new BatchNorm(3).forward({ data: new Named() as Wrong, shape: SHAPE }),
      () => new BatchNorm((1n << 100_000n) as Wrong),
      () => new BatchNorm(Symbol(text) as Wrong),
      () => new BatchNorm(Object.create({ constructor: { name: cyclic } })),
      () => batchNormForward({ data: new Float32Array(8), shape: [4, 2] }, {}, { mask: cyclic as Wrong }),
      () => layerNormForward({ data: new Float32Array(0), shape: [...long, 0] }, long),
      () => writeSafetensors({ [text]: cyclic as Wrong }),
      () => mergeStates([1, 2].map((n) => ({ state: { ...statistics, [text]: new Float32Array(n) }, count: 2 }))),
      () => writeSafetensors({ a: { data: new Float32Array(1), shape: long } }),
      () => readSafetensors(fileOf({ [text]: { dtype: "F32", shape: long.map(() => 1), data_offsets: [0, 5] } })),
      () => readSafetensors(fileOf({ a: { dtype: text, shape: long, data_offsets: [0, 4] } })),
    ]) {
      expect(call).toThrow(/: expected /);
      expect(thrownBy(call).message.length).toBeLessThan(700);
    }
  });

  test("of a state show the first of 300,000 names, and how many there are", () => {
    const names = Array.from({ length: 300_000 }, (_, i) => [`${"deep.".repeat(100)}${i}`, 1]);
    const { message } = thrownBy(() => new BatchNorm(3).loadStateDict(Object.fromEntries(names)));
    expect(message).toMatch(/^loadStateDict: nothing was loaded; missing weight; .*; … \(300004 in all\)$/);
    expect(message.length).toBeLessThan(1000);
    const layers = Array.from({ length: 50 }, (_, i) => [`${"deep".repeat(100)}${i}.running_mean`, 1]);
    const proposing = thrownBy(() => new BatchNorm(3).loadStateDict(Object.fromEntries(layers)));
    expect(proposing.message).toMatch(/; … \(54 in all\)\. Pass the prefix of one layer, as in \["deepdeep/);
    expect(proposing.message.length).toBeLessThan(1100);
  });

  test("are of an Error with a code that programs can read", () => {
    const error = thrownBy(() => new BatchNorm(3).backward({ data: new Float32Array(24), shape: SHAPE }));
    expect(error).toBeInstanceOf(BatchNormError);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: "BatchNormError", code: "no-forward" });
    expect(String(error)).toMatch(/^BatchNormError: backward: expected a forward call before it/);
  });

  test("keep their class and code where properties of Error.prototype cannot be assigned, as if it were frozen", () => {
    const descriptors = Object.getOwnPropertyDescriptors(Error.prototype);
    for (const name of Object.keys(descriptors)) Object.defineProperty(Error.prototype, name, { writable: false });
    try {
      const error = thrownBy(() => new BatchNorm(3).backward({ data: new Float32Array(24), shape: SHAPE }));
      expect(error).toBeInstanceOf(BatchNormError);
      expect(error).toMatchObject({ name: "BatchNormError", code: "no-forward" });
    } finally {
      Object.defineProperties(Error.prototype, descriptors);
    }
  });

  test("say what is missing in an engine without WebAssembly", async () => {
    vi.stubGlobal("WebAssembly", undefined);
    try {
      const missing = { name: "BatchNormError", code: "no-simd" };
      expect(thrownBy(() => kernelBuild())).toMatchObject(missing);
      await expect(init({ build: "simd" })).rejects.toMatchObject(missing);
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

describe("init", () => {
  beforeAll(() => useBuild("simd"));
  const EMPTY = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

  test.each<[string, Wrong]>([
    ["bytes", { module: EMPTY }],
    ["null", { module: null }],
    ["a module that is not ours", { module: new WebAssembly.Module(EMPTY) }],
  ])("refuses %s for a module, and everything goes on in the memory there was", async (_, options) => {
    const heap = defaultHeap();
    await expect(init(options)).rejects.toThrow(TypeError);
    await expect(init(options)).rejects.toThrow(/^module: expected .*, got /);
    expect(defaultHeap()).toBe(heap);
    await init();
    expect(defaultHeap()).toBe(heap);
    expect(new BatchNorm(1).forward({ data: Float32Array.of(-1, 1), shape: [2, 1] }).data).toBeAllclose([-1, 1], {
      rtol: 1e-5,
    });
  });
});

// ---- what torch 1.13.1 does with wrong use --------------------------------------------------------------------------

interface GoldenError {
  id: string;
  params: {
    module?: string;
    fn?: string;
    C?: number;
    shape?: number[];
    training?: boolean;
    trackRunningStats?: boolean;
    arg?: string;
    length?: number;
    dtype?: string;
    op?: string;
    drop?: string;
    add?: string;
    weight?: [number];
  };
  out: { torch: { raises: boolean; message?: string; returns?: Wrong } };
}

const golden: GoldenError[] = JSON.parse(
  readFileSync(new URL("../golden/manifest.json", import.meta.url), "utf8"),
).cases.filter((c: { kind: string }) => c.kind === "error");

/** BatchNorm1d, 2d and 3d each insist on ranks of their own; our one class takes every rank from 2 up. */
const RANK_IS_FINE = ["error/rank_bn1d_4d", "error/rank_bn2d_3d", "error/rank_bn3d_4d"];

const zeros = (shape: readonly number[]) => ({ data: new Float32Array(sizeOf(shape)), shape });

/** The same use of our API; returns the layer and y where it is let through. */
function ours({ params: p }: GoldenError): { bn?: BatchNorm; y?: TensorLike } {
  if (p.op === "load_state_dict") {
    const bn = new BatchNorm(2);
    const state = {
      ...bn.stateDict(),
      ...(p.add && { [p.add]: [1] }),
      ...(p.weight && { weight: zeros(p.weight).data }),
    };
    if (p.drop) delete state[p.drop as keyof typeof state];
    bn.loadStateDict(state);
    return { bn };
  }
  if (p.fn) {
    const [, channels] = p.shape as [number, number];
    const vector = (name: string, value: number) =>
      new Float32Array((p.arg === name && p.length) || channels).fill(value);
    const missing = "running_mean" in p;
    return batchNormInference(zeros(p.shape as number[]), {
      mean: missing ? (null as Wrong) : vector("running_mean", 0),
      variance: vector("running_var", 1),
      gamma: vector("weight", 1),
      beta: vector("bias", 0),
    });
  }
  const { trackRunningStats = true, shape = [2, 3] } = p;
  const bn = new BatchNorm(p.C as number, { trackRunningStats });
  const Data = { float64: Float64Array, int64: BigInt64Array }[p.dtype ?? ""] ?? Float32Array;
  const x = { data: new Data(sizeOf(shape)) as Wrong, shape };
  return { bn, y: bn.forward(x, { mode: p.training === false ? "eval" : "train" }) };
}

describe("torch's cases of wrong use", () => {
  beforeAll(() => useBuild("simd"));

  test("are all here", () => {
    expect(golden.length).toBe(27);
    expect(golden.map((c) => c.id)).toEqual(expect.arrayContaining(RANK_IS_FINE));
  });

  test.each(golden.filter((c) => c.out.torch.raises && !RANK_IS_FINE.includes(c.id)))("$id raises here too", (c) => {
    // an error of ours, not one that the engine met on the way
    expect(() => ours(c)).toThrow(
      /: expected .+, got |^Expected more than 1 value|^loadStateDict: nothing was loaded; /,
    );
    const [shared] =
      /Expected more than 1 value per channel when training, got input size/.exec(c.out.torch.message ?? "") ?? [];
    if (shared) expect(() => ours(c)).toThrow(shared);
  });

  test.each(golden.filter((c) => !c.out.torch.raises || RANK_IS_FINE.includes(c.id)))("$id is let through", (c) => {
    const { bn, y } = ours(c);
    const { returns } = c.out.torch;
    expect(y?.shape).toEqual(returns?.y ?? returns ?? c.params.shape);
    if (!returns?.y) return;
    // an empty batch: torch counts it, we do not (semantics.md); the statistics stay the same in both
    expect(returns.num_batches_tracked).toBe(1);
    expect(bn?.batchesTracked).toBe(0);
    expect([...(bn?.runningMean ?? [])]).toEqual(returns.running_mean);
    expect([...(bn?.runningVariance ?? [])]).toEqual(returns.running_var);
  });
});
