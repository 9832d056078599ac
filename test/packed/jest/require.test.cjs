// The checks of faults.cjs with the package by require, as most projects that use Jest have it.

const { Buffer } = require("node:buffer");
const vm = require("node:vm");
const library = require("batchnorm-wasm");
const checksOf = require("./faults.cjs");

const outer = {
  bytes: (list) => Buffer.from(list),
  floats: vm.runInNewContext("(list) => Float32Array.from(list)"),
};
for (const [name, check] of Object.entries(checksOf(library, outer, expect))) test(name, check, 600_000);
