// Native PyTorch, one peer for every Python that has it: a child process (pytorch.py) that gets the same data in files and
// times itself. Nothing is installed here.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { EPSILON } from "../data.mjs";
import { remote } from "./remote.mjs";

export const HOW_TO_INSTALL =
  "not installed: `apt-get install python3-torch` on Debian, or `pip install torch`, whose Linux build needs the " +
  "nvidia-* wheels that come with it even where there is no GPU; --python FILE names another Python";

/**
 * glibc gives large blocks back to the system when they are freed, and then every output costs page faults: backward of
 * [32, 64, 56, 56] took 14 ms, and 4.3 where memory is kept, as it is for peers that write to given destinations.
 */
const KEEP_MEMORY = {
  MALLOC_MMAP_MAX_: "0",
  MALLOC_TRIM_THRESHOLD_: String(2 ** 40),
  MALLOC_TOP_PAD_: String(2 ** 26),
};

/** Every python3 on the PATH, each once. */
function pythonsOnPath() {
  const files = process.env.PATH.split(delimiter).map((folder) => join(folder, "python3"));
  return [...new Map(files.filter(existsSync).map((file) => [realpathSync(file), file])).values()];
}

/** pytorch.py in one Python: ask(action, options) → its answer, close(). */
function start(python) {
  const child = spawn(python, [fileURLToPath(new URL("pytorch.py", import.meta.url))], {
    env: { ...process.env, ...KEEP_MEMORY },
  });
  let complaint = "";
  child.stderr.on("data", (text) => {
    complaint = `${complaint}${text}`.slice(-500);
  });
  child.on("error", () => {}); // there is no such program: its output ends
  child.stdin.on("error", () => {});
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    async ask(action, options) {
      child.stdin.write(`${JSON.stringify({ action, ...options })}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`${python} ended: ${complaint.trim().split("\n").at(-1)}`);
      const { answer, failure } = JSON.parse(value);
      if (failure) throw new Error(failure);
      return answer;
    },
    close: () => child.stdin.end(),
  };
}

/** A problem at the child's, until close(). */
function session(ask) {
  const folder = mkdtempSync(join(os.tmpdir(), "bench-"));
  const file = (name) => join(folder, name);
  const actions = {
    prepare({ problem: { shape, layout, x, dy, ...rest } }) {
      for (const [name, data] of Object.entries({ x, dy })) writeFileSync(file(name), data);
      const vectors = Object.fromEntries(
        ["gamma", "beta", "runningMean", "runningVariance"].map((name) => [name, Array.from(rest[name])]),
      );
      return ask("prepare", { folder, shape, layout, epsilon: EPSILON, vectors });
    },
    time: (options) => ask("time", { ...options, folder }),
    async results(options) {
      const names = await ask("results", { ...options, folder });
      const read = (name) => new Float32Array(new Uint8Array(readFileSync(file(name))).buffer);
      return Object.fromEntries(names.map((name) => [name, read(name)]));
    },
  };
  return {
    ask: (action, options) => actions[action](options),
    async close() {
      await ask("dispose", { folder });
      rmSync(folder, { recursive: true });
    },
  };
}

/** The peers of these Pythons, or of those on the PATH: of every version of PyTorch the first. Each has close(). */
export async function pytorchPeers(pythons = pythonsOnPath()) {
  const peers = new Map();
  for (const python of pythons) {
    const { ask, close } = start(python);
    const version = await ask("version").catch(() => undefined);
    const name = `PyTorch ${version?.split("+")[0]}`;
    if (!version || peers.has(name)) close();
    else {
      const description = { id: "pytorch", name, layouts: ["channels-first", "channels-last"] };
      peers.set(name, { ...remote(description, () => session(ask)), close });
    }
  }
  return [...peers.values()];
}
