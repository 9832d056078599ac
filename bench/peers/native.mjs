// Batch normalization in C (native.c), for the gain of threads that this machine allows. It is compiled by the system's
// compiler into a temporary folder, and a child process does each problem.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { EPSILON } from "../data.mjs";
import { remote } from "./remote.mjs";

const RESULTS = { inference: ["y"], forward: ["y"], backward: ["dx", "dGamma", "dBeta"] };

/** A problem at a child of `program` on so many threads, until close(). */
function session(program, threads) {
  const folder = mkdtempSync(join(os.tmpdir(), "bench-"));
  let child;
  let lines;
  const answer = async (operation, repeats) => {
    child.stdin.write(`${operation} ${repeats}\n`);
    const { value, done } = await lines.next();
    if (done) throw new Error("native.c ended");
    return Number(value);
  };
  const actions = {
    prepare({ problem: { dims, x, dy, gamma, beta, runningMean, runningVariance } }) {
      const vectors = Float32Array.from([gamma, beta, runningMean, runningVariance].flatMap((v) => [...v]));
      for (const [name, data] of Object.entries({ x, dy, vectors })) writeFileSync(join(folder, name), data);
      child = spawn(program, [folder, dims.outer, dims.channels, dims.inner, threads, EPSILON].map(String));
      child.on("error", () => {}); // its output ends
      child.stdin.on("error", () => {});
      lines = createInterface(child.stdout)[Symbol.asyncIterator]();
      return Object.keys(RESULTS);
    },
    time: ({ operation, repeats }) => answer(operation, repeats),
    async results({ operation }) {
      await answer(operation, 0);
      const read = (name) => new Float32Array(new Uint8Array(readFileSync(join(folder, name))).buffer);
      return Object.fromEntries(RESULTS[operation].map((name) => [name, read(name)]));
    },
  };
  return {
    ask: async (action, options) => actions[action](options),
    async close() {
      child?.stdin.end();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Peers on these numbers of threads, { value } each as variants.mjs takes them; or the reason why there are none. */
export function nativePeers(counts) {
  const folder = mkdtempSync(join(os.tmpdir(), "bench-native-"));
  const program = join(folder, "native");
  const source = fileURLToPath(new URL("native.c", import.meta.url));
  const close = () => rmSync(folder, { recursive: true });
  try {
    execFileSync(
      process.env.CC ?? "cc",
      ["-O3", "-march=native", "-ffast-math", "-pthread", source, "-o", program, "-lm"],
      {
        stdio: "pipe",
      },
    );
  } catch (error) {
    close();
    const why = error.code === "ENOENT" ? "there is none" : error.message.split("\n").at(-2);
    return { peers: [], reason: `native code needs a C compiler, cc or that of CC: ${why}`, close: () => {} };
  }
  const peers = counts.map((threads) => {
    const name = `native, ${threads} thread${threads > 1 ? "s" : ""}`;
    const description = { id: "native", name, layouts: ["channels-first", "channels-last"] };
    return { ...remote(description, () => session(program, threads)), value: name };
  });
  return { peers, close };
}
