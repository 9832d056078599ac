// Preparation for the suites of test/packed: packs the project as npm would publish it, and installs the tarball in
// node_modules. These suites import the package from there, never from the source tree.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { TestProject } from "vitest/node";
import { type Checked, check } from "./check.js";

declare module "vitest" {
  interface ProvidedContext {
    packed: Packed;
  }
}

/** Where things are, as absolute paths. */
export interface Packed {
  readonly tarball: string;
  /** The unpacked package. */
  readonly library: string;
  /** Files in the tarball, relative to the package. */
  readonly files: readonly string[];
  /** The golden cases: manifest.json and data.bin. */
  readonly golden: string;
  /** What check.js finds in this Node. */
  readonly expected: Checked;
}

const root = fileURLToPath(new URL("../../", import.meta.url));

export default async function setup(project: TestProject): Promise<void> {
  const folder = join(root, "build/packed");
  const library = join(folder, "library/node_modules/batchnorm-wasm");
  rmSync(join(folder, "library"), { recursive: true, force: true });
  mkdirSync(library, { recursive: true });
  const run = (file: string, args: readonly string[]) => execFileSync(file, args, { cwd: root, encoding: "utf8" });
  const report = run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder]);
  const [packed] = JSON.parse(report) as [{ filename: string; files: { path: string }[] }];
  const tarball = join(folder, packed.filename);
  run("tar", ["-xzf", tarball, "-C", library, "--strip-components=1"]);
  // a package beside it, so that its own name is found from there
  writeFileSync(join(folder, "library/package.json"), JSON.stringify({ private: true, type: "module" }));

  const golden = join(root, "test/golden");
  const data = Uint8Array.from(readFileSync(join(golden, "data.bin"))).buffer;
  const manifest = JSON.parse(readFileSync(join(golden, "manifest.json"), "utf8"));
  const entry = join(library, JSON.parse(readFileSync(join(library, "package.json"), "utf8")).module);
  const module = new WebAssembly.Module(readFileSync(join(library, "build/simd.wasm")));
  const expected = await check(await import(pathToFileURL(entry).href), { manifest, data }, module);
  project.provide("packed", { tarball, library, files: packed.files.map(({ path }) => path), golden, expected });
}
