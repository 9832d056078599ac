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

export async function buildPage() {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(join(FOLDER, "tfjs"), { recursive: true });
  await build({
    entryPoints: [here("main.mjs"), here("worker.mjs")],
    outdir: FOLDER,
    ...{ bundle: true, splitting: true, format: "esm", target: "es2022", minify: true, logLevel: "warning" },
    define: { global: "globalThis" }, // for dependencies written for Node
  });
  copyFileSync(here("index.html"), join(FOLDER, "index.html"));
  const { labels, pixels } = mnistDigits();
  writeFileSync(join(FOLDER, "digits.bin"), Buffer.concat([labels, pixels]));
  const binaries = dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm"));
  for (const file of readdirSync(binaries))
    if (file.endsWith(".wasm")) copyFileSync(join(binaries, file), join(FOLDER, "tfjs", file));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await buildPage();
  console.log(`The page is in ${FOLDER}: static files, for any host.`);
}
