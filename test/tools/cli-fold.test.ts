// `npx batchnorm-wasm fold` as a child process. It runs dist/cli.js, which `npm run build` makes.

import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { bytesSource, foldOnnx, foldPairs } from "../../src/tools/index.ts";
import { file, trained } from "./checkpoints.ts";
import { caseOf, differenceOf, run as runModel, sourceOf } from "./onnx/onnxruntime.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const fixtures = fileURLToPath(new URL("onnx/fixtures", import.meta.url));
const modules = fileURLToPath(new URL("../../node_modules", import.meta.url));

const folders: string[] = [];
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "batchnorm-fold-"));
  folders.push(folder);
  for (const name of ["arcface.onnx", "consumers.onnx", "external.onnx", "external.data", "lossy.onnx"])
    cpSync(join(fixtures, name), at(name));
});

afterAll(() => {
  for (const one of folders) rmSync(one, { recursive: true, force: true });
});

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, "fold", ...args], {
    cwd: folder,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

describe("fold", () => {
  test("writes what foldOnnx returns, and prints each batch norm with its expected error", async () => {
    const { status, stdout, stderr } = run("arcface.onnx", "out.onnx");
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(
      /^arcface\.onnx: 3 of 3 batch norms folded\n\nexpected error of an output, in units of its size:\n\d/,
    );
    expect(stdout).toMatch(/^\d\.\de-[78] {2}\/1\/BatchNormalization {2}into \/0\/Conv$/m);
    expect(stdout).toMatch(/^\d\.\de-[78] {2}\/3\/BatchNormalization {2}forward into \/6\/Gemm$/m);
    const { model } = await foldOnnx(sourceOf("arcface"));
    expect(new Uint8Array(readFileSync(at("out.onnx")))).toEqual(model);
  });

  test("says why a batch norm is kept, and prints the report as JSON", async () => {
    expect(run("consumers.onnx", "out.onnx").stdout).toMatch(
      /^consumers\.onnx: 0 of 1 batch norm folded\n\nkept bn: the output of "c" \(Conv\) before it is taken elsewhere, too, by/,
    );
    const { stdout } = run("consumers.onnx", "json.onnx", "--json");
    expect(JSON.parse(stdout)).toEqual((await foldOnnx(sourceOf("consumers"))).report);
    expect(readFileSync(at("out.onnx"))).toEqual(readFileSync(at("consumers.onnx")));
  });

  test("takes a tolerance", () => {
    expect(run("lossy.onnx", "kept.onnx").stdout).toContain("lossy.onnx: 0 of 1 batch norm folded");
    expect(run("lossy.onnx", "folded.onnx", "--tolerance", "1e-3").stdout).toContain("1 of 1 batch norm folded");
    const { status, stderr } = run("lossy.onnx", "other.onnx", "--tolerance", "high");
    expect([status, stderr]).toEqual([
      2,
      expect.stringContaining("--tolerance: expected a number from 0 on, got high"),
    ]);
  });

  test("writes external data into another folder, with the weights in them", async () => {
    mkdirSync(at("out"));
    expect(run("external.onnx", "out/model.onnx")).toMatchObject({ status: 0, stderr: "" });
    expect(readdirSync(at("out")).sort()).toEqual(["external.data", "model.onnx"]);
    const { inputs, outputs } = caseOf("external");
    const data = new Uint8Array(readFileSync(at("out", "external.data")));
    const after = await runModel(new Uint8Array(readFileSync(at("out", "model.onnx"))), inputs, {
      "external.data": data,
    });
    expect(differenceOf(after.z as number[], outputs.z?.data ?? [])).toBeLessThan(1e-6);
  });

  test("does not write external data over those of the input", () => {
    const before = readFileSync(at("external.data"));
    const { status, stderr } = run("external.onnx", "out.onnx", "--force");
    expect([status, stderr]).toEqual([
      2,
      expect.stringContaining("out.onnx: expected another folder than the input's"),
    ]);
    expect(readFileSync(at("external.data"))).toEqual(before);
    expect(existsSync(at("out.onnx"))).toBe(false);
  });

  test("overwrites nothing without --force, and never its input", () => {
    writeFileSync(at("out.onnx"), "mine");
    expect(run("arcface.onnx", "out.onnx")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("pass --force"),
    });
    expect(readFileSync(at("out.onnx"), "utf8")).toBe("mine");
    expect(run("arcface.onnx", "out.onnx", "--force").status).toBe(0);
    expect(readFileSync(at("out.onnx")).length).toBeGreaterThan(1000);
    expect(run("arcface.onnx", "arcface.onnx", "--force")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("expected another file than the input"),
    });
    mkdirSync(at("out"));
    writeFileSync(at("out", "external.data"), "mine");
    expect(run("external.onnx", "out/model.onnx")).toMatchObject({ status: 2, stdout: "" });
    expect(readdirSync(at("out"))).toEqual(["external.data"]);
    expect(readFileSync(at("out", "external.data"), "utf8")).toBe("mine");
  });

  test.each([
    ["a file that is not there", ["none.onnx", "out.onnx"], "none.onnx: the file: expected one that can be read"],
    ["a file of another format", ["external.data", "out.onnx"], "external.data: the file: expected a model of"],
    ["a folder that is not there", ["arcface.onnx", "none/out.onnx"], "none/out.onnx: expected an existing folder"],
    ["no output", ["arcface.onnx"], "missing required argument 'out'"],
  ])("gives 2 and a message without a stack for %s", (_, args, text) => {
    const { status, stdout, stderr } = run(...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(text);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(existsSync(at("out.onnx"))).toBe(false);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("--help has an example and the exit codes, within 80 columns", () => {
    const { status, stdout } = run("--help");
    expect(status).toBe(0);
    expect(stdout).toContain("$ npx batchnorm-wasm fold model.onnx folded.onnx --verify");
    expect(stdout).toContain("exit code");
    for (const line of stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });

  test.each(["inspect", "convert", "mean-std", "fold"])(
    "%s --help breaks lines only where the next word does not fit",
    (name) => {
      const { stdout } = spawnSync(process.execPath, [cli, name, "--help"], { encoding: "utf8" });
      const lines = stdout.split("\n");
      const continued = lines.filter((line) => /^ {10}/.test(line));
      expect(continued.length).toBeGreaterThanOrEqual(name === "inspect" ? 0 : 2);
      for (const line of continued) {
        const [word] = line.trim().split(" ") as [string];
        expect(`${lines[lines.indexOf(line) - 1]} ${word}`.length).toBeGreaterThan(79);
      }
    },
  );
});

describe("safetensors", () => {
  const bn = trained("bn1", 4);
  const weight = { data: Float32Array.from({ length: 12 }, (_, i) => i + 1), shape: [4, 3] };
  beforeEach(() => writeFileSync(at("in.safetensors"), file({ ...bn, "fc1.weight": weight })));

  test("pairs are shown before they are applied, and may come from a file", async () => {
    const shown = run("in.safetensors", "out.safetensors", "--pairs", "auto");
    expect(shown).toMatchObject({
      status: 0,
      stdout: "fc1:bn1\n",
      stderr: expect.stringContaining("nothing was written"),
    });
    expect(existsSync(at("out.safetensors"))).toBe(false);
    writeFileSync(at("pairs.txt"), shown.stdout);
    expect(run("in.safetensors", "out.safetensors", "--pairs", "pairs.txt")).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^in\.safetensors: 1 of 1 batch norm folded\n[\s\S]*bn1 {2}into fc1\n$/),
    });
    const pairs = [{ layer: "fc1", batchNorm: "bn1" }];
    const { model } = await foldPairs(bytesSource("", new Uint8Array(readFileSync(at("in.safetensors")))), { pairs });
    expect(new Uint8Array(readFileSync(at("out.safetensors")))).toEqual(new Uint8Array(model));
    expect(run("in.safetensors", "out.safetensors", "--pair", "fc1:bn1", "--force").status).toBe(0);
    expect(new Uint8Array(readFileSync(at("out.safetensors")))).toEqual(new Uint8Array(model));
  });

  test.each([
    ["no pair", ["in.safetensors", "out"], "expected --pair layer:bn or --pairs"],
    [
      "a pair without a colon",
      ["in.safetensors", "out", "--pair", "fc1"],
      "--pair: expected names of a layer and of a batch",
    ],
    [
      "a list that is not there",
      ["in.safetensors", "out", "--pairs", "none"],
      "--pairs: expected a file that can be read",
    ],
    [
      "a pair that is not there",
      ["in.safetensors", "out", "--pair", "fc1:bn2"],
      "the pair fc1:bn2: expected a batch norm bn2",
    ],
    ["--verify", ["in.safetensors", "out", "--verify"], "--verify: expected ONNX, got safetensors"],
    ["a pair of ONNX", ["arcface.onnx", "out", "--pair", "a:b"], "--pair: expected a file of safetensors, got ONNX"],
  ])("gives 2 and a message for %s", (_, args, text) => {
    const { status, stdout, stderr } = run(...args);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(text);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(existsSync(at("out"))).toBe(false);
  });
});

describe("--verify", () => {
  test("runs both models in the project's onnxruntime, and prints the largest difference", () => {
    symlinkSync(modules, at("node_modules"));
    const { status, stdout, stderr } = run("arcface.onnx", "out.onnx", "--verify");
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(
      /\nverified: y differs by at most \d\.\de-[78] of its largest element\nexpected: at most \d\.\de-[78] of/,
    );
    const { differences } = JSON.parse(run("arcface.onnx", "json.onnx", "--verify", "--json").stdout);
    expect(differences).toEqual([
      { output: "y", type: "float32", difference: expect.any(Number), size: expect.any(Number) },
    ]);
    expect(differences[0].difference).toBeLessThan(1e-6 * differences[0].size);
    mkdirSync(at("out"));
    expect(run("external.onnx", "out/out.onnx", "--verify")).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/verified: z differs by at most \d\.\de-[78] of/),
    });
  });

  test("asks for onnxruntime where there is none, before it writes anything", () => {
    const { status, stderr } = run("arcface.onnx", "out.onnx", "--verify");
    expect([status, stderr]).toEqual([2, expect.stringContaining("run npm install onnxruntime-web")]);
    expect(existsSync(at("out.onnx"))).toBe(false);
  });
});
