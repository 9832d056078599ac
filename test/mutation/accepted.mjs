// Mutants of the facade that no test can or should fail for, each with the reason. facade.mjs compares them with the
// mutants that survive. test/common/accepted-mutants.test.ts checks that the code of every entry still stands.

/**
 * @typedef {object} Accepted
 * @property {string} file The file in src/.
 * @property {string} reason Why the mutants are accepted, as a full sentence.
 * @property {[line: string, change: string][]} mutants The line in which each change begins, without its indent, and the
 *   change as `changeOf` returns it.
 */

/** @type {Accepted[]} */
export const accepted = [];

/** The longest part of a piece of code in the text of a change. */
const SHOWN = 60;

/** Returns code in one line, cut after `SHOWN` characters. */
const short = (code) => {
  const line = code.replace(/\s+/g, " ").trim();
  return line.length > SHOWN ? `${line.slice(0, SHOWN)}…` : line;
};

/** Returns a change of code as a text, such as "a + b → a - b". */
export const changeOf = (before, after) => `${short(before)} → ${short(after)}`;
