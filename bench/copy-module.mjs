// Compiles bench/assembly/copy.ts.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

/** The bytes of the module. In a process of its own, because a megabyte of compiler has no business in our heap. */
export const compileCopy = () =>
  execFileSync(
    process.execPath,
    [
      "--enable-source-maps", // asc would start a second process to set it
      path("../node_modules/assemblyscript/bin/asc.js"),
      path("assembly/copy.ts"),
      ...["--config", "none"], // there is no such file, and so the root's is not merged in
      ...["-O3", "--noAssert", "--runtime", "stub", "--importMemory", "--noExportMemory", "--enable", "simd"],
      ...["--use", "abort=", "--outFile"], // no name: to stdout
    ],
    { cwd: path("..") },
  );
