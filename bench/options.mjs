// Command lines: what is given, or a word on what is wrong with it.

import { parseArgs } from "node:util";

/** Ends the process for a command line that says something else than what was expected. */
export function reject(message) {
  console.error(`${message} (--help explains the options)`);
  process.exit(2);
}

/** The values of `options`, which are as parseArgs wants them. */
export function parseOptions(options) {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    return reject(error.message.split("\n")[0]);
  }
}
