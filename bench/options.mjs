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

/** Calls `main` with the options of a script that writes into a document, --quick and --out, or prints `help`. */
export async function runWithOptions(help, document, main) {
  const options = parseOptions({
    quick: { type: "boolean", default: false },
    out: { type: "string", default: document },
    help: { type: "boolean", default: false },
  });
  if (options.help) process.stdout.write(help);
  else await main(options);
}
