// What the file system and the terminal do to the command line: files that are no files, links, rights, full disks, signals,
// closed pipes, and names that a terminal would obey. It runs dist/cli.js, which `npm run build` makes.

import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  lstatSync,
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
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { OpenFiles } from "../../src/cli/file-source.ts";
import { writeOutput } from "../../src/cli/output.ts";
import { readSafetensors, writeSafetensors } from "../../src/interop/safetensors.ts";
import { npy } from "./arrays.ts";
import { file, type Tensors, trained } from "./checkpoints.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const onnx = fileURLToPath(new URL("onnx/fixtures/arcface.onnx", import.meta.url));
const image = fileURLToPath(new URL("images/rgb.png", import.meta.url));

const folders: string[] = [];
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "batchnorm-files-"));
  folders.push(folder);
  writeFileSync(at("in.safetensors"), file(trained("bn", 4)));
});

afterAll(() => {
  for (const one of folders) rmSync(one, { recursive: true, force: true });
});

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args], { cwd: folder, encoding: "utf8" });
  return { status, stdout, stderr };
}

/** Runs the program in a shell, where `$cli` is the program, since pipes and /dev/full need one. */
function shell(script: string) {
  const env = { ...process.env, node: process.execPath, cli };
  const { status, stdout, stderr } = spawnSync("bash", ["-c", script.replaceAll("$cli", '"$node" "$cli"')], {
    cwd: folder,
    encoding: "utf8",
    env,
  });
  return { status, stdout, stderr };
}

/** The commands that write a file, with `out` as its path. */
const writers = (out: string) => [
  ["convert", "in.safetensors", out, "--to", "flax", "--force"],
  ["fold", onnx, out, "--force"],
  ["inspect", "in.safetensors", "--html", out, "--force"],
];

/** The commands that read a file. */
const readers = (path: string) => [
  ["inspect", path],
  ["convert", path, "out.safetensors", "--to", "flax"],
  ["fold", path, "out.onnx"],
  ["mean-std", path],
];

const temporaries = () => readdirSync(folder).filter((name) => name.endsWith(".tmp"));

