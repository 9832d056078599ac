// Runs a layers model of TF.js before and after folding on random inputs.

import type { Tensor } from "@tensorflow/tfjs-core";
import type { LayersModel } from "@tensorflow/tfjs-layers";
import { bit, type Difference, differences, normal, type Output, random, SIZES } from "./differences.ts";
import type { FoldedLayersModel } from "./fold-tfjs.ts";
import type { Tfjs } from "./tfjs.ts";
import { UsageError } from "./usage.ts";

/** Returns the model's outputs by their names. */
async function run(model: LayersModel, inputs: Tensor[]): Promise<Record<string, Output>> {
  const batchSize = inputs[0]?.shape[0];
  const results = [model.predict(inputs, batchSize ? { batchSize } : {})].flat();
  const outputs = await Promise.all(results.map(async (t) => ({ type: t.dtype, data: await t.data() })));
  for (const t of results) t.dispose();
  return Object.fromEntries(outputs.map((output, i) => [model.outputNames[i] as string, output]));
}

/** Returns random inputs for a model, whose open axes other than the first have `size` elements. */
function inputsOf({ core }: Tfjs, { inputs }: LayersModel, size: number, floats: (next: () => number) => number) {
  const next = random();
  return inputs.map(({ shape, dtype }) => {
    const dims = shape.map((d, i) => d ?? (i === 0 ? 1 : size));
    const length = dims.reduce((a, b) => a * b, 1);
    const number = dtype === "float32" ? floats : bit;
    const values = Array.from({ length }, () => number(next));
    return core.tensor(values, dims, dtype);
  });
}

/**
 * Runs both models on the same random inputs. Axes that the model leaves open are 1 if they are the first, and else the first
 * of some usual sizes with which the original runs. Inputs are normal numbers, or, where the model refuses those, as an
 * embedding does, and where an input has no floats, zeros and ones. The backend is the fastest one that has all kernels.
 */
export async function compareTfjs(
  tfjs: Tfjs,
  { before, after }: Pick<FoldedLayersModel, "before" | "after">,
): Promise<Difference[]> {
  let reason: unknown;
  for (const backend of tfjs.backends)
    for (const size of SIZES)
      for (const floats of [normal, bit]) {
        await tfjs.core.setBackend(backend);
        const inputs = inputsOf(tfjs, before, size, floats);
        try {
          return differences(await run(before, inputs), await run(after, inputs));
        } catch (error) {
          reason = error; // others may fit
        } finally {
          tfjs.core.dispose(inputs);
        }
      }
  throw new UsageError(
    `--verify: expected a model that runs on random inputs, got: ${(reason as Error).message}; leave --verify out`,
  );
}
