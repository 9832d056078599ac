// The ONNX models in fixtures/ (generate.py), and onnxruntime, which runs them.

import { readFileSync } from "node:fs";
import { env, InferenceSession, Tensor } from "onnxruntime-web";
import type { FoldedOnnx } from "../../../src/tools/index.ts";
import { type ByteSource, bytesSource } from "../../../src/tools/source.ts";

env.wasm.numThreads = 1;

const FOLDER = new URL("fixtures/", import.meta.url);

export const bytesOf = (file: string): Uint8Array => new Uint8Array(readFileSync(new URL(file, FOLDER)));

export const jsonOf = <T>(file: string): T => JSON.parse(new TextDecoder().decode(bytesOf(file)));

/** Returns a model as a source of bytes, with the external data of the fixture that has some. */
export const sourceOf = (name: string, model: Uint8Array = bytesOf(`${name}.onnx`)): ByteSource =>
  bytesSource(`${name}.onnx`, model, { "external.data": bytesOf("external.data") });

/** An array of numpy. */
export interface Encoded {
  readonly type: "float16" | "float32" | "float64" | "bool";
  readonly dims: number[];
  readonly data: number[];
}

/** The inputs of a model, and its outputs by a reference implementation. */
export interface Case {
  readonly inputs: Record<string, Encoded>;
  readonly outputs: Record<string, Encoded>;
}

export const caseOf = (name: string): Case => jsonOf(`${name}.json`);

function tensorOf({ type, dims, data }: Encoded) {
  if (type === "float32") return new Tensor("float32", Float32Array.from(data), dims);
  if (type === "bool") return new Tensor("bool", Uint8Array.from(data), dims);
  throw new Error(`no inputs of type ${type}`);
}

/** Returns the files of a folded model that hold elements of tensors. */
export const filesOf = ({ external }: FoldedOnnx): Record<string, Uint8Array> =>
  Object.fromEntries(
    [...external].map(([file, patches]) => {
      const bytes = bytesOf(file);
      for (const patch of patches) bytes.set(patch.bytes, patch.begin);
      return [file, bytes];
    }),
  );

/** Runs a model on inputs, and returns its outputs. */
export async function run(
  model: Uint8Array,
  inputs: Case["inputs"],
  files: Readonly<Record<string, Uint8Array>> = {},
): Promise<Record<string, number[]>> {
  const session = await InferenceSession.create(model, {
    logSeverityLevel: 3, // without warnings of initialisers that callers may override
    graphOptimizationLevel: "disabled", // else onnxruntime folds some batch norms itself
    externalData: Object.entries(files).map(([path, data]) => ({ path, data })),
  });
  try {
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, tensorOf(inputs[name] as Encoded)]));
    const results = await session.run(feeds);
    return Object.fromEntries(
      Object.entries(results).map(([name, { data }]) => [name, Array.from(data as Float32Array, Number)]),
    );
  } finally {
    await session.release();
  }
}

/** Returns the largest difference of two lists of numbers, relative to the largest number. */
export function differenceOf(numbers: readonly number[], expected: readonly number[]): number {
  if (numbers.length !== expected.length) return Number.POSITIVE_INFINITY;
  const size = expected.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  return numbers.reduce((most, v, i) => Math.max(most, Math.abs(v - (expected[i] as number))), 0) / size;
}
