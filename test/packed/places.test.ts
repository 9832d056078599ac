// The packed library in places that Node can make: other globals, frozen ones, permissions, engines that lack a part. In each
// of them the library works, or throws an error with a code that names what is missing. Jest is in jest.test.ts.

import { execFile } from "node:child_process";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { beforeAll, describe, expect, inject, it } from "vitest";
import type { Checked } from "./check.js";
import { expectChecked, record } from "./record.ts";
import { tool } from "./tools.ts";

const { library, golden, expected } = inject("packed");

/** A project that depends on the library, which lies in the node_modules of the folder above. */
const project = join(library, "../../places");

beforeAll(() => {
  rmSync(project, { recursive: true, force: true });
  cpSync(fileURLToPath(new URL("./places", import.meta.url)), project, { recursive: true });
  cpSync(fileURLToPath(new URL("./check.js", import.meta.url)), join(project, "check.js"));
});

/** A program that runs longer than this does not end. */
const TIMEOUT = 120_000;

/** What place.mjs finds of an entry. */
interface Found {
  readonly state: boolean;
  readonly error: object;
  readonly kind: object;
  readonly threads: number | object;
  readonly ended: number;
  readonly digests: readonly string[];
}

interface Report {
  readonly checked: Checked;
  readonly library: Found;
  readonly core: Found;
  readonly frozen?: boolean;
}

async function output(file: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  const env = { ...process.env, NO_COLOR: "1", NODE_OPTIONS: "", VITEST: "", GOLDEN: golden };
  return promisify(execFile)(file, args, { cwd: project, timeout: TIMEOUT, env });
}

interface Place {
  readonly name: string;
  readonly how?: string;
  readonly flags?: readonly string[];
  readonly file?: () => string;
  /** Threads after init({ threads: 2 }); without them, a pattern of the error or the warning that names the reason. */
  readonly threads?: number;
  readonly reason?: RegExp;
  readonly what: string;
}

/** What a table says of a place without workers. */
const REFUSED = 'one thread; init({ threads: 2 }): "thread"';

/** Node 20.0.0 may hang when a program with threads ends, without this flag (runtimes.test.ts). */
const STABLE = "--no-concurrent-sparkplug";

const PERMISSION = [20, 22, 24, 26].flatMap((major): Place[] => {
  const file = () => tool(`node-${major}/bin/node`);
  const flag = major === 20 ? "--experimental-permission" : "--permission";
  const flags = [flag, "--allow-fs-read=*", ...(major === 20 ? [STABLE] : [])];
  return [
    {
      file,
      name: `Node ${major}, ${flag}`,
      flags,
      reason: /Access to this API has been restricted.*; .*Node's --permission needs --allow-worker/,
      what: REFUSED,
    },
    {
      file,
      name: `Node ${major}, ${flag} --allow-worker`,
      flags: [...flags, "--allow-worker"],
      threads: 2,
      what: "two threads",
    },
  ];
});

const PLACES: readonly Place[] = [
  {
    name: "node:vm, a context with the globals of JavaScript alone",
    how: "vm",
    reason: /there are no workers here/,
    what: REFUSED,
  },
  { name: "Node, --frozen-intrinsics", flags: ["--frozen-intrinsics"], threads: 2, what: "two threads" },
  { name: "Node, every class and prototype frozen", how: "frozen", threads: 2, what: "two threads" },
  { name: "SES, lockdown()", how: "ses", threads: 2, what: "two threads" },
  {
    name: "Node, without SharedArrayBuffer",
    how: "no SharedArrayBuffer",
    reason: /one thread, because the engine has no shared memory/,
    what: "one thread and a warning",
  },
  ...PERMISSION,
];

const TYPED = { typed: true, name: "BatchNormError" };

/** Expects that an entry works in a place, with the results of a place that has nothing special. */
function expectFound(found: Found, plain: Found, threads: unknown): void {
  expect(found.state).toBe(true);
  expect(found.error).toEqual({
    ...TYPED,
    code: "one-value-per-channel",
    message: expect.stringMatching(/^Expected more than 1/),
  });
  expect(found.kind).toMatchObject({ typed: false, name: "TypeError", message: expect.stringMatching(/^x: expected/) });
  expect(found.threads).toEqual(threads);
  expect(found.ended).toBe(1);
  expect(new Set(found.digests)).toEqual(new Set(plain.digests));
}

async function reportOf({ file, flags = [], how = "plain" }: Omit<Place, "name" | "what">): Promise<[Report, string]> {
  const ses = how === "ses" ? [tool("ses/dist/lockdown.cjs")] : [];
  const { stdout, stderr } = await output(file?.() ?? process.execPath, [...flags, "main.mjs", how, golden, ...ses]);
  return [JSON.parse(stdout), stderr];
}

describe("places", () => {
  let plain: Report;
  beforeAll(async () => {
    [plain] = await reportOf({});
    expect(plain.library.digests).toHaveLength(3);
    for (const entry of [plain.library, plain.core])
      expectFound(entry, { ...entry, digests: entry.digests.slice(0, 1) }, 2);
  });

  it.each(PLACES)("$name: works, and init({ threads: 2 }) gives threads or the reason", async (place) => {
    const [report, stderr] = await reportOf(place);
    // a warning leaves one thread, and an error too
    const warned = place.reason?.test(stderr);
    const threads =
      place.threads ??
      (warned ? 1 : { ...TYPED, code: "thread", message: expect.stringMatching(place.reason as RegExp) });
    for (const entry of ["library", "core"] as const) expectFound(report[entry], plain[entry], threads);
    expect(report.frozen).toBe(/froz|SES/.test(place.name));
    expectChecked(report.checked, expected);
    const version = (await output(place.file?.() ?? process.execPath, ["--version"])).stdout.trim().slice(1);
    record({ kind: "node", name: place.name, version, what: place.what, checked: report.checked });
  });

  it.each(["forks", "vmThreads"])("Vitest with jsdom, pool %s: works, with two threads", async (pool) => {
    const vitest = fileURLToPath(new URL("../../node_modules/vitest/", import.meta.url));
    const args = ["run", "--root", project, "--config", join(project, "vitest.config.mjs"), "--pool", pool];
    const { stdout } = await output(process.execPath, [`${vitest}vitest.mjs`, ...args]);
    const report = JSON.parse(/^found (.*)$/m.exec(stdout)?.[1] as string) as Report;
    for (const entry of ["library", "core"] as const) expectFound(report[entry], plain[entry], 2);
    const { version } = await import("vitest/node");
    expectChecked(report.checked, expected);
    record({
      kind: "node",
      name: `Vitest with jsdom, pool ${pool}`,
      version,
      what: "two threads",
      checked: report.checked,
    });
  });
});
