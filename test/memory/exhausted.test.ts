// Memory that ends in the middle of a call. Every allocation of every operation fails once: the call throws "out-of-memory",
// the layer and the inputs are as before, nothing stays allocated, and with memory the same call has the same bits.

import { afterAll, expect, test } from "vitest";
import { outOfMemory } from "../../src/common/errors.ts";
import {
  BatchNorm,
  batchNormBackward,
  batchNormDoubleBackward,
  batchNormForward,
  batchNormGradientSums,
  batchNormInference,
  batchNormStatistics,
  type DataOf,
  type Dtype,
  diagnose,
  groupNormForward,
  init,
  instanceNormForward,
  type LayerForwardOptions,
  layerNormForward,
  normBackward,
  type Options,
  recalibrate,
  rmsNormForward,
  type Saved,
  type TensorLike,
  weightNormForward,
} from "../../src/index.ts";
import { useHeap, WasmHeap } from "../../src/memory/heap.ts";
import { Tensor } from "../../src/memory/tensor.ts";
import { kernelBuild } from "../../src/wasm/module.ts";
import { KINDS, type Kind, makeOf, normal, real } from "../support/worlds.ts";

afterAll(() => init({ threads: 1 }));

/** A heap in which allocation number `fails` fails. */
class FailingHeap extends WasmHeap {
  fails = Number.POSITIVE_INFINITY;
  allocations = 0;

  override allocate(bytes: number): number {
    if (this.allocations++ === this.fails) throw outOfMemory(bytes, this.usage.used, this.usage.used);
    return super.allocate(bytes);
  }
}

const SHAPE = [4, 6, 10];
const SIZE = 240;
/** The seed of an operand that a call writes. */
const OUTPUT = 0;
const DTYPES = ["float32", "float64", "float16", "bfloat16"] as const;

/** Elements of a dtype; those of 16 bits are bits of numbers from 1 to 2. */
const elements = (dtype: Dtype, values: Float32Array): DataOf[Dtype] => {
  if (dtype === "float32") return values as DataOf[Dtype];
  if (dtype === "float64") return Float64Array.from(values) as DataOf[Dtype];
  return Uint16Array.from(values, (v) => 0x3f80 + (Math.abs(v * 50) & 0x7f)) as DataOf[Dtype];
};

/** A vector in the type that a layer of this dtype has. */
const vector = (dtype: Dtype, seed: number, length: number) => real(dtype, normal(seed, length));

/** Makes an operand of a kind and a dtype. */
type Make = (seed: number, shape?: readonly number[]) => TensorLike<Dtype>;

/** Prepares a call: `call` may fail and be repeated, and `layer` must be as before if it does. */
type Prepare = (make: Make, dtype: Dtype) => { call: () => unknown; layer?: BatchNorm<Dtype> };

const layerOf = (dtype: Dtype, options: Options<Dtype> = {}) =>
  new BatchNorm<Dtype, boolean, boolean>(6, { dtype, ...options });

/** A forward of a layer. */
const forward =
  (
    options: Options<Dtype>,
    forwardOptions: (make: Make, dtype: Dtype) => LayerForwardOptions<TensorLike<Dtype>> = () => ({}),
  ): Prepare =>
  (make, dtype) => {
    const [layer, x, given] = [layerOf(dtype, options), make(1), forwardOptions(make, dtype)];
    return { layer, call: () => layer.forward(x, given) };
  };

/** A backward after such a forward. */
const backward =
  (
    options: Options<Dtype>,
    forwardOptions: (make: Make, dtype: Dtype) => LayerForwardOptions<TensorLike<Dtype>> = () => ({}),
  ): Prepare =>
  (make, dtype) => {
    const [layer, x, dy] = [layerOf(dtype, options), make(1), make(2)];
    layer.forward(x, { ...forwardOptions(make, dtype), out: make(OUTPUT) });
    return { layer, call: () => layer.backward(dy) };
  };

const residual = (make: Make) => ({ residual: make(4) });
const mask = () => ({ mask: Array.from({ length: 40 }, (_, i) => i % 3 > 0) });
const perSample = (_: Make, dtype: Dtype) => ({
  perSample: { gamma: vector(dtype, 5, 24), beta: vector(dtype, 6, 24) },
});

/** A function of one operand. */
const of =
  (run: (x: TensorLike<Dtype>, dtype: Dtype) => unknown): Prepare =>
  (make, dtype) => {
    const x = make(1);
    return { call: () => run(x, dtype) };
  };

/** A function of what the functions' forward has kept. */
const after =
  (run: (dy: TensorLike<Dtype>, saved: Saved, ddx: TensorLike<Dtype>) => unknown): Prepare =>
  (make) => {
    const [x, dy, ddx, out] = [make(1), make(2), make(3), make(OUTPUT)];
    const { saved } = batchNormForward(x, {}, { out });
    return { call: () => run(dy, saved, ddx) };
  };

