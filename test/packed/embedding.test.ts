// Programs of examples/embedding with the raw modules of the packed library. Each of them compares its results with
// golden values and with the bits of this Node, and measures its speed. Their install.sh installs their toolchains.

import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { beforeAll, describe, expect, inject, it } from "vitest";
import { record } from "./record.ts";

const { library } = inject("packed");
const examples = fileURLToPath(new URL("../../examples/embedding/", import.meta.url));
const golden = join(library, "../../golden.bin");

/** What a program prints as its last line; examples/embedding/README.md. */
interface Report {
  readonly host: string;
  readonly engine: string;
  readonly cases: number;
  readonly maxU: Readonly<Record<string, number>>;
  readonly equalBits: boolean;
  readonly shape: readonly number[];
  readonly stepMs: number;
  readonly native: string;
  readonly nativeMs: number;
}

/** The first build of wasmtime takes ten minutes, on a machine that does much else more. */
const TIMEOUT = 3_000_000;

const run = promisify(execFile);

async function reportOf(folder: string, wasm: string, ...more: readonly string[]): Promise<Report> {
  const args = [join(examples, folder, "run.sh"), join(library, "build", wasm), golden, ...more];
  const { stdout } = await run("bash", args, { timeout: TIMEOUT });
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
}

/** Of their references, in u: what docs/concepts/numerics.md promises; running statistics may have one more rounding, to float32. */
const GATES: Readonly<Record<string, number>> = {
  y: 4,
  dx: 4,
  dGamma: 1,
  dBeta: 1,
  mean: 1,
  variance: 1,
  runningMean: 1.5,
  runningVariance: 1.5,
};

const HOSTS: readonly { name: string; folder: string; args?: readonly string[] }[] = [
  { name: "Python", folder: "python" },
  { name: "Rust", folder: "rust" },
  { name: "C", folder: "c" },
  { name: "Go", folder: "go" },
  { name: "Java", folder: "java" },
  { name: "Java alone", folder: "java", args: ["endive"] },
];

beforeAll(() => {
  execFileSync(process.execPath, [join(examples, "golden.mjs"), golden, join(library, "build/embed.wasm")]);
});

describe.each(HOSTS)("$name", ({ name, folder, args = [] }) => {
  it(
    "trains a layer on memory of its own, with Node's bits",
    async () => {
      const report = await reportOf(folder, "embed.wasm", ...args);
      expect(report.equalBits).toBe(true);
      expect(report.cases).toBe(readFileSync(golden).readUInt32LE(0));
      expect(report.cases).toBeGreaterThan(3);
      expect(Object.keys(report.maxU).sort()).toEqual(Object.keys(GATES).sort());
      for (const [output, gate] of Object.entries(GATES)) expect(report.maxU[output], output).toBeLessThanOrEqual(gate);
      expect(report.shape).toEqual([32, 64, 56, 56]);
      expect(report.stepMs).toBeGreaterThan(0);
      expect(report.nativeMs).toBeGreaterThan(0);
      const [engine, version = ""] = report.engine.split(/ (?=v?\d)/);
      const ms = (value: number) => `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
      const what = `bits as in Node; a step of [32, 64, 56, 56]: ${ms(report.stepMs)}, ${report.native} ${ms(report.nativeMs)}`;
      record({ kind: "host", name: `${name}, ${engine}`, version, what });
    },
    TIMEOUT,
  );

  if (args.length) return; // another engine for the same program
  it(
    "and on the module's",
    async () => {
      expect(await reportOf(folder, "standalone.wasm")).toMatchObject({ equalBits: true });
    },
    TIMEOUT,
  );
});
