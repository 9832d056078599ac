// The command line as a child process: what it prints, its exit codes, and which bytes of a file it reads. It runs dist/cli.js,
// which `npm run build` makes.

import { spawnSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { OpenFiles } from "../../src/cli/file-source.ts";
import { inspect } from "../../src/tools/index.ts";
import { file, trained, withValue } from "./checkpoints.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "batchnorm-tools-"));
  const bn = trained("bn", 4);
  writeFileSync(at("good.safetensors"), file(bn));
  writeFileSync(at("bad.safetensors"), file(withValue(bn, "bn.running_var", 1, -1)));
  writeFileSync(at("cut.safetensors"), file(bn).subarray(0, 200));
  mkdirSync(at("folder.safetensors"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args], { cwd: folder, encoding: "utf8" });
  return { status, stdout, stderr };
}

describe("inspect", () => {
  test("prints a table and gives 0 for a file without errors", () => {
    const { status, stdout, stderr } = run("inspect", "good.safetensors");
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^good\.safetensors \(safetensors\), 1 batch norm: 0 errors, 0 warnings, 0 info\n/);
    expect(stdout).toMatch(/^bn +4 +1e-5\? /m);
  });

  test("gives 1 for a file with a finding of severity error", () => {
    const { status, stdout } = run("inspect", "bad.safetensors");
    expect(status).toBe(1);
    expect(stdout).toContain("ERROR negative-variance: bn: variance is -1 in channel 1; look");
  });

  test("--json prints the report, which is that of the function", async () => {
    const { status, stdout } = run("inspect", "bad.safetensors", "--json");
    expect(status).toBe(1);
    const files = new OpenFiles();
    const report = await inspect(await files.open(at("bad.safetensors")));
    await files.close();
    expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(report)));
    expect(report.findings.map(({ code }) => code)).toEqual(["negative-variance"]);
  });

  test.each([
    ["a file that is not there", ["none.safetensors"], "none.safetensors: the file: expected one that can be read"],
    ["a folder", ["folder.safetensors"], "folder.safetensors: the file: expected a file"],
    ["a damaged file", ["cut.safetensors"], "cut.safetensors: "],
    ["no file", [], "missing required argument 'file'"],
    ["two files", ["good.safetensors", "bad.safetensors"], "too many arguments"],
    ["an unknown option", ["good.safetensors", "--jsn"], "unknown option '--jsn'"],
  ])("gives 2 and a message without a stack for %s", (_, args, text) => {
    const { status, stdout, stderr } = run("inspect", ...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(text);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(stderr.length).toBeLessThan(700);
  });

  test("--html writes a report, never over another file unless --force is there, and never over the model", () => {
    const before = readFileSync(at("bad.safetensors"));
    const written = run("inspect", "bad.safetensors", "--html", "report.html");
    expect([written.status, written.stderr]).toEqual([1, ""]);
    const html = readFileSync(at("report.html"), "utf8");
    expect(html).toMatch(/^<!doctype html>\n<html[\s\S]*variance is -1 in channel 1[\s\S]*<\/html>\n$/);

    writeFileSync(at("report.html"), "mine");
    const refused = run("inspect", "bad.safetensors", "--html", "report.html");
    expect(refused).toMatchObject({ status: 2, stdout: "" });
    expect(refused.stderr).toBe(
      "report.html: expected a new file, got one that exists; name another, or pass --force\n",
    );
    expect(readFileSync(at("report.html"), "utf8")).toBe("mine");

    expect(run("inspect", "bad.safetensors", "--html", "report.html", "--force").status).toBe(1);
    expect(readFileSync(at("report.html"), "utf8")).toBe(html);

    symlinkSync("bad.safetensors", at("link.html"));
    for (const out of ["bad.safetensors", "link.html"])
      expect(run("inspect", "bad.safetensors", "--html", out, "--force")).toMatchObject({
        status: 2,
        stderr: `${out}: expected another file than the input; name another\n`,
      });
    expect(readFileSync(at("bad.safetensors"))).toEqual(before);
  });

  test("a report that cannot be written leaves no part of it", () => {
    expect(run("inspect", "good.safetensors", "--html", "none/report.html")).toMatchObject({
      status: 2,
      stderr: "none/report.html: expected an existing folder, got none; make it first\n",
    });
    const failed = run("inspect", "good.safetensors", "--html", "folder.safetensors", "--force");
    expect(failed.status).toBe(2);
    expect(failed.stderr).toContain("folder.safetensors: expected a file that can be written, got: ");
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("--help has an example and the exit codes, within 80 columns", () => {
    const { status, stdout } = run("inspect", "--help");
    expect(status).toBe(0);
    expect(stdout).toContain("$ npx batchnorm-wasm inspect model.safetensors --html report.html");
    expect(stdout).toContain("exit code");
    for (const line of stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });
});

test.each([
  ["no command", [], "Usage: batchnorm-wasm"],
  ["an unknown command", ["inspekt"], "unknown command 'inspekt'"],
])("%s gives 2", (_, args, text) => {
  const { status, stderr } = run(...args);
  expect(status).toBe(2);
  expect(stderr).toContain(text);
});

test("--version is the package's", async () => {
  const { default: description } = await import("../../package.json", { with: { type: "json" } });
  expect(run("--version")).toEqual({ status: 0, stdout: `${description.version}\n`, stderr: "" });
});

test("of 10 GB, only the header and the ranges of batch norms are read", async () => {
  const big = 10_000_000_000;
  const names = ["weight", "bias", "running_mean", "running_var"];
  const channels = 1000;
  const entries: Record<string, object> = {};
  let end = 0;
  const add = (name: string, bytes: number) => {
    entries[name] = { dtype: "F32", shape: [bytes / 4], data_offsets: [end, end + bytes] };
    end += bytes;
  };
  for (let i = 0; i < 10; i++) {
    add(`blocks.${i}.conv.weight`, big / 10);
    for (const name of names) add(`blocks.${i}.bn.${name}`, channels * 4);
  }
  const header = new TextEncoder().encode(JSON.stringify(entries));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
  const handle = openSync(at("big.safetensors"), "w");
  writeSync(handle, length, 0, 8, 0);
  writeSync(handle, header, 0, header.length, 8);
  ftruncateSync(handle, 8 + header.length + end); // a hole, which takes no room
  const last = Float32Array.from({ length: channels }, (_, i) => i + 1);
  writeSync(handle, new Uint8Array(last.buffer), 0, channels * 4, 8 + header.length + end - channels * 4);
  closeSync(handle);
  expect(statSync(at("big.safetensors")).size).toBeGreaterThan(big);

  const files = new OpenFiles();
  const source = await files.open(at("big.safetensors"));
  let read = 0;
  const counted = {
    ...source,
    read(begin: number, end: number) {
      read += end - begin;
      return source.read(begin, end);
    },
  };
  const { layers } = await inspect(counted);
  await files.close();
  expect(layers).toHaveLength(10);
  expect(layers[9]?.variance).toEqual({ least: 1, median: 500.5, largest: 1000 });
  // the first bytes are read twice: for the format, and for the header's length
  expect(read).toBe(16 + 8 + header.length + 10 * names.length * channels * 4);

  const { status, stdout } = run("inspect", "big.safetensors", "--json");
  expect(status).toBe(0);
  expect(JSON.parse(stdout).layers).toHaveLength(10);
});
