// Paths of the runtimes and bundlers of test/packed/package.json.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The file of a tool, by its path in node_modules. */
export function tool(path: string): string {
  const file = fileURLToPath(new URL(`./node_modules/${path}`, import.meta.url));
  if (existsSync(file)) return file;
  throw new Error(
    `${path}: expected it in test/packed/node_modules, found nothing; run npm ci --prefix test/packed --ignore-scripts ` +
      "(its runtimes are those of Linux on x64)",
  );
}
