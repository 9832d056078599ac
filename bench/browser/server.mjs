// Serves the page on this machine: bundled by esbuild from the modules that Node runs, isolated from other origins, without
// which a browser has no shared memory and only a coarse clock.

import { mkdtempSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import os from "node:os";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { compileCopy } from "../copy-module.mjs";
import { STYLE } from "../html.mjs";
import { folderOf } from "../packages.mjs";

const here = (file) => fileURLToPath(new URL(file, import.meta.url));

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>batchnorm-wasm: benchmark</title>
<style>${STYLE}
</style>
<p>This page measures batchnorm-wasm and its alternatives in your browser, which takes some minutes. The documentation explains it:</p>
<ul>
<li><code>docs/results/benchmark-results.md</code>: which operations and alternatives these are, and how they are measured</li>
<li><code>docs/results/benchmarks.md</code>: what to conclude from a run in Node</li>
<li><code>docs/guides/inputs-and-memory.md</code> and <code>docs/guides/threads.md</code>: how to make your own program faster</li>
</ul>
<p id="status">Loading</p>
<progress id="bar" max="1" style="width: 100%"></progress>
<div id="report"></div>
<script type="module" src="page.js"></script>
</html>
`;

/** The bundle's files, in a new folder. */
async function bundle() {
  const outdir = mkdtempSync(join(os.tmpdir(), "bench-page-"));
  await build({
    entryPoints: [here("page.mjs"), here("worker.mjs")],
    outdir,
    ...{ bundle: true, splitting: true, format: "esm", target: "es2022", logLevel: "error" },
    define: { global: "globalThis" }, // for dependencies written for Node
  });
  return outdir;
}

/** Listens on a free port, or on `port`; `setup` is what page.mjs gets as setup.json. Returns { url, close() }. */
export async function serve(setup, port = 0) {
  const folders = {
    "": await bundle(),
    tfjs: folderOf("@tensorflow/tfjs-backend-wasm"),
    onnx: folderOf("onnxruntime-web"),
    build: here("../../build"),
  };
  const made = { "": PAGE, "setup.json": JSON.stringify(setup), "copy.wasm": compileCopy() };
  const contentOf = (path) => {
    if (path in made) return made[path];
    const [folder, rest] = path.includes("/") ? path.split(/\/(.*)/) : ["", path];
    return readFileSync(join(folders[folder], normalize(rest)));
  };
  const server = createServer(({ url }, response) => {
    const path = new URL(url, "http://localhost").pathname.slice(1); // without any ..
    try {
      const content = contentOf(path);
      response.setHeader("Content-Type", TYPES[extname(path) || ".html"] ?? "application/octet-stream");
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}
