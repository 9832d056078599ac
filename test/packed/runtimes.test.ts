// The packed library in every JavaScript runtime of test/packed/package.json. The programs and workers of
// test/packed/runtimes import it by its name, as users do, and run check.js.

import { execFile, spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";
import { beforeAll, describe, expect, inject, it } from "vitest";
import type { Checked } from "./check.js";
import { exportsOf, resolve } from "./exports.ts";
import { expectChecked, record } from "./record.ts";
import { tool } from "./tools.ts";

const { library, golden, expected } = inject("packed");

/** A project that depends on the library, which lies in the node_modules of the folder above. */
const programs = join(library, "../../runtimes");

beforeAll(() => {
  rmSync(programs, { recursive: true, force: true });
  cpSync(fileURLToPath(new URL("./runtimes", import.meta.url)), programs, { recursive: true });
  cpSync(fileURLToPath(new URL("./check.js", import.meta.url)), join(programs, "check.js"));
  for (const file of ["manifest.json", "data.bin"]) cpSync(join(golden, file), join(programs, file));
});

/** A program that runs longer than this does not end. */
const TIMEOUT = 120_000;

interface Runtime {
  readonly name: string;
  readonly file: string;
  readonly flags?: readonly string[];
}

/**
 * Node 20.0.0 may hang when a program ends while V8 compiles JavaScript in the background, and Node 20.1.0 turned that
 * compilation off (nodejs/node, pull request 47450). The flag does the same, so that this suite fails because of the
 * library only: 5 of 46 runs with two threads hung without it, and 0 of 120 with it.
 */
const NODE_20 = { file: "node-20/bin/node", flags: ["--no-concurrent-sparkplug"] };

const NODES: readonly Runtime[] = [
  { name: "Node 20", ...NODE_20 },
  ...["22", "24", "26"].map((major) => ({ name: `Node ${major}`, file: `node-${major}/bin/node` })),
];
const RELAXED: Runtime = {
  name: "Node 20, relaxed SIMD on",
  ...NODE_20,
  flags: [...NODE_20.flags, "--experimental-wasm-relaxed-simd"],
};
const DENO = {
  name: "Deno",
  file: "@deno/linux-x64-glibc/deno",
  // the node_modules that are there, no network, and permission for nothing but to read
  flags: ["run", "--node-modules-dir=manual", "--no-remote", "--no-lock", "--allow-read"],
};
const BUN = { name: "Bun", file: "@oven/bun-linux-x64/bin/bun", flags: ["--no-install", "run"] };

const run = promisify(execFile);

async function output(runtime: Runtime, args: readonly string[], flags = runtime.flags ?? []): Promise<string> {
  const options = { cwd: programs, timeout: TIMEOUT, env: { ...process.env, NO_COLOR: "1", NODE_OPTIONS: "" } };
  return (await run(tool(runtime.file), [...flags, ...args], options)).stdout;
}

/** "v22.1.0", or "deno 2.9.6 (…)" and more, as a version. */
async function versionOf(runtime: Runtime): Promise<string> {
  const version = /\d+\.\d+\.\d+/.exec(await output(runtime, ["--version"], []))?.[0];
  if (!version) throw new Error(`${runtime.file} --version: expected a version`);
  return version;
}

interface Found extends Checked {
  /** Digests of the same steps of both entries on one thread and on two, and how many threads there were. */
  readonly alone?: readonly string[];
  readonly together?: readonly string[];
  readonly threads?: readonly number[];
}

async function checkedBy(runtime: Runtime, program: string, threads: "alone" | "dispose" | "leave"): Promise<Found> {
  return JSON.parse(await output(runtime, [program, golden, threads]));
}

describe.each<Runtime & { build: "simd" | "relaxed"; programs: readonly string[] }>([
  ...NODES.map((node) => ({
    ...node,
    build: node.name === "Node 20" ? ("simd" as const) : ("relaxed" as const),
    programs: ["import.mjs", "require.cjs"],
  })),
  { ...RELAXED, build: "relaxed", programs: ["import.mjs", "require.cjs"] },
  { ...DENO, build: "relaxed", programs: ["import.mjs", "npm.mjs", "require.cjs"] },
  { ...BUN, build: "relaxed", programs: ["import.mjs", "require.cjs"] },
])("$name", (runtime) => {
  const found: Found[] = [];

  it.each(runtime.programs)("%s finds the library, and every golden case has the same bits", async (program) => {
    const checked = await checkedBy(runtime, program, "alone");
    expectChecked(checked, expected);
    expect(checked.build).toBe(runtime.build);
    found.push(checked);
  });

  it.each(["dispose", "leave"] as const)(
    "two threads have the same bits as one, and the process ends (%s)",
    async (how) => {
      const checked = await checkedBy(runtime, "import.mjs", how);
      expectChecked(checked, expected);
      expect(checked.threads).toEqual([2, 2]);
      expect(checked.together).toEqual(checked.alone);
      expect(checked.ownDigest).toBe(found[0]?.ownDigest);
      found.push(checked);
    },
  );

  it("is recorded", async () => {
    expect(found).toHaveLength(runtime.programs.length + 2);
    const [checked] = found as [Found];
    const version = await versionOf(runtime);
    console.log(`${runtime.name}: ${version}, ${checked.build}, ${checked.digest}, own ${checked.ownDigest}`);
    record({ kind: "runtime", name: runtime.name, version, what: "import, require, threads", checked });
  });
});

it("the oldest Node that package.json admits is the one tried here", async () => {
  const { engines } = JSON.parse(readFileSync(join(library, "package.json"), "utf8"));
  expect(engines).toEqual({ node: ">=20" });
  expect(await versionOf(NODES[0] as Runtime)).toBe("20.0.0");
});

// V8 has no SIMD where the processor lacks SSE 4.1, and no WebAssembly at all without its compiler
describe.each(["--no-enable-sse4-1", "--jitless"])("an engine without SIMD, by %s", (flag) => {
  it.each<Runtime>([
    ...NODES.map((node) => ({ ...node, flags: [...(node.flags ?? []), flag] })),
    { ...DENO, flags: [...DENO.flags, `--v8-flags=${flag}`] },
  ])("$name: an import is fine, and the first use says what is missing", async (runtime) => {
    const errors = JSON.parse(await output(runtime, ["no-simd.mjs"]));
    const uses = ["forward", "tensor", "info", "init"];
    expect(Object.keys(errors)).toEqual(["library", "core"].flatMap((entry) => uses.map((use) => `${entry}: ${use}`)));
    for (const error of Object.values(errors))
      expect(error).toEqual({ code: "no-simd", message: expect.stringContaining("an engine with WebAssembly SIMD") });
    if (flag === "--jitless")
      record({
        kind: "node",
        name: `${runtime.name}, ${flag}`,
        version: await versionOf(runtime),
        what: 'BatchNormError "no-simd" at first use',
      });
  });
});

/** Runs a server until `use` is done with it: `ready` finds its address in what it prints. */
async function withServer<T>(
  [file, ...args]: readonly [string, ...string[]],
  { cwd, env = {} }: { cwd: string; env?: Record<string, string> },
  ready: RegExp,
  use: (address: string) => Promise<T>,
): Promise<T> {
  // a group of its own, since it may start others
  const server = spawn(file, args, {
    cwd,
    detached: true,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = new Promise<void>((done) => server.once("close", () => done()));
  let printed = "";
  try {
    const address = await new Promise<string>((found, failed) => {
      const timer = setTimeout(
        () => failed(new Error(`${file}: not ready within ${TIMEOUT} ms:\n${printed}`)),
        TIMEOUT,
      );
      const look = (chunk: Buffer) => {
        printed += chunk;
        const match = ready.exec(printed)?.[1];
        if (!match) return;
        clearTimeout(timer);
        found(match);
      };
      server.stdout.on("data", look);
      server.stderr.on("data", look);
      server.once("error", failed);
      server.once("exit", (code) => failed(new Error(`${file}: ended with ${code}:\n${printed}`)));
    });
    return await use(address);
  } finally {
    if (server.pid !== undefined && server.exitCode === null) process.kill(-server.pid, "SIGKILL");
    await ended;
  }
}

async function answer(url: string): Promise<Checked> {
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${url}: ${response.status}\n${text}`);
  return JSON.parse(text);
}

const packageOf = (name: string) => JSON.parse(readFileSync(tool(`${name}/package.json`), "utf8"));

describe("Cloudflare Workers", () => {
  const DATE = "2026-01-01";

  it("workerd runs the entries of its condition, and compiles no bytes", async () => {
    const name = "batchnorm-wasm";
    const exports = exportsOf(library);
    const fileOf = (subpath: string) => {
      const file = resolve(exports[subpath] ?? "", ["workerd", "worker", "import"])?.replace("./", `${name}/`);
      if (!file) throw new Error(`exports: expected a target of ${subpath} for workerd`);
      return file;
    };
    /** An entry's file from the module of its name, as a relative path. */
    const fromModule = (subpath: string) => relative(dirname(join(name, subpath)), fileOf(subpath));
    const embed = (file: string) => `embed ${JSON.stringify(relative(programs, file))}`;
    // workerd resolves no packages: a module is what the configuration calls it
    const modules = [
      ["worker.js", "esModule", `embed "worker.js"`],
      ["check.js", "esModule", `embed "check.js"`],
      ["manifest.json", "json", `embed "manifest.json"`],
      ["data.bin", "data", `embed "data.bin"`],
      ...[".", "./core"].flatMap((subpath) => [
        [join(name, subpath), "esModule", JSON.stringify(`export * from "./${fromModule(subpath)}";`)],
        [fileOf(subpath), "esModule", embed(join(library, "..", fileOf(subpath)))],
      ]),
      [`${name}/simd.wasm`, "wasm", embed(join(library, "..", fileOf("./simd.wasm")))],
      ...["simd.wasm", "extended.wasm"].map((f) => [`${name}/build/${f}`, "wasm", embed(join(library, "build", f))]),
    ];
    const lines = modules.map(
      ([module, type, content]) => `    (name = ${JSON.stringify(module)}, ${type} = ${content}),`,
    );
    writeFileSync(
      join(programs, "workerd.capnp"),
      `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const main :Workerd.Worker = (
  compatibilityDate = "${DATE}",
  modules = [
${lines.join("\n")}
  ],
);
`,
    );
    const serve = [
      tool("@cloudflare/workerd-linux-64/bin/workerd"),
      "serve",
      "workerd.capnp",
      "--control-fd=1",
    ] as const;
    const checked = await withServer([...serve], { cwd: programs }, /"listen","socket":"http","port":(\d+)/, (port) =>
      answer(`http://127.0.0.1:${port}/`),
    );
    expectChecked(checked, expected);
    expect(checked.build).toBe("simd");
    const { version } = packageOf("workerd");
    console.log(`workerd: ${version}, ${checked.build}, ${checked.digest}`);
    record({ kind: "runtime", name: "workerd", version, what: "condition workerd", checked });
  });

  it("wrangler dev finds the library by its name", async () => {
    writeFileSync(
      join(programs, "wrangler.json"),
      JSON.stringify({
        name: "batchnorm-wasm-check",
        main: "worker.js",
        compatibility_date: DATE,
        send_metrics: false,
      }),
    );
    const home = join(programs, "home"); // its logs and registry of workers, not the user's
    mkdirSync(home);
    const env = {
      HOME: home,
      XDG_CONFIG_HOME: home,
      CI: "1",
      NO_COLOR: "1",
      WRANGLER_HIDE_BANNER: "true", // and with it a question to the registry
      WRANGLER_SEND_METRICS: "false",
      CLOUDFLARE_CF_FETCH_ENABLED: "false",
    };
    const checked = await withServer(
      // needs Node 22
      [
        tool("node-22/bin/node"),
        tool("wrangler/bin/wrangler.js"),
        "dev",
        "--local",
        "--ip=127.0.0.1",
        "--port=0",
        "--inspector-port=0",
        "--show-interactive-dev-session=false",
      ],
      { cwd: programs, env },
      /Ready on (http:\/\/127\.0\.0\.1:\d+)/,
      answer,
    );
    expectChecked(checked, expected);
    expect(checked.build).toBe("simd");
    const { version } = packageOf("wrangler");
    console.log(`wrangler: ${version}, ${checked.build}, ${checked.digest}`);
    record({ kind: "runtime", name: "wrangler", version, what: "condition workerd", checked });
  });
});

