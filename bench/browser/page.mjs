// The page: runs the suite with the peers that run in a browser, shows progress, then the report. It gets what the server
// knows from setup.json, and leaves what it measured in globalThis.bench = { results } | { failure }.

import * as library from "../../dist/index.js";
import { bodyOf } from "../html.mjs";
import { PEERS } from "../peers/index.mjs";
import { isolatedBy } from "../peers/remote.mjs";
import { partsOf, runParts } from "../suite.mjs";
import { compareBuilds } from "../variants.mjs";
import { isolate } from "./isolate.mjs";

const [status, bar, report] = ["status", "bar", "report"].map((id) => document.getElementById(id));

const isolated = isolatedBy(isolate);

async function bytesOf(file) {
  const response = await fetch(file);
  return response.ok ? new Uint8Array(await response.arrayBuffer()) : undefined;
}

async function builds(options) {
  const relaxed = await bytesOf("build/relaxed.wasm");
  if (!relaxed) return { reason: "Not offered by this version (it has no build/relaxed.wasm)" };
  return compareBuilds({ simd: await bytesOf("build/simd.wasm"), "relaxed SIMD": relaxed }, options);
}

async function run() {
  const { environment, quick, only } = await (await fetch("setup.json")).json();
  const copyModule = await bytesOf("copy.wasm");
  const base = new URL(".", location.href).href;
  const settings = { copyModule, tfjsWasm: `${base}tfjs/`, onnxWasm: `${base}onnx/` };
  const peers = Object.keys(PEERS).map((id) => isolated(id));
  const parts = partsOf({ peers, isolated, settings, quick, natives: [], builds });
  const wanted = parts.filter(({ title }) => title.includes(only));
  if (wanted.length === 0) throw new Error(`no part has "${only}" in its title`);
  const partly = await runParts(wanted, (title) => {
    status.textContent = title;
    return { progress: (share) => bar.setAttribute("value", share), done: () => {} };
  });
  const missing = [{ peer: "PyTorch", reason: "does not run in a browser" }];
  const here = { engine: navigator.userAgent, build: library.kernelInfo().build };
  return { environment: { ...environment, ...here }, missing, ...partly };
}

try {
  const results = await run();
  report.innerHTML = bodyOf(results, document);
  status.textContent = "";
  bar.remove();
  globalThis.bench = { results };
} catch (error) {
  status.textContent = `Failed: ${error.stack}`;
  globalThis.bench = { failure: error.stack };
}
