// Everything that extras.ts can hold, in one call.

import kernels from "../build/extended.wasm";
import { activate, activationOf, derivative } from "./activations.ts";
import { provide } from "./extras.ts";
import { toAffine } from "./fold.ts";
import { selectionOf, weightsOf } from "./mask.ts";
import { maskedGradient, maskedStatistics } from "./masked.ts";
import { activationGradient, conditionalOf, renormalize } from "./slices.ts";
import { loadState, saveState } from "./state.ts";

/**
 * Adds what a page of plain batch normalization need not load: activations, residuals, masks, scale and shift per sample,
 * float64 and 16-bit elements, state dicts, toAffine. Once, before they are used, and before `init({ threads })`, so that
 * threads share in them. In Node, Deno, Bun and the global script everything is there without it, and calling it changes
 * nothing.
 */
export function extended(): void {
  provide({
    kernels,
    activationOf,
    activate,
    derivative,
    activationGradient,
    conditionalOf,
    renormalize,
    weightsOf,
    selectionOf,
    maskedStatistics,
    maskedGradient,
    saveState,
    loadState,
    toAffine,
  });
}
