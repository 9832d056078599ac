// The command line of the demo: its options with their defaults and limits, and its help.

import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { isWhole, number, stringOption } from "../command-line.mjs";

const DEFAULTS = { steps: "5000", "learning-rate": "0.5", seed: "1", out: "figure1.html" };

export const HELP = `Usage: npm run demo -- [options]

Trains the network of figure 1 of Ioffe & Szegedy (2015) on handwritten digits, with and without batch norm, at a
learning rate and at 10 and 30 times that; prints a table and writes the curves as an HTML page and an SVG picture.

Options:
  --steps <n>            training steps of each of the six runs, batches of 60   (default ${DEFAULTS.steps})
  --learning-rate <x>    the lowest of the three learning rates                  (default ${DEFAULTS["learning-rate"]})
  --seed <n>             seed of weights, data split and data order              (default ${DEFAULTS.seed})
  --out <file.html>      the page; the picture goes beside it, as .svg           (default ${DEFAULTS.out})
  --help                 print this and exit`;

/**
 * Throws an Error with a message for the user if an option is unknown or its value makes no sense.
 *
 * @param {string[]} args
 */
export function parseOptions(args) {
  const options = Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, stringOption(value)]));
  const { values } = parseArgs({ args, options: { ...options, help: { type: "boolean", default: false } } });
  return {
    help: values.help,
    steps: number("--steps", values.steps, "a whole number from 1 to 1000000", (n) => isWhole(n, 1, 1e6)),
    learningRate: number("--learning-rate", values["learning-rate"], "a number above 0", (n) => n > 0 && n < Infinity),
    seed: number("--seed", values.seed, "a whole number from 0 to 4294967295", (n) => isWhole(n, 0, 2 ** 32 - 1)),
    out: htmlFile(values.out),
  };
}

// The folder is checked here, before a minute of training that it would waste.
function htmlFile(path) {
  if (!path.endsWith(".html")) throw new Error(`--out: expected a file name that ends in .html, got "${path}"`);
  if (!existsSync(dirname(path))) throw new Error(`--out: there is no folder "${dirname(path)}"`);
  return path;
}
