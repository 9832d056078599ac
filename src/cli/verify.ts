// Runs a model before and after folding on random inputs, in the onnxruntime of the user's project.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { bit, type Difference, differences, normal, random, SIZES } from "./differences.ts";
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

/** Returns an input: of normal values (Box–Muller), or, where it has no floats, of zeros and ones. */
function inputOf({ Tensor }: Runtime, type: string, dims: readonly number[], next: () => number): RuntimeTensor {
  const length = dims.reduce((a, b) => a * b, 1);
  const from = <T>(value: (next: () => number) => T) => Array.from({ length }, () => value(next));
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
      return new Tensor(type, BigInt64Array.from(from((next) => BigInt(bit(next)))), dims);
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
