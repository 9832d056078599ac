// What makes an entry complete: an implementation for every slot.

import kernels from "../build/extended.wasm";
import { activations } from "./activation.ts";
import { activationOf } from "./activations.ts";
import { folding, renormalization, stateDicts } from "./batchnorm.ts";
import { allStores, otherStores } from "./dtype.ts";
import { toAffine } from "./fold.ts";
import { fusion } from "./functional.ts";
import { selectionOf, weightsOf } from "./mask.ts";
import { maskedGradient, maskedStatistics } from "./masked.ts";
import { secondModule } from "./module.ts";
import { activationGradient, conditionalOf, differentiateSamples, normalizeSamples, renormalize } from "./samples.ts";
import { masks, perSample } from "./slices.ts";
import { loadState, saveState } from "./state.ts";

/**
 * Fills every slot. A complete entry calls it where it is evaluated. It is a call, and not a module that is imported for
 * its effect, because package.json says that no module has effects, and a bundler drops such an import.
 */
export function complete(): void {
  secondModule.install(kernels);
  activations.install({ activationOf });
  otherStores.install(allStores());
  fusion.install({ activationGradient });
  perSample.install({ conditionalOf, normalize: normalizeSamples, differentiate: differentiateSamples });
  masks.install({ weightsOf, selectionOf, maskedStatistics, maskedGradient });
  renormalization.install({ renormalize });
  stateDicts.install({ saveState, loadState });
  folding.install({ toAffine });
}
