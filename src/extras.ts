// What plain batch normalization does without, so that a page need not load it: `extended()` puts it here (extended.ts).
// Asking for it before is an error that says so. The only file whose types point upwards.

import type { activate, activationOf, derivative } from "./activations.ts";
import { notExtended } from "./errors.ts";
import type { toAffine } from "./fold.ts";
import type { selectionOf, weightsOf } from "./mask.ts";
import type { maskedGradient, maskedStatistics } from "./masked.ts";
import type { activationGradient, conditionalOf, renormalize } from "./slices.ts";
import type { loadState, saveState } from "./state.ts";

export interface Extras {
  /** build/extended.wasm: its bytes, or a module where the host compiles no bytes. */
  readonly kernels: () => Uint8Array<ArrayBuffer> | WebAssembly.Module;
  readonly activationOf: typeof activationOf;
  readonly activate: typeof activate;
  readonly derivative: typeof derivative;
  readonly activationGradient: typeof activationGradient;
  readonly conditionalOf: typeof conditionalOf;
  readonly renormalize: typeof renormalize;
  readonly weightsOf: typeof weightsOf;
  readonly selectionOf: typeof selectionOf;
  readonly maskedStatistics: typeof maskedStatistics;
  readonly maskedGradient: typeof maskedGradient;
  readonly saveState: typeof saveState;
  readonly loadState: typeof loadState;
  readonly toAffine: typeof toAffine;
}

let extras: Extras | undefined;

export function provide(all: Extras): void {
  extras = all;
}

export const isExtended = (): boolean => extras !== undefined;

/** Throws BatchNormError "extended" that names `what` was asked for. */
export function extra(what: string): Extras {
  if (!extras) throw notExtended(what);
  return extras;
}