describe("an output", () => {
  test("is never put in the place of a pipe, a device or a folder, whatever the options", () => {
    spawnSync("mkfifo", [at("pipe")]);
    mkdirSync(at("folder"));
    for (const [out, got] of [
      ["pipe", "a pipe or a device"],
      ["folder", "a folder"],
    ] as const)
      for (const args of writers(out))
        expect(run(...args)).toEqual({
          status: 2,
          stdout: "",
          stderr: `${out}: expected a file, got ${got}; name another\n`,
        });
    expect(lstatSync(at("pipe")).isFIFO()).toBe(true);
    expect(temporaries()).toEqual([]);
  });

  test("in a folder that is none, under a name that is too long or without rights gives a message without a stack", () => {
    mkdirSync(at("closed"));
    chmodSync(at("closed"), 0o500);
    for (const [out, text] of [
      ["in.safetensors/x", "expected an existing folder, got a file; name another"],
      ["none/x", "expected an existing folder, got none; make it first"],
      ["n".repeat(300), "expected a file that can be written, got: ENAMETOOLONG: name too long; name another"],
      // root may write everywhere
      ...(process.getuid?.() === 0
        ? []
        : [["closed/x", "expected a file that can be written, got: EACCES: permission denied; name another"]]),
    ] as [string, string][])
      expect(run(...(writers(out)[0] as string[]))).toEqual({ status: 2, stdout: "", stderr: `${out}: ${text}\n` });
    expect(temporaries()).toEqual([]);
  });

  test("may have the longest name that there is", () => {
    const out = "n".repeat(255);
    expect(run("convert", "in.safetensors", out, "--to", "flax").status).toBe(0);
    expect(Object.keys(readSafetensors(readFileSync(at(out))).tensors)).toContain("params/bn/scale");
  });

  test("through a link is written where the link leads to, with the mode that is there", () => {
    writeFileSync(at("target"), "mine");
    chmodSync(at("target"), 0o600);
    symlinkSync("target", at("link"));
    symlinkSync("nowhere", at("dangling"));
    expect(run("convert", "in.safetensors", "link", "--to", "flax")).toMatchObject({
      status: 2,
      stderr: "link: expected a new file, got one that exists; name another, or pass --force\n",
    });
    expect(run("convert", "in.safetensors", "link", "--to", "flax", "--force").status).toBe(0);
    expect(lstatSync(at("link")).isSymbolicLink()).toBe(true);
    expect(statSync(at("target")).mode & 0o777).toBe(0o600);
    expect(Object.keys(readSafetensors(readFileSync(at("target"))).tensors)).toContain("params/bn/scale");
    expect(run("convert", "in.safetensors", "dangling", "--to", "flax", "--force").stderr).toBe(
      "dangling: expected a file, got a link to one that does not exist; name another\n",
    );
  });

  test("that is a hard link of the input leaves the input as it is", () => {
    linkSync(at("in.safetensors"), at("hard"));
    const before = readFileSync(at("in.safetensors"));
    expect(run("convert", "in.safetensors", "hard", "--to", "flax", "--force").status).toBe(0);
    expect(readFileSync(at("in.safetensors"))).toEqual(before);
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("is not there, nor a part of it, after %s", async (signal) => {
    const entries = { big: { dtype: "F32", shape: [2 ** 31], data_offsets: [0, 2 ** 33] } };
    const small = file(trained("bn", 4));
    const length = Number(new DataView(small.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(small.subarray(8, 8 + length)));
    for (const entry of Object.values(header) as { data_offsets: number[] }[])
      entry.data_offsets = entry.data_offsets.map((offset) => offset + 2 ** 33);
    const text = new TextEncoder().encode(JSON.stringify({ ...entries, ...header }));
    const handle = openSync(at("big.safetensors"), "w");
    writeSync(handle, new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer));
    writeSync(handle, text);
    ftruncateSync(handle, 8 + text.length + 2 ** 33 + small.length - 8 - length); // a hole, which takes no room
    closeSync(handle);

    const child = spawn(process.execPath, [cli, "convert", "big.safetensors", "out", "--to", "flax"], { cwd: folder });
    const ended = new Promise((resolve) => child.once("exit", (code, by) => resolve(by ?? code)));
    while (!temporaries().some((name) => statSync(at(name)).size > 0) && child.exitCode === null)
      await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill(signal);
    expect(await ended).toBe(signal);
    expect(readdirSync(folder).sort()).toEqual(["big.safetensors", "in.safetensors"]);
  });

  test("whose content ends in an error leaves no listeners of signals", async () => {
    const count = () => process.listenerCount("SIGINT");
    const before = count();
    const content = (async function* () {
      yield new Uint8Array(1);
      expect(count()).toBe(before + 1);
      throw new Error("ENOSPC: no space left on device, write");
    })();
    await expect(writeOutput(at("x"), content, false, [])).rejects.toThrow(
      /x: expected a file that can be written, got: ENOSPC: no space left on device; name another$/,
    );
    expect([count(), readdirSync(folder)]).toEqual([before, ["in.safetensors"]]);
  });
});

describe("an input", () => {
  test("that is a pipe is refused, and not waited for", () => {
    spawnSync("mkfifo", [at("pipe")]);
    for (const args of readers("pipe"))
      expect(run(...args)).toEqual({
        status: 2,
        stdout: "",
        stderr:
          "pipe: the file: expected one that can be read, got a pipe or a device; write its bytes to a file first\n",
      });
    expect(shell("cat in.safetensors | $cli inspect /dev/stdin").stderr).toContain("write its bytes to a file first");
    expect(shell("$cli inspect /dev/stdin < in.safetensors").status).toBe(0);
  });

  test("has a path with spaces and any letters", () => {
    const path = join("a b", "ü 模型");
    mkdirSync(at(path), { recursive: true });
    writeFileSync(at(path, "é\u0301.st"), readFileSync(at("in.safetensors")));
    expect(run("inspect", join(path, "é\u0301.st")).stdout).toMatch(/^é\u0301\.st \(safetensors\), 1 batch norm/);
    expect(run("convert", join(path, "é\u0301.st"), join(path, "ñ"), "--to", "keras").status).toBe(0);
    expect(existsSync(at(path, "ñ"))).toBe(true);
  });

  test("is opened once, however many of its tensors are read, and in pieces of at most 64 MiB, since Node ends above 2 GiB", async () => {
    const handle = openSync(at("hole"), "w");
    ftruncateSync(handle, 2 ** 27 + 1);
    writeSync(handle, Uint8Array.of(7), 0, 1, 2 ** 27);
    closeSync(handle);
    const seen: [number, number][] = [];
    const progress = { update: (done: number, total: number) => void seen.push([done, total]) };
    const files = new OpenFiles(progress as never);
    const source = await files.open(at("in.safetensors"));
    const [one, other] = [await source.sibling("hole"), await source.sibling("hole")];
    expect(one).toBe(other);
    expect(files.paths).toEqual([at("in.safetensors"), at("hole")]);
    const bytes = await one.read(0, one.size);
    expect([bytes.length, bytes[2 ** 27]]).toEqual([2 ** 27 + 1, 7]);
    await one.read(0, 100); // what has been read counts once
    expect(seen.map(([done]) => done)).toEqual([2 ** 26, 2 ** 27, 2 ** 27 + 1, 2 ** 27 + 1]);
    expect(seen.at(-1)).toEqual([one.size, one.size + source.size]);
    await files.close();
  });
});

describe("stdout", () => {
  test("that is full gives a message and 2, and one that is closed nothing", () => {
    for (const args of ["inspect in.safetensors", "convert in.safetensors full --to flax", `fold ${onnx} full.onnx`]) {
      const { status, stderr } = shell(`$cli ${args} > /dev/full`);
      expect([status, stderr]).toEqual([
        2,
        "stdout: expected room for the report, got: ENOSPC: no space left on device; write it elsewhere\n",
      ]);
    }
    expect(shell("$cli inspect in.safetensors >&-")).toEqual({ status: 0, stdout: "", stderr: "" });
  });

  test("whose reader stops leaves the exit code", () => {
    const many: Tensors = Object.assign({}, ...Array.from({ length: 3000 }, (_, i) => trained(`l${i}.bn`, 1)));
    writeFileSync(at("many.safetensors"), writeSafetensors(many));
    expect(shell("set -o pipefail; $cli inspect many.safetensors | head -1")).toEqual({
      status: 0,
      stdout: "many.safetensors (safetensors), 3000 batch norms: 0 errors, 0 warnings, 0 info\n",
      stderr: "",
    });
    writeFileSync(at("bad.safetensors"), file({ ...many, ...trained("bn", 1), "bn.running_var": Float32Array.of(-1) }));
    expect(shell("set -o pipefail; $cli inspect bad.safetensors | head -1").status).toBe(1);
  });

  test("and stderr that takes nothing leave the exit code", () => {
    expect(shell("$cli inspect none 2> /dev/full").status).toBe(2);
    expect(shell("set -o pipefail; $cli inspect none 2>&1 | true").status).toBe(2);
  });
});

describe("names in a file", () => {
  const name = "\u001b[31m\u009b\u202e\nx";
  const shown = "\\u001b[31m\\u009b\\u202e\\u000ax";
  /** What a terminal obeys, apart from the ends of the report's own lines. */
  const obeyed = /(?!\n)[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;

  beforeEach(() => {
    const layer = { "conv.weight": { data: new Float32Array(8).fill(1), shape: [4, 2, 1, 1] } };
    writeFileSync(at("evil.safetensors"), file({ ...trained(`${name}.0.bn`, 4), ...prefixed(name, layer) }));
  });

  const prefixed = (prefix: string, tensors: Tensors): Tensors =>
    Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [`${prefix}.0.${key}`, tensor]));

  test("cannot reach the terminal as controls, in texts, JSON and errors", () => {
    for (const args of [
      ["inspect", "evil.safetensors"],
      ["convert", "evil.safetensors", "flax", "--to", "flax"],
      ["fold", "evil.safetensors", "out", "--pairs", "auto"],
      ["fold", "evil.safetensors", "folded", "--pair", `${name}.0.conv:${name}.0.bn`],
    ]) {
      const { status, stdout, stderr } = run(...args);
      expect([status, obeyed.exec(stdout + stderr)]).toEqual([0, null]);
      expect(stdout).toContain(shown);
      if (args.includes("--pair")) continue;
      const json = run(...args, "--json", "--force");
      expect([json.status, obeyed.exec(json.stdout)]).toEqual([0, null]);
      expect(JSON.stringify(JSON.parse(json.stdout))).toContain(JSON.stringify(name).slice(1, -1));
    }
    const refused = run("fold", "evil.safetensors", "x", "--pair", `${name}.0.bn:none`);
    expect([refused.status, obeyed.exec(refused.stderr)]).toEqual([2, null]);
  });

  test("are in a report of HTML with escapes", () => {
    expect(run("inspect", "evil.safetensors", "--html", "report.html").status).toBe(0);
    const html = readFileSync(at("report.html"), "utf8");
    expect(html).toContain(`<td>${shown}.0.bn</td>`);
    expect(obeyed.exec(html)).toBeNull();
  });
});

describe("progress", () => {
  const commands = [
    ["inspect", "inspect in.safetensors --json", /% of \d+ MB read/],
    ["convert", "convert in.safetensors out --to flax --json", /% of \d+ MB written/],
    ["fold of ONNX", `fold ${onnx} out.onnx --json`, /% of \d+ MB written/],
    ["fold of safetensors", "fold in.safetensors out --pairs auto --json 2>&1", /% of \d+ MB read/],
  ] as const;

  test.each(commands)("of %s is on stderr if that is a terminal", (_, command, bar) => {
    // `script` runs a command in a terminal of its own
    const { status, stdout } = spawnSync("script", ["-qec", `"$node" "$cli" ${command} > out.json`, "/dev/null"], {
      cwd: folder,
      encoding: "utf8",
      env: { ...process.env, node: process.execPath, cli },
    });
    expect(status).toBe(0);
    const seen = command.endsWith("2>&1") ? "" : stdout;
    if (seen) expect(seen).toMatch(bar);
    // neither the cursor nor the wrapping of lines changes, which Ctrl-C would leave so
    for (const code of ["?25", "?7"]) expect(seen).not.toContain(`\u001b[${code}`);
  });
});

test("mean-std refuses options that its files have no use for, and counts files without an extension", () => {
  mkdirSync(at("images"));
  for (const name of ["a", "b"]) writeFileSync(at("images", name), "");
  writeFileSync(at("images", "1.png"), readFileSync(image));
  writeFileSync(at("x.npy"), npy("|u1", [2, 2], Uint8Array.of(1, 10, 4, 30)));
  expect(run("mean-std", "images", "--layout", "channels-first").stderr).toBe(
    "--layout: expected arrays, got images; leave it out\n",
  );
  expect(run("mean-std", "images", "--tensor", "x").stderr).toBe(
    "--tensor: expected arrays, got images; leave it out\n",
  );
  expect(run("mean-std", "x.npy", "--rgb").stderr).toBe("--rgb: expected images, got arrays; leave it out\n");
  expect(run("mean-std", "images").stdout).toContain(
    "\nOther files in the folders were left out: 2 without an extension.\n",
  );
});

test("fold --pairs auto writes nothing, and so asks for no new file", () => {
  const before = readFileSync(at("in.safetensors"));
  expect(run("fold", "in.safetensors", "in.safetensors", "--pairs", "auto")).toMatchObject({ status: 0, stdout: "" });
  expect(readFileSync(at("in.safetensors"))).toEqual(before);
});

test("fold --epsilon of 1 and more is a wrong argument", () =>
  expect(run("fold", "in.safetensors", "x", "--pair", "a:bn", "--epsilon", "1")).toMatchObject({
    status: 2,
    stderr: "--epsilon: expected a number from 0 up to 1, got 1; leave it out, or pass 1e-3\n",
  }));
