// `npm run lab:build`: the page as static files in build/lab, for any host and any folder of it.

import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { mnistDigits } from "../mnist.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The folder of the files, which `npm run lab` serves. */
export const FOLDER = here("../../../build/lab");

/**
 * Makes the page in a folder, whose other files are removed. It works at any address: its links are relative.
 *
 * @param {string} folder
 * @param {{ inSite?: boolean }} options whether the pages of docs/ are beside the folder, so that it can link to them
 */
export async function buildPage(folder = FOLDER, { inSite = false } = {}) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "tfjs"), { recursive: true });
  await build({
    entryPoints: [here("main.mjs"), here("worker.mjs")],
    outdir: folder,
    ...{ bundle: true, splitting: true, format: "esm", target: "es2022", minify: true, logLevel: "warning" },
    define: { IN_SITE: `${inSite}`, global: "globalThis" }, // global: for dependencies written for Node
  });
  copyFileSync(here("index.html"), join(folder, "index.html"));
  const { labels, pixels } = mnistDigits();
  writeFileSync(join(folder, "digits.bin"), Buffer.concat([labels, pixels]));
  const binaries = dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm"));
  for (const file of readdirSync(binaries))
    if (file.endsWith(".wasm")) copyFileSync(join(binaries, file), join(folder, "tfjs", file));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await buildPage();
  console.log(`The page is in ${FOLDER}: static files, for any host.`);
}
