// Activations and modes that the suites of activations test.

import type { ActivationName, Mode } from "../../src/index.ts";

export const BENT = ["relu", "leaky_relu", "relu6", "silu"] as const;
export const ACTIVATIONS: readonly ActivationName[] = ["none", ...BENT];
export const MODES: readonly Mode[] = ["train", "batch", "eval", "frozen"];
