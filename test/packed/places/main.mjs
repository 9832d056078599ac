// Makes a place inside this process, as the first argument says, loads the library there, and prints what is found. The other
// arguments are the folder of the golden cases and the file of ses.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createContext, Script } from "node:vm";
import { report } from "./report.mjs";

const require = createRequire(import.meta.url);
const [how, folder, ses] = process.argv.slice(2);

/** Freezes every class that is a global, its prototype, and the prototypes that have no name. */
function freezeAll() {
  const named = Object.getOwnPropertyNames(globalThis).filter((name) => /^[A-Z]/.test(name));
  const values = [
    ...named.map((name) => globalThis[name]),
    ...Object.values(Object.getOwnPropertyDescriptors(WebAssembly)).map(({ value }) => value),
  ];
  const classes = values.filter((value) => typeof value === "function" && value.prototype);
  const nameless = [[].values(), new Map().entries(), Uint8Array.prototype, (function* () {})(), (async () => {})()];
  for (const value of [
    ...classes,
    ...classes.map(({ prototype }) => prototype),
    ...nameless.map(Object.getPrototypeOf),
  ])
    Object.freeze(value);
}

/** Loads an entry into a context of node:vm, which has the globals of JavaScript alone. */
function inContext(context, name) {
  const module = { exports: {} };
  const code = readFileSync(require.resolve(name), "utf8");
  new Script(`(module, exports) => {${code}\n}`).runInContext(context)(module, module.exports);
  return module.exports;
}

let entries;
if (how === "vm") {
  const context = createContext({});
  entries = ["batchnorm-wasm", "batchnorm-wasm/core"].map((name) => inContext(context, name));
} else {
  if (how === "frozen") freezeAll();
  if (how === "no SharedArrayBuffer") delete globalThis.SharedArrayBuffer;
  if (how === "ses") {
    require(ses);
    lockdown({ overrideTaming: "min", errorTaming: "unsafe", consoleTaming: "unsafe", domainTaming: "unsafe" });
  }
  entries = [await import("batchnorm-wasm"), await import("batchnorm-wasm/core")];
}
const found = await report(...entries, folder);
console.log(JSON.stringify({ ...found, frozen: Object.isFrozen(Error.prototype) }));
