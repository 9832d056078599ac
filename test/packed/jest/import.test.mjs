// The checks of faults.cjs with the package by import, in Jest with --experimental-vm-modules, which lets it import modules.

import { Buffer } from "node:buffer";
import vm from "node:vm";
import * as library from "batchnorm-wasm";
import checksOf from "./faults.cjs";

const outer = {
  bytes: (list) => Buffer.from(list),
  floats: vm.runInNewContext("(list) => Float32Array.from(list)"),
};
for (const [name, check] of Object.entries(checksOf(library, outer, expect))) test(name, check, 600_000);
