// Tensors that are freed after the test that makes them.

import type { AnyTensor } from "../../src/index.ts";
import { drop } from "./worlds.ts";

export const made: AnyTensor[] = [];

/** Returns a tensor, which the next dropMade frees. */
export const mine = <T extends AnyTensor>(t: T | undefined): T => {
  made.push(t as T);
  return t as T;
};

/** Frees all tensors that went through `mine`. Suites call it in afterEach. */
export const dropMade = (): void => drop(...made.splice(0));