const OPERATIONS: Record<string, Prepare> = {
  tensor: (_, dtype) => ({ call: () => makeOf(dtype, "tensor", SHAPE, elements(dtype, normal(1, SIZE))) }),
  forward: forward({}),
  backward: backward({}),
  "forward in mode eval": forward({}, () => ({ mode: "eval" })),
  "forward with SiLU and a residual": forward({ activation: "silu" }, residual),
  "backward with SiLU and a residual": backward({ activation: "silu" }, residual),
  "forward with a mask": forward({}, mask),
  "backward with a mask": backward({}, mask),
  "forward with ghost batches": forward({ ghostBatchSize: 2, estimator: "population" }),
  "backward with ghost batches": backward({ ghostBatchSize: 2 }),
  "forward with gamma and beta per sample": forward({}, perSample),
  "backward with gamma and beta per sample": backward({}, perSample),
  "forward with renorm": forward({ renorm: { rMax: 2, dMax: 1 } }),
  "forward with a prior": forward({}, () => ({ mode: "batch", prior: 3 })),
  "the functions' forward": of((x) => batchNormForward(x)),
  "sums of gradients": after((dy, saved) => batchNormGradientSums(dy, saved)),
  "the functions' backward": after((dy, saved) => batchNormBackward(dy, saved)),
  "double backward": after((dy, saved, ddx) => batchNormDoubleBackward(dy, saved, { ddx })),
  statistics: of((x) => batchNormStatistics(x)),
  inference: of((x, dtype) =>
    batchNormInference(x, { mean: vector(dtype, 1, 6), variance: vector(dtype, 2, 6).map(Math.abs) }),
  ),
  "instance norm": of((x) => instanceNormForward(x)),
  "group norm": of((x) => groupNormForward(x, 2)),
  "layer norm": of((x) => layerNormForward(x, 10)),
  "RMS norm": of((x) => rmsNormForward(x, 10)),
  "backward of group norm": (make) => {
    const [x, dy] = [make(1), make(2)];
    const { saved } = groupNormForward(x, 2, {}, { out: make(OUTPUT) });
    return { call: () => normBackward(dy, saved) };
  },
  recalibrate: (make, dtype) => {
    const [layer, x, out] = [layerOf(dtype), make(1), make(OUTPUT)];
    return {
      layer,
      call: () => recalibrate(layer, [x, x], { forward: (batch) => void layer.forward(batch, { out }) }),
    };
  },
  "weight norm": (make, dtype) => {
    const [v, g] = [make(1, [24, 10]), vector(dtype, 2, 24)];
    return { call: () => weightNormForward(v, g) };
  },
  diagnose: (make, dtype) => {
    const [layer, x] = [layerOf(dtype), make(1)];
    return { layer, call: () => diagnose(layer, x) };
  },
};

/** Copies of all arrays of a result, and its tensors. Records for backward are left out. */
function contentsOf(value: unknown, found = { arrays: [] as unknown[], tensors: [] as Tensor<Dtype>[] }) {
  if (value instanceof Tensor) {
    found.tensors.push(value);
    found.arrays.push(value.data.slice());
  } else if (ArrayBuffer.isView(value)) found.arrays.push((value as Float32Array).slice());
  else if (typeof value === "number") found.arrays.push(value);
  else if (typeof value === "object" && value !== null)
    for (const [name, v] of Object.entries(value)) if (name !== "saved") contentsOf(v, found);
  return found;
}

/** Makes a call in which an allocation fails, if there are as many, and then the same call with memory. */
async function run(name: string, prepare: Prepare, kind: Kind, dtype: Dtype, fails: number) {
  const heap = new FailingHeap(kernelBuild(), { maximumPages: 64 });
  useHeap(heap);
  new BatchNorm(1).forward({ data: Float32Array.of(1, 2), shape: [2, 1] }); // a workspace that is too small for what follows
  const operands: TensorLike<Dtype>[] = [];
  const inputs: TensorLike<Dtype>[] = [];
  const { call, layer } = prepare((seed, shape = SHAPE) => {
    const operand = makeOf(dtype, kind, shape, elements(dtype, normal(seed, SIZE, 1, 2)));
    operands.push(operand);
    if (seed !== OUTPUT) inputs.push(operand);
    return operand;
  }, dtype);
  const state = () => ({ state: layer?.stateDict(), mode: layer?.mode, inputs: contentsOf(inputs).arrays });
  const [before, saved] = [structuredClone(state()), layer?.saved];
  heap.allocations = 0;
  heap.fails = fails;
  let [result, error]: [unknown, unknown] = [undefined, undefined];
  try {
    result = await call();
  } catch (thrown) {
    error = thrown;
  }
  const { allocations } = heap;
  heap.fails = Number.POSITIVE_INFINITY;
  if (error) {
    expect(error, name).toMatchObject({ name: "BatchNormError", code: "out-of-memory" });
    expect(state(), `${name}, allocation ${fails}`).toEqual(before);
    expect(layer?.saved, name).toBe(saved);
    result = await call();
  }
  const { arrays, tensors } = contentsOf([result, layer?.stateDict()]);
  for (const t of [...tensors, ...operands]) if (t instanceof Tensor) t.dispose();
  return { failed: error !== undefined, allocations, after: { arrays, used: heap.usage.used } };
}

test.each(KINDS.flatMap((kind) => DTYPES.map((dtype) => [kind, dtype] as const)))("%s, %s", async (kind, dtype) => {
  let failures = 0;
  for (const [name, prepare] of Object.entries(OPERATIONS)) {
    const whole = await run(name, prepare, kind, dtype, Number.POSITIVE_INFINITY);
    expect(whole.failed, name).toBe(false);
    for (let fails = 0; fails < whole.allocations; fails++) {
      const { failed, after } = await run(name, prepare, kind, dtype, fails);
      expect(failed, name).toBe(true);
      expect(after, `${name}, allocation ${fails}`).toEqual(whole.after);
      failures++;
    }
  }
  expect(failures).toBeGreaterThan(20);
});
