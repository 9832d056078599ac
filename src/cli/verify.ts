// Runs a model before and after folding on random inputs, in the onnxruntime of the user's project.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Dtype, widen } from "../tensor/dtype.ts";
import { UsageError } from "./usage.ts";

/** What is used of onnxruntime-node and onnxruntime-web. */
interface Runtime {
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: { externalData?: readonly { path: string; data: Uint8Array }[]; graphOptimizationLevel: "disabled" },
    ): Promise<Session>;
  };
  readonly Tensor: new (type: string, data: unknown, dims: readonly number[]) => RuntimeTensor;
  readonly env?: { readonly wasm?: { numThreads?: number } };
}

interface RuntimeTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: ArrayLike<number | bigint>;
}

interface Session {
  readonly inputNames: readonly string[];
  readonly inputMetadata: readonly {
    readonly name: string;
    readonly type?: string;
    readonly shape?: readonly (number | string)[];
  }[];
  run(feeds: Record<string, RuntimeTensor>): Promise<Record<string, RuntimeTensor>>;
  release(): Promise<void>;
}

/** A model, and the files beside it with elements of its tensors. */
export interface RunnableModel {
  readonly bytes: Uint8Array;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** How an output of the folded model differs from the same output of the original. */
export interface Difference {
  readonly output: string;
  readonly type: string;
  /** The largest difference of two elements. */
  readonly difference: number;
  /** The largest size of an element. */
  readonly size: number;
}

const RUNTIMES = ["onnxruntime-node", "onnxruntime-web"] as const;

/** Loads onnxruntime from the project in the current folder. Throws UsageError if it has none. */
export async function loadRuntime(): Promise<Runtime> {
  const require = createRequire(join(process.cwd(), "package.json"));
  for (const name of RUNTIMES) {
    let file: string;
    try {
      file = require.resolve(name);
    } catch {
      continue; // it is not installed
    }
    const module = await import(pathToFileURL(file).href);
    return (module.InferenceSession ? module : module.default) as Runtime;
  }
  throw new UsageError(
    `--verify: expected ${RUNTIMES.join(" or ")} in this project, got neither; run npm install ${RUNTIMES[1]}`,
  );
}

/** Sizes that are tried for axes of inputs, other than the first, that the model leaves open. */
const SIZES = [32, 64, 128, 224, 256, 512];

/** Returns numbers from 0 up to, not including, 1 that are the same in every run (mulberry32). */
function random() {
  let state = 1;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns an input: of normal values (Box–Muller), or, where it has no floats, of zeros and ones. */
function inputOf({ Tensor }: Runtime, type: string, dims: readonly number[], next: () => number): RuntimeTensor {
  const length = dims.reduce((a, b) => a * b, 1);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  const bit = () => (next() < 0.5 ? 0 : 1);
  const from = <T>(value: () => T) => Array.from({ length }, value);
  switch (type) {
    case "float32":
      return new Tensor(type, Float32Array.from(from(normal)), dims);
    case "float64":
      return new Tensor(type, Float64Array.from(from(normal)), dims);
    case "float16": {
      // bits of numbers from 1 to 2, and of their negatives
      const bits = Uint16Array.from(from(() => (next() < 0.5 ? 0x3c00 : 0xbc00) + Math.floor(next() * 1024)));
      const { Float16Array } = globalThis as { Float16Array?: new (buffer: ArrayBuffer) => unknown };
      return new Tensor(type, Float16Array ? new Float16Array(bits.buffer) : bits, dims);
    }
    case "int64":
      return new Tensor(type, BigInt64Array.from(from(() => BigInt(bit()))), dims);
    case "int32":
      return new Tensor(type, Int32Array.from(from(bit)), dims);
    case "bool":
      return new Tensor(type, Uint8Array.from(from(bit)), dims);
    default:
      throw new UsageError(
        `--verify: expected inputs of floats, integers or booleans, got ${type}; leave --verify out`,
      );
  }
}

const isFloat = ({ type }: RuntimeTensor) => type.startsWith("float");

const numbersOf = ({ type, data }: RuntimeTensor): ArrayLike<number> =>
  type === "float16" ? widen(type as Dtype, data as ArrayLike<number>) : (data as ArrayLike<number>);

/**
 * Runs two models on the same random inputs. Axes that the model leaves open are 1 if they are the first, and else the
 * first of some usual sizes with which the original runs.
 */
export async function compare(runtime: Runtime, before: RunnableModel, after: RunnableModel): Promise<Difference[]> {
  if (runtime.env?.wasm) runtime.env.wasm.numThreads = 1; // threads of wasm would keep the process alive
  const sessionOf = ({ bytes, files }: RunnableModel) =>
    runtime.InferenceSession.create(bytes, {
      ...(files.size > 0 && { externalData: [...files].map(([path, data]) => ({ path, data })) }),
      graphOptimizationLevel: "disabled", // else it folds batch norms of the original itself
    });
  const [original, folded] = [await sessionOf(before), await sessionOf(after)];
  try {
    let reason: unknown;
    for (const size of SIZES) {
      const next = random();
      const feeds: Record<string, RuntimeTensor> = {};
      for (const { name, type = "", shape = [] } of original.inputMetadata) {
        const dims = shape.map((d, i) => (typeof d === "number" && d >= 0 ? d : i === 0 ? 1 : size));
        feeds[name] = inputOf(runtime, type, dims, next);
      }
      let expected: Record<string, RuntimeTensor>;
      try {
        expected = await original.run(feeds);
      } catch (error) {
        reason = error; // another size may fit
        continue;
      }
      return differences(expected, await folded.run(feeds));
    }
    throw new UsageError(
      `--verify: expected a model that runs on random inputs, got: ${(reason as Error).message}; leave --verify out`,
    );
  } finally {
    await original.release();
    await folded.release();
  }
}

function differences(expected: Record<string, RuntimeTensor>, got: Record<string, RuntimeTensor>): Difference[] {
  return Object.entries(expected)
    .filter(([, tensor]) => isFloat(tensor))
    .map(([output, tensor]) => {
      const [a, b] = [numbersOf(tensor), numbersOf(got[output] as RuntimeTensor)];
      let [difference, size] = [a.length === b.length ? 0 : Number.POSITIVE_INFINITY, 0];
      for (let i = 0; i < a.length; i++) {
        const [x, y] = [a[i] as number, b[i] as number];
        if (Object.is(x, y)) continue; // NaN and infinity, too
        difference = Number.isFinite(x - y) ? Math.max(difference, Math.abs(x - y)) : Number.POSITIVE_INFINITY;
      }
      for (let i = 0; i < a.length; i++) size = Math.max(size, Math.abs(a[i] as number) || 0);
      return { output, type: tensor.type, difference, size };
    });
}
