// Where a run of Node took place: machine, engine, versions, commit.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import os from "node:os";
import * as library from "../dist/index.js";

const json = (relative) => JSON.parse(readFileSync(new URL(relative, import.meta.url), "utf8"));

function commit() {
  try {
    const options = { cwd: new URL("..", import.meta.url), encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] };
    return execFileSync("git", ["describe", "--always", "--dirty"], options).trim();
  } catch {
    return "none";
  }
}

/** The pinned versions of the packages that peers need; TF.js is the one that the tests have. */
export const pinned = () => ({ ...json("../package.json").devDependencies, ...json("package.json").dependencies });

/** `peers` are those that take part, with versions. */
export function environmentOf({ run, peers }) {
  const [cpu] = os.cpus();
  const { name, version } = json("../package.json");
  return {
    date: new Date().toISOString().slice(0, 10),
    processor: `${cpu.model.trim()}, ${os.cpus().length} cores`,
    engine: `Node ${process.versions.node}, V8 ${process.versions.v8}`,
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    package: `${name} ${version}`,
    build: library.kernelInfo().build,
    peers: peers.join(", ") || "none",
    commit: commit(),
    run,
  };
}
