// Tensors that a test has made, which are freed after it.

import type { AnyTensor } from "../../src/index.ts";
import { drop } from "./worlds.ts";

export const made: AnyTensor[] = [];

/** Remembers a tensor for dropMade, and returns it. */
export const mine = <T extends AnyTensor>(t: T | undefined): T => {
  made.push(t as T);
  return t as T;
};

/** For afterEach: frees what mine has remembered. */
export const dropMade = (): void => drop(...made.splice(0));
