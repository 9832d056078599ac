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
import { writeOutput } from "../../src/cli/output.ts";
import { wrongFile } from "../../src/common/errors.ts";
import { convert, inspect } from "../../src/tools/index.ts";
import { file, HUGE, huge, trained, withValue } from "./checkpoints.ts";

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

  test("compares with another file, and refuses to write over it", () => {
    writeFileSync(at("later.safetensors"), file(withValue(trained("bn", 4), "bn.running_mean", 1, 9)));
    const { status, stdout } = run("inspect", "later.safetensors", "--against", "good.safetensors");
    expect(status).toBe(0);
    expect(stdout).toContain("drift from good.safetensors: 1 batch norm compared");
    expect(stdout).toMatch(/^bn +4 +[\d.]+ +1–1 +0 to 0 +1$/m);
    const { stdout: json } = run("inspect", "later.safetensors", "--against", "good.safetensors", "--json");
    expect(JSON.parse(json).drift).toMatchObject({
      against: "good.safetensors",
      layers: [{ name: "bn", drifted: [1] }],
    });
    const over = ["--against", "good.safetensors", "--html", "good.safetensors", "--force"];
    expect(run("inspect", "later.safetensors", ...over)).toMatchObject({ status: 2, stdout: "" });
    expect(run("inspect", "later.safetensors", "--against", "none.safetensors").status).toBe(2);
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
    ["a folder", ["folder.safetensors"], "folder.safetensors: the file: expected one that can be read, got a folder"],
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
    expect(failed.stderr).toBe("folder.safetensors: expected a file, got a folder; name another\n");
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

describe("convert", () => {
  test("writes the file that the function makes, and prints its report", async () => {
    const { status, stdout, stderr } = run("convert", "good.safetensors", "flax.safetensors", "--to", "flax");
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^good\.safetensors \(safetensors\) → flax: 1 batch norm converted, 0 not; 0 other/);
    expect(stdout).toContain("\n  bn.running_var → batch_stats/bn/var\n");
    const json = run("convert", "good.safetensors", "8.safetensors", "--to", "flax", "--count", "8", "--json");
    const files = new OpenFiles();
    const source = await files.open(at("good.safetensors"));
    const plain = await convert(source, { to: "flax" });
    const counted = await convert(source, { to: "flax", count: 8 });
    expect(readFileSync(at("flax.safetensors"))).toEqual(Buffer.from(await plain.bytes()));
    expect(readFileSync(at("8.safetensors"))).toEqual(Buffer.from(await counted.bytes()));
    await files.close();
    expect(JSON.parse(json.stdout)).toEqual(counted.report);
  });

  test("gives 1 and writes the file if a batch norm is not converted", () => {
    const { "bn.running_var": _, ...tensors } = trained("bn", 4);
    writeFileSync(at("half.safetensors"), file({ ...tensors, ...trained("other", 4) }));
    const { status, stdout } = run("convert", "half.safetensors", "half-keras.safetensors", "--to", "keras");
    expect(status).toBe(1);
    expect(stdout).toContain("NOT CONVERTED bn: running_var is missing.");
    expect(statSync(at("half-keras.safetensors")).size).toBeGreaterThan(0);
  });

  test("writes over no file without --force, and never over a file of the model", () => {
    writeFileSync(at("mine.safetensors"), "mine");
    const args = ["convert", "good.safetensors", "mine.safetensors", "--to", "keras"];
    expect(run(...args)).toEqual({
      status: 2,
      stdout: "",
      stderr: "mine.safetensors: expected a new file, got one that exists; name another, or pass --force\n",
    });
    expect(readFileSync(at("mine.safetensors"), "utf8")).toBe("mine");
    expect(run(...args, "--force").status).toBe(0);
    expect(readFileSync(at("mine.safetensors")).length).toBeGreaterThan(100);

    const spec = (name: string) => ({ name, shape: [1], dtype: "float32" });
    const manifest = [{ paths: ["shard.bin"], weights: [spec("bn/moving_mean"), spec("bn/moving_variance")] }];
    writeFileSync(at("model.json"), JSON.stringify(manifest));
    writeFileSync(at("shard.bin"), new Uint8Array(8));
    for (const out of ["model.json", "shard.bin"])
      for (const args of [
        ["convert", "model.json", out, "--to", "pytorch", "--force"],
        ["inspect", "model.json", "--html", out, "--force"],
      ]) {
        const { status, stderr } = run(...args);
        expect([status, stderr]).toEqual([2, `${out}: expected another file than the input; name another\n`]);
      }
    expect(readFileSync(at("shard.bin"))).toEqual(Buffer.alloc(8));
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("an output whose input fails on the way leaves no part of it, and the error as it is", async () => {
    const whole = new OpenFiles();
    const source = await whole.open(at("good.safetensors"));
    const { chunks } = await convert(source, { to: "keras" });
    const content = (async function* () {
      for await (const chunk of chunks()) {
        yield chunk;
        throw wrongFile("good.safetensors", "tensor", "bytes", "none");
      }
    })();
    await expect(writeOutput(at("cut-off.safetensors"), content, false, [])).rejects.toThrow(
      expect.objectContaining({ code: "model-file" }) as Error,
    );
    await whole.close();
    expect(readdirSync(folder).filter((name) => /cut-off/.test(name))).toEqual([]);
  });

  test.each([
    ["no framework", ["good.safetensors", "x"], "required option '--to <framework>' not specified"],
    ["another framework", ["good.safetensors", "x", "--to", "caffe"], "Allowed choices are pytorch, keras"],
    ["a count of one", ["good.safetensors", "x", "--to", "flax", "--count", "1"], "Expected a number above 1"],
    ["a damaged file", ["cut.safetensors", "x", "--to", "flax"], "cut.safetensors: "],
    ["names of none", ["good.safetensors", "x", "--to", "flax", "--from", "onnx"], "with the names of onnx"],
  ])("gives 2 and a message without a stack for %s, and no file", (_, args, text) => {
    const { status, stdout, stderr } = run("convert", ...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(text);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(readdirSync(folder)).not.toContain("x");
  });

  test("--help has an example and the exit codes, within 80 columns", () => {
    const { status, stdout } = run("convert", "--help");
    expect(status).toBe(0);
    expect(stdout).toContain("$ npx batchnorm-wasm convert model.safetensors flax.safetensors --to flax");
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
  const { head, size } = huge();
  const { channels } = HUGE;
  const handle = openSync(at("big.safetensors"), "w");
  writeSync(handle, head, 0, head.length, 0);
  ftruncateSync(handle, size); // a hole, which takes no room
  const last = Float32Array.from({ length: channels }, (_, i) => i + 1);
  writeSync(handle, new Uint8Array(last.buffer), 0, channels * 4, size - channels * 4);
  closeSync(handle);
  expect(statSync(at("big.safetensors")).size).toBeGreaterThan(10_000_000_000);

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
  expect(read).toBe(16 + head.length + HUGE.layers * HUGE.parts.length * channels * 4);

  const { status, stdout } = run("inspect", "big.safetensors", "--json");
  expect(status).toBe(0);
  expect(JSON.parse(stdout).layers).toHaveLength(10);
});
