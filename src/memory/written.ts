// A debug mode, init({ checks: true }): it finds tensors that a program has written between a forward and its backward.
// Programs write through views, which no counter of calls could see, so a checksum of the elements is taken instead.

import { writtenSince } from "../common/errors.ts";
import type { AnyTensor } from "./tensor.ts";

/** The operands of a forward that its backward reads, by their names in messages. */
type Operands = Readonly<Record<string, AnyTensor | undefined>>;

/** Holds the function that remembers operands, which returns the function that checks them; undefined without checks. */
export const checks: { remember?: ((operands: Operands) => () => void) | undefined } = {};

/** Returns a checksum (FNV-1a over 16-bit words). A change of one word always changes it. */
function checksum({ data }: AnyTensor): number {
  let sum = 0x811c9dc5;
  for (const word of new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2))
    sum = Math.imul(sum ^ word, 0x01000193);
  return sum;
}

/**
 * Returns a function that throws BatchNormError "in-place" if an operand has other elements than now. It reads all
 * elements once in forward and once in backward, which makes these 5 to 15 times as slow ([128, 512] to [32, 64, 56, 56]).
 */
function remember(operands: Operands): () => void {
  const before = Object.entries(operands).flatMap(([name, operand]) =>
    operand ? [{ name, operand, sum: checksum(operand) }] : [],
  );
  return () => {
    for (const { name, operand, sum } of before) if (checksum(operand) !== sum) throw writtenSince(name);
  };
}

/** Turns the checks of later forwards on or off. */
export function setChecks(on: boolean): void {
  checks.remember = on ? remember : undefined;
}
