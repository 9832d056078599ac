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

/**
 * Runs both models on the same random inputs. Axes that the model leaves open are 1 if they are the first, and else the first
 * of some usual sizes with which the original runs. Inputs are normal numbers, or, where the model refuses those, as an
 * embedding does, and where an input has no floats, zeros and ones.
 */
export async function compareTfjs(
  { core }: Tfjs,
  { before, after }: Pick<FoldedLayersModel, "before" | "after">,
): Promise<Difference[]> {
  let reason: unknown;
  for (const size of SIZES)
    for (const floats of [normal, bit]) {
      const next = random();
      const inputs = before.inputs.map(({ shape, dtype }) => {
        const dims = shape.map((d, i) => d ?? (i === 0 ? 1 : size));
        const length = dims.reduce((a, b) => a * b, 1);
        const number = dtype === "float32" ? floats : bit;
        return core.tensor(
          Array.from({ length }, () => number(next)),
          dims,
          dtype,
        );
      });
      try {
        return differences(await run(before, inputs), await run(after, inputs));
      } catch (error) {
        reason = error; // others may fit
      } finally {
        core.dispose(inputs);
      }
    }
  throw new UsageError(
    `--verify: expected a model that runs on random inputs, got: ${(reason as Error).message}; leave --verify out`,
  );
}
