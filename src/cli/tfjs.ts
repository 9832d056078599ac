// TF.js of the user's project, and this package's entry for it on that TF.js.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compileFunction } from "node:vm";
import type * as core from "@tensorflow/tfjs-core";
import type * as layers from "@tensorflow/tfjs-layers";
import type * as library from "../tfjs/index.ts";
import { UsageError } from "./usage.ts";

/** TF.js on its backend cpu or wasm, and batchnorm-wasm/tfjs. */
export interface Tfjs {
  /** The backends that are installed, the fastest first. */
  readonly backends: readonly string[];
  readonly core: typeof core;
  readonly layers: typeof layers;
  readonly library: typeof library;
}

/** Backends that run in Node without anything else, the fastest first. Only cpu has all kernels. */
const BACKENDS = ["wasm", "cpu"];

type Resolve = (name: string) => string | undefined;

/** Returns a function that finds the file of a package from a file on, as Node does, if it is installed there. */
function resolverAt(file: string): Resolve {
  const { resolve } = createRequire(file);
  return (name) => {
    try {
      return resolve(name);
    } catch {
      return undefined; // it is not installed
    }
  };
}

/**
 * Loads TF.js from the project in the current folder: @tensorflow/tfjs, or the packages of core, layers and a backend. TF.js is
 * silent then, and loads also what registerLayer registers. Throws UsageError if the project lacks it.
 */
export async function loadTfjs(): Promise<Tfjs> {
  const inProject = resolverAt(join(process.cwd(), "package.json"));
  const union = inProject("@tensorflow/tfjs");
  // its own packages may be where only it finds them
  const resolve: Resolve = (name) => (union && resolverAt(union)(name)) || inProject(name);
  const files = ["core", "layers"].map((name) => resolve(`@tensorflow/tfjs-${name}`));
  const backends = BACKENDS.filter((name) => resolve(`@tensorflow/tfjs-backend-${name}`));
  const backend = backends.at(-1);
  if (files.includes(undefined) || !backend)
    throw new UsageError(
      "fold: expected TF.js in this project, which a model.json needs, got none; run npm install @tensorflow/tfjs, or " +
        "@tensorflow/tfjs-core, -layers and -backend-cpu",
    );
  const require = createRequire(files[0] as string);
  const packages = new Map([
    ["@tensorflow/tfjs-core", require(files[0] as string)],
    ["@tensorflow/tfjs-layers", require(files[1] as string)],
  ]);
  for (const name of backends) require(resolve(`@tensorflow/tfjs-backend-${name}`) as string);
  const tf = packages.get("@tensorflow/tfjs-core") as typeof core;
  tf.enableProdMode(); // suppresses advice on the console
  if (!(await tf.setBackend(backend)))
    throw new UsageError(`fold: expected TF.js's backend ${backend} to start, got none`);
  const entry = await libraryOn((name) => packages.get(name));
  entry.registerLayer();
  return { backends, core: tf, layers: packages.get("@tensorflow/tfjs-layers") as typeof layers, library: entry };
}

/**
 * Returns batchnorm-wasm/tfjs with other packages than those beside it: npx puts this program into a folder of its own, where
 * it would find no TF.js or another one.
 */
async function libraryOn(require: (name: string) => unknown): Promise<typeof library> {
  const filename = fileURLToPath(new URL("./tfjs.cjs", import.meta.url));
  const module = { exports: {} };
  const run = compileFunction(await readFile(filename, "utf8"), ["require", "module", "exports"], { filename });
  run(require, module, module.exports);
  return module.exports as typeof library;
}
