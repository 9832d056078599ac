// Makes an entry complete: it puts an implementation into every slot.

import kernels from "../build/extended.wasm";
import { toAffine } from "./interop/fold.ts";
import { loadState, saveState } from "./interop/state-dict.ts";
import { folding, renormalization, stateDicts } from "./layer/slots.ts";
import { activations } from "./ops/activation.ts";
import { activationOf } from "./ops/activation-functions.ts";
import { loadWeights, selectionOf, weightsOf } from "./ops/mask.ts";
import {
  activationGradient,
  adjustmentOf,
  conditionalOf,
  differentiateSamples,
  normalizeSamples,
} from "./ops/per-sample.ts";
import { derivationOf } from "./ops/primitives.ts";
import { fusion, masks, perSample } from "./ops/sub-batches.ts";
import { allStores, otherStores } from "./tensor/dtype.ts";
import { secondModule } from "./wasm/module.ts";

/**
 * Fills every slot. A complete entry calls it when it is evaluated. A module that is imported for its effect would not
 * work, because package.json declares that no module has effects, and a bundler drops such an import.
 */
export function complete(): void {
  secondModule.install(kernels);
  activations.install({ activationOf });
  otherStores.install(allStores());
  fusion.install({ activationGradient, derivationOf });
  perSample.install({ conditionalOf, normalize: normalizeSamples, differentiate: differentiateSamples });
  masks.install({ weightsOf, selectionOf, loadWeights });
  renormalization.install({ adjustmentOf });
  stateDicts.install({ saveState, loadState });
  folding.install({ toAffine });
}