/** What we need of @edge-runtime/vm, whose types are there only after npm ci --prefix test/packed. */
interface EdgeRuntime {
  EdgeVM: new (options: {
    codeGeneration: { strings: boolean; wasm: boolean };
    extend(context: object): object;
  }) => { evaluate(code: string): unknown };
}

it("edge-light: what Next would make of the entry runs in Vercel's edge runtime, which compiles no bytes", async () => {
  const { EdgeVM }: EdgeRuntime = await import(pathToFileURL(tool("@edge-runtime/vm/dist/index.js")).href);
  const modules: Record<string, WebAssembly.Module> = {};
  const bundle = await build({
    entryPoints: [join(programs, "edge.js")],
    bundle: true,
    write: false,
    format: "iife",
    platform: "neutral",
    conditions: ["edge-light"],
    logLevel: "silent",
    plugins: [
      {
        // as Next's loader: a .wasm file whose import says ?module becomes a global of the sandbox
        name: "next-middleware-wasm-loader",
        setup({ onLoad }) {
          onLoad({ filter: /\.wasm$/ }, ({ path, suffix }) => {
            if (suffix !== "?module") return { errors: [{ text: `${path}: imported without ?module` }] };
            const name = `wasm_${Object.keys(modules).length}`;
            modules[name] = new WebAssembly.Module(readFileSync(path));
            return { contents: `export default ${name};` };
          });
        },
      },
    ],
  });
  expect(Object.keys(modules)).toHaveLength(2);
  const data = Uint8Array.from(readFileSync(join(golden, "data.bin"))).buffer;
  const manifest = JSON.parse(readFileSync(join(golden, "manifest.json"), "utf8"));
  const edge = new EdgeVM({
    codeGeneration: { strings: false, wasm: false },
    extend: (context) => Object.assign(context, modules, { golden: { manifest, data } }),
  });
  expect(() => edge.evaluate("new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0))")).toThrow(
    "disallowed",
  );
  edge.evaluate((bundle.outputFiles[0] as { text: string }).text);
  const checked = (await edge.evaluate("globalThis.found")) as Checked;
  expectChecked(checked, expected);
  expect(checked.build).toBe("simd");
  const { version } = packageOf("@edge-runtime/vm");
  console.log(`edge runtime: ${version}, ${checked.build}, ${checked.digest}`);
  record({ kind: "runtime", name: "Vercel's edge runtime", version, what: "condition edge-light", checked });
});
