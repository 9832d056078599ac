// The comparison of builds, in a Node of its own: Node 20 has relaxed SIMD behind a flag only.

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const file = (relative) => fileURLToPath(new URL(relative, import.meta.url));

/** Where the bytes of each build are. */
export const BUILDS = { simd: file("../build/simd.wasm"), "relaxed SIMD": file("../build/relaxed.wasm") };

/** What compareBuilds gives, from the child. */
export async function buildsInChild({ quick }) {
  const relaxed = BUILDS["relaxed SIMD"];
  if (!existsSync(relaxed)) return { reason: "Not offered by this version (it has no build/relaxed.wasm)" };
  const flags = WebAssembly.validate(readFileSync(relaxed)) ? [] : ["--experimental-wasm-relaxed-simd"];
  const args = [...flags, file("builds-child.mjs"), ...(quick ? ["--quick"] : [])];
  const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 2 ** 24 });
  return JSON.parse(stdout);
}
