// The package: its files, the targets of the fields in package.json, and its use by a compiler and by bundlers.

import { spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { runInNewContext } from "node:vm";
import { instantiateSync } from "@assemblyscript/loader";
import { build, type Metafile, type Plugin, transform } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { rollup } from "rollup";
import ts from "typescript";
import { beforeAll, describe, expect, inject, it } from "vitest";
import "../support/relaxed-simd.ts";
import { exportsOf, filesOf, resolve } from "./exports.ts";

const { library, tarball, files } = inject("packed");
const description = JSON.parse(readFileSync(join(library, "package.json"), "utf8"));
const exports = exportsOf(library);
const subpaths = Object.entries(exports);
const main = exports["."] ?? "";

/** The complete entry and the small one: the subpath, the name to import, and the name of the files in dist/. */
const ENTRIES = [
  { subpath: ".", name: "batchnorm-wasm", file: "index" },
  { subpath: "./core", name: "batchnorm-wasm/core", file: "core" },
] as const;
type Entry = (typeof ENTRIES)[number];
const targetOf = ({ subpath }: Entry) => exports[subpath] ?? "";

/** A project that depends on the library, which lies in the node_modules of the folder above. */
const consumer = join(library, "../../consumer");

beforeAll(() => {
  rmSync(consumer, { recursive: true, force: true });
  mkdirSync(consumer, { recursive: true });
});

const FILES = [
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "LICENSE",
  "README.md",
  "SECURITY.md",
  "build/debug.wasm",
  "build/embed.wasm",
  "build/extended.wasm",
  "build/relaxed.wasm",
  "build/simd.wasm",
  "build/standalone.wasm",
  "dist/batchnorm-wasm.global.d.ts",
  "dist/batchnorm-wasm.global.js",
  "dist/batchnorm-wasm.global.js.map",
  ...["core", "index"].flatMap((name) =>
    ["cjs", "cjs.map", "d.cts", "d.ts", "edge-light.js", "edge.js", "edge.js.map", "js", "js.map"].map(
      (extension) => `dist/${name}.${extension}`,
    ),
  ),
  "dist/cli.js",
  "dist/cli.licences.txt",
  "dist/mpi.cjs",
  "dist/mpi.cjs.map",
  "dist/mpi.d.cts",
  "dist/mpi.d.ts",
  "dist/mpi.js",
  "dist/mpi.js.map",
  "dist/tfjs.cjs",
  "dist/tfjs.cjs.map",
  "dist/tfjs.d.cts",
  "dist/tfjs.d.ts",
  "dist/tfjs.js",
  "dist/tfjs.js.map",
  "dist/tools.cjs",
  "dist/tools.cjs.map",
  "dist/tools.d.cts",
  "dist/tools.d.ts",
  "dist/tools.js",
  "dist/tools.js.map",
  "dist/wasm.d.ts",
  ...readdirSync(new URL("../../docs/", import.meta.url), { recursive: true, encoding: "utf8" })
    .filter((file) => extname(file) && !/^(\.vitepress|reference\/api)\//.test(file))
    .map((file) => `docs/${file}`),
  "package.json",
].sort();

describe("files", () => {
  it("are these and no others", () => {
    expect([...files].sort()).toEqual(FILES);
    const unpacked = readdirSync(library, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(library, join(entry.parentPath, entry.name)));
    expect(unpacked.sort()).toEqual(FILES);
  });

  it.each(["main", "module", "types", "unpkg", "jsdelivr"])("the field %s leads to one", (field) => {
    expect(FILES).toContain(String(description[field]).replace("./", ""));
  });

  it.each(subpaths)("exports: all that %s leads to is there", (_, target) => {
    const targets = filesOf(target);
    expect(targets.length).toBeGreaterThan(0);
    for (const file of targets) {
      expect(file).toMatch(/^\.\//);
      expect(FILES).toContain(file.replace("./", ""));
    }
  });

  it("exports: leads to all there is, but for source maps, texts and what a declaration names", () => {
    const targets = subpaths.flatMap(([, target]) => filesOf(target));
    const reached = new Set(
      [...targets, ...Object.values<string>(description.bin)].map((file) => file.replace("./", "")),
    );
    const others = FILES.filter((file) => !reached.has(file) && !/\.(map|md|svg|txt)$|^LICENSE$/.test(file));
    expect(others).toEqual([]);
  });
});

describe("what a registry needs", () => {
  it("every link in the README is absolute, or leads to a file of the package or a heading of the README", () => {
    const readme = readFileSync(join(library, "README.md"), "utf8");
    const links = [...readme.matchAll(/\]\(([^)]+)\)/g)].map((match) => match[1] as string);
    const headings = [...readme.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replace(/[^\w -]/g, "")
        .replaceAll(" ", "-"),
    );
    const isThere = (link: string) => {
      const [file = "", heading] = link.split("#");
      if (file === "") return headings.includes(heading ?? "");
      return /^https:\/\/\w/.test(file) || FILES.includes(file);
    };
    expect(links.length).toBeGreaterThan(10);
    expect(links.filter((link) => !isThere(link))).toEqual([]);
  });

  it("npm publish --dry-run finds nothing to complain of", () => {
    // nothing answers there, so the outcome does not depend on what a registry has
    const args = ["publish", tarball, "--dry-run", "--registry", "http://127.0.0.1:9", "--fetch-retries", "0"];
    const { stderr, status } = spawnSync("npm", args, { encoding: "utf8" });
    expect(status, stderr).toBe(0);
    const complaints = stderr.split("\n").filter((line) => /^npm (warn|error)/.test(line));
    // who publishes is logged in by then
    expect(complaints.filter((line) => !/requires you to be logged in/.test(line))).toEqual([]);
    expect(stderr).toContain(`${description.name}@${description.version}`);
  });
});

describe("raw modules", () => {
  const modules = FILES.filter((file) => extname(file) === ".wasm");
  const compile = (file: string) => new WebAssembly.Module(readFileSync(join(library, file)));

  it.each(modules)("%s imports env.memory and nothing else, or exports a memory of its own", (file) => {
    const memory = { name: "memory", kind: "memory" };
    const module = compile(file);
    const own = file === "build/standalone.wasm";
    expect(WebAssembly.Module.imports(module)).toEqual(own ? [] : [{ module: "env", ...memory }]);
    expect(WebAssembly.Module.exports(module).filter(({ kind }) => kind !== "function")).toEqual(own ? [memory] : []);
  });

  it("the builds of the core have the same exports, all functions", () => {
    const [simd, ...others] = ["simd", "relaxed", "debug"].map((name) =>
      WebAssembly.Module.exports(compile(`build/${name}.wasm`)),
    );
    expect(simd?.length).toBeGreaterThan(0);
    expect(simd?.every(({ kind }) => kind === "function")).toBe(true);
    for (const other of others) expect(other).toEqual(simd);
  });

  it("instantiate by AssemblyScript's own loader too, for programs that have it", () => {
    for (const name of ["simd", "relaxed", "embed"]) {
      if (name === "relaxed" && !WebAssembly.validate(readFileSync(join(library, "build/relaxed.wasm")))) continue;
      const memory = new WebAssembly.Memory({ initial: 1 });
      const { exports } = instantiateSync(compile(`build/${name}.wasm`), { env: { memory } });
      expect((exports as { version?: () => number }).version?.()).toBe(2);
    }
  });

  it("are found by their names, from import and require", () => {
    const require = createRequire(join(consumer, "x.js"));
    for (const file of modules)
      expect(require.resolve(`batchnorm-wasm/${file.replace("build/", "")}`)).toBe(join(library, file));
  });
});

describe("linters of packages", () => {
  it("publint finds nothing", async () => {
    const { messages, pkg } = await publint({ pkgDir: library, strict: true, pack: false });
    expect(messages.map((message) => formatMessage(message, pkg, { color: false }))).toEqual([]);
  });

  it("arethetypeswrong finds nothing about what is imported as JavaScript", () => {
    const report = join(consumer, "attw.json");
    const output = openSync(report, "w"); // it ends before a pipe has taken everything
    const attw = fileURLToPath(new URL("../../node_modules/@arethetypeswrong/cli/dist/index.js", import.meta.url));
    const { stderr } = spawnSync(process.execPath, [attw, tarball, "--format", "json"], {
      stdio: ["ignore", output, "pipe"],
      encoding: "utf8",
    });
    closeSync(output);
    expect(stderr).toBe("");
    const { analysis } = JSON.parse(readFileSync(report, "utf8"));
    expect(Object.keys(analysis.entrypoints).sort()).toEqual(subpaths.map(([subpath]) => subpath).sort());
    interface Problem {
      kind: string;
      entrypoint?: string;
      resolutionKind?: string;
    }
    // A .wasm file and a script are files to serve or to compile, which a CommonJS program reads and does not require.
    // Only that, only there.
    const file = /^\.\/(\w+\.wasm|global)$/;
    const expected = ({ kind, entrypoint = "", resolutionKind }: Problem) =>
      file.test(entrypoint) && kind === "CJSResolvesToESM" && resolutionKind === "node16-cjs";
    expect(analysis.problems.filter((problem: Problem) => !expected(problem))).toEqual([]);
  });
});

/** Leaves .wasm files as imports. */
const wasmOutside: Plugin = {
  name: "wasm-outside",
  setup({ onResolve }) {
    onResolve({ filter: /\.wasm(\?module)?$/ }, ({ path }) => ({ path, external: true }));
  },
};

/** What a bundler for hosts without Node's modules makes of everything that an entry exports. */
async function bundled(
  { name }: Entry,
  conditions: string[],
  mainFields: string[],
): Promise<Metafile["outputs"][string]> {
  const { metafile } = await build({
    stdin: { contents: `export * from "${name}";`, resolveDir: consumer },
    bundle: true,
    write: false,
    outfile: "out.js",
    format: "esm",
    platform: "browser",
    target: "esnext",
    conditions,
    mainFields,
    external: ["node:*"], // listed as imports then
    plugins: [wasmOutside],
    logLevel: "silent",
    metafile: true,
  });
  return metafile.outputs["out.js"] as Metafile["outputs"][string];
}

const WORLDS: readonly [name: string, conditions: string[], extension: string][] = [
  ["a page", ["browser", "module"], "js"],
  ["a worker", ["worker", "browser"], "js"],
  ["workerd", ["workerd", "worker", "browser"], "edge.js"],
  ["edge-light", ["edge-light"], "edge-light.js"],
];

/** What the kernels of an entry are to a host that compiles modules itself. */
const MODULES = { index: ["../build/extended.wasm", "../build/simd.wasm"], core: ["../build/simd.wasm"] };

describe("without Node", () => {
  describe.each(ENTRIES)("$name", (entry) => {
    it.each(WORLDS)("%s imports no module of Node", async (_, conditions, extension) => {
      const { imports, inputs } = await bundled(entry, conditions, ["browser", "module", "main"]);
      const file = new RegExp(`batchnorm-wasm/dist/${entry.file}\\.${extension}$`);
      expect(Object.keys(inputs)).toContainEqual(expect.stringMatching(file));
      const outside = imports.map(({ path }) => path.replace(/\?module$/, ""));
      expect(outside.sort()).toEqual(extension === "js" ? [] : MODULES[entry.file]);
      expect(imports.every(({ kind }) => kind === "import-statement")).toBe(true);
    });
  });

  it("the script has no import at all, and declares one global, with the names that import gives", async () => {
    const script = readFileSync(join(library, description.unpkg), "utf8");
    expect(script).not.toMatch(/\brequire\(["']|\bfrom\s*["']|\bimport\s*["']/);
    const globals: Record<string, object> = { WebAssembly, SharedArrayBuffer, Atomics, console };
    const before = Object.keys(globals);
    runInNewContext(script, globals);
    expect(Object.keys(globals).filter((name) => !before.includes(name))).toEqual(["batchnormWasm"]);
    const imported = await import(pathToFileURL(join(library, description.module)).href);
    expect(Object.keys(globals.batchnormWasm as object).sort()).toEqual(Object.keys(imported).sort());
  });
});

describe("JavaScript", () => {
  const programs = Object.values<string>(description.bin);
  const scripts = FILES.filter((file) => [".js", ".cjs"].includes(extname(file)) && !programs.includes(file));

  it.each(scripts)("%s awaits nothing at its top level", async (file) => {
    // a function around everything is no place for such an await
    const code = readFileSync(join(library, file), "utf8");
    await expect(transform(code, { format: "iife", target: "es2022" })).resolves.toMatchObject({ warnings: [] });
  });

  it("a top-level await would be found", async () => {
    await expect(transform("await 0; export {};", { format: "iife", logLevel: "silent" })).rejects.toThrow("await");
  });

  it.each(scripts)("%s names a source map that is there", (file) => {
    const map = /\/\/# sourceMappingURL=(.+)\s*$/.exec(readFileSync(join(library, file), "utf8"))?.[1];
    expect(FILES).toContain(`dist/${map}`);
  });

  it.each(ENTRIES)("$name is found by its name, by import and by require, with the same names", async (entry) => {
    const required = createRequire(join(consumer, "x.js"))(entry.name);
    const file = resolve(targetOf(entry), ["node", "import"]);
    const imported = await import(pathToFileURL(join(library, file ?? "")).href);
    expect(Object.keys(imported).length).toBeGreaterThan(10);
    expect(Object.keys(required).sort()).toEqual(Object.keys(imported).sort());
    for (const [, conditions] of WORLDS) {
      const { exports: names } = await bundled(entry, conditions, ["module"]);
      expect(names.sort()).toEqual(Object.keys(imported).sort());
    }
  });

  type Library = typeof import("../../src/index.ts");
  const load = async (file: string): Promise<Library> => import(pathToFileURL(join(library, file)).href);
  /** An entry by import and by require. */
  const loaded = async (entry: Entry): Promise<[string, Library][]> => [
    ["import", await load(resolve(targetOf(entry), ["import"]) ?? "")],
    ["require", createRequire(join(consumer, "x.js"))(entry.name)],
  ];

  it("the complete entry is complete from the start, everywhere", async () => {
    const script: { batchnormWasm?: Library } & Record<string, unknown> = { WebAssembly };
    runInNewContext(readFileSync(join(library, description.unpkg), "utf8"), script);
    const all = [...(await loaded(ENTRIES[0])), ["script", script.batchnormWasm as Library] as const];
    for (const [name, { BatchNorm }] of all)
      expect(new BatchNorm(2, { activation: "relu" }).options.activation, name).toBe("relu");
    for (const extension of ["js", "edge.js", "edge-light.js"])
      expect(readFileSync(join(library, `dist/index.${extension}`), "utf8")).toMatch(/^complete\(\);$/m);
  });

  it("the small entry refuses what it lacks, and works beside the complete one", async () => {
    const complete = await loaded(ENTRIES[0]);
    for (const [name, { BatchNorm }] of await loaded(ENTRIES[1])) {
      expect(new BatchNorm(2).channels, name).toBe(2);
      expect(() => new BatchNorm(2, { activation: "relu" }), name).toThrow("the complete entry");
    }
    for (const [name, { BatchNorm }] of complete)
      expect(new BatchNorm(2, { activation: "relu" }).channels, name).toBe(2);
  });

  it("batchnorm-wasm/tfjs has the same names by import and by require, its own kernels, and TF.js from its user", async () => {
    const name = "batchnorm-wasm/tfjs";
    const required = createRequire(join(consumer, "x.js"))(name);
    const file = join(consumer, "tfjs.mjs");
    writeFileSync(file, `export * from "${name}";`);
    const imported = await import(pathToFileURL(file).href);
    expect(Object.keys(imported)).toEqual(
      expect.arrayContaining(["batchNormalization", "batchNorm", "registerKernels"]),
    );
    expect(Object.keys(required).sort()).toEqual(Object.keys(imported).sort());
    const { metafile } = await build({
      entryPoints: [file],
      bundle: true,
      write: false,
      outfile: "out.js",
      format: "esm",
      platform: "browser",
      external: ["@tensorflow/*"],
      metafile: true,
    });
    const outside = metafile.outputs["out.js"]?.imports.map(({ path }) => path);
    expect([...new Set(outside)].sort()).toEqual(["@tensorflow/tfjs-core", "@tensorflow/tfjs-layers"]);
    expect(Object.keys(metafile.inputs).filter((input) => /dist\/(index|core)/.test(input))).toEqual([]);
  });

  it("batchnorm-wasm/mpi has the same name by import and by require, and errors that are instances everywhere", async () => {
    const name = "batchnorm-wasm/mpi";
    const require = createRequire(join(consumer, "x.js"));
    const file = join(consumer, "mpi.mjs");
    writeFileSync(file, `export { mpiGroup } from "${name}"; export { BatchNormError } from "batchnorm-wasm";`);
    const { mpiGroup, BatchNormError } = await import(pathToFileURL(file).href);
    for (const make of [mpiGroup, require(name).mpiGroup]) {
      const error = await make({ library: "libmpi-of-nobody.so" }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(BatchNormError);
      expect(error).toBeInstanceOf(require("batchnorm-wasm").BatchNormError);
      expect(error.code).toBe("mpi");
    }
    expect(new Error("another")).not.toBeInstanceOf(BatchNormError);
  });

  it("require gets CommonJS, and import does not", () => {
    expect(resolve(main, ["node", "require"])).toMatch(/\.cjs$/);
    expect(resolve(main, ["node", "import"])).toMatch(/\.js$/);
    expect(description.type).toBe("module");
  });

  /** A program with one of the entries, as bundlers put it together that know package.json's `sideEffects`. */
  const BUNDLERS: Record<string, (program: string, entry: Entry) => Promise<string>> = {
    async esbuild(program) {
      const { outputFiles } = await build({
        stdin: { contents: program, resolveDir: consumer },
        bundle: true,
        write: false,
        format: "esm",
      });
      return outputFiles[0]?.text ?? "";
    },
    async Rollup(program, entry) {
      const input = join(consumer, "rollup.js");
      writeFileSync(input, program);
      const file = join(library, resolve(targetOf(entry), ["import"]) ?? "");
      const bundle = await rollup({
        input,
        // a plugin that resolves packages passes on what package.json says of side effects
        plugins: [
          {
            name: "resolve",
            resolveId: (id) => (id === entry.name ? { id: file, moduleSideEffects: description.sideEffects } : null),
          },
        ],
        onwarn: ({ code, message }) => {
          if (code !== "EMPTY_BUNDLE") throw new Error(message);
        },
      });
      const { output } = await bundle.generate({ format: "esm" });
      return output[0].code.trim();
    },
  };

  describe.each(Object.keys(BUNDLERS))("in a bundle by %s", (bundler) => {
    const bundle = BUNDLERS[bundler] as (program: string, entry: Entry) => Promise<string>;

    it.each(ENTRIES)("a name of $name that is imported and not used leaves nothing", async (entry) => {
      expect(await bundle(`import { tensor } from "${entry.name}";`, entry)).toBe("");
    });

    it("one name of the complete entry keeps what the entry installs", async () => {
      const program = `import { batchNormForward } from "batchnorm-wasm";
        const x = { data: Float32Array.of(-1, 1), shape: [2, 1] };
        globalThis.found = Array.from(batchNormForward(x, {}, { activation: "relu", epsilon: 0 }).y.data);`;
      const found: { found?: readonly number[] } & Record<string, unknown> = { WebAssembly };
      runInNewContext(await bundle(program, ENTRIES[0]), found);
      expect([...(found.found ?? [])]).toEqual([0, 1]);
    });
  });
});

describe("declarations", () => {
  const readme = readFileSync(join(library, "README.md"), "utf8");
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";

  const parsed = new Map<string, ts.SourceFile | undefined>();

  /** The host of a program, which parses the compiler's own declarations once for all. */
  function hostOf(options: ts.CompilerOptions): ts.CompilerHost {
    const host = ts.createCompilerHost(options);
    const own = dirname(ts.getDefaultLibFilePath(options));
    return {
      ...host,
      getSourceFile: (name, ...rest) => {
        if (!name.startsWith(own)) return host.getSourceFile(name, ...rest);
        if (!parsed.has(name)) parsed.set(name, host.getSourceFile(name, ...rest));
        return parsed.get(name);
      },
    };
  }

  /** What the compiler says of a file, the declarations of the library and of what it imports included. */
  function complaints(name: string, text: string, options: ts.CompilerOptions): string[] {
    return diagnostics(name, text, options).map((d) => ts.flattenDiagnosticMessageText(d.messageText, "\n"));
  }

  function diagnostics(name: string, text: string, options: ts.CompilerOptions): readonly ts.Diagnostic[] {
    const file = join(consumer, name);
    writeFileSync(file, text);
    writeFileSync(join(consumer, "package.json"), JSON.stringify({ private: true, type: "module" }));
    const all: ts.CompilerOptions = {
      target: ts.ScriptTarget.ES2022,
      lib: ["lib.es2022.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
      types: [],
      strict: true,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      skipDefaultLibCheck: true, // the compiler's own
      noEmit: true,
      configFilePath: join(consumer, "tsconfig.json"), // packages are looked for from there
      ...options,
    };
    return ts.getPreEmitDiagnostics(ts.createProgram([file], all, hostOf(all)));
  }

  const NODE = { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext };
  const NODE16 = { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 };
  const BUNDLER = { module: ts.ModuleKind.Preserve, moduleResolution: ts.ModuleResolutionKind.Bundler };
  /** TypeScript's resolution before `exports`. It follows `typesVersions`. */
  const NODE10 = {
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Node10,
    ignoreDeprecations: "6.0",
  };
  const NODE10_COMMONJS = { ...NODE10, module: ts.ModuleKind.CommonJS, esModuleInterop: true };
  /** The checks that the README's example, which is JavaScript, does without. */
  const JAVASCRIPT = { strictNullChecks: false, exactOptionalPropertyTypes: false, noUncheckedIndexedAccess: false };
  const uses = `
const ys: Float32Array = prediction.data;
const shapes: readonly number[] = prediction.shape;
const gradients: Float32Array | undefined = bn.backward(prediction).dx?.data;
// @ts-expect-error: a number of channels is a number
new BatchNorm("64");
void [ys, shapes, gradients];
`;

  it("the README has the example", () => {
    expect(example).toContain('from "batchnorm-wasm"');
  });

  it.each([
    ["an ES module in Node", "esm.mts", NODE],
    ["a bundler's module", "bundler.ts", BUNDLER],
    ["a CommonJS module that imports", "import.cts", NODE],
  ])("%s: the README's example compiles", (_, name, options) => {
    expect(complaints(name, `${example}${uses}`, { ...options, ...JAVASCRIPT })).toEqual([]);
  });

  it("a CommonJS module that requires", () => {
    const text = example.replace(
      /import \{ (.*) \} from "batchnorm-wasm";/,
      'import library = require("batchnorm-wasm");\nconst { $1 } = library;',
    );
    expect(text).not.toBe(example);
    const options = { ...NODE, ...JAVASCRIPT, verbatimModuleSyntax: true };
    expect(complaints("require.cts", `${text}${uses}`, options)).toEqual([]);
  });

  it.each([
    ["by a reference", '/// <reference types="batchnorm-wasm/global" />\n', BUNDLER],
    ["by the compiler's option", "", { ...BUNDLER, types: ["batchnorm-wasm/global"] }],
  ])("a script of a page, which finds the global %s", (_, head, options) => {
    const text = example.replace(/import \{ (.*) \} from "batchnorm-wasm";/, "const { $1 } = batchnormWasm;");
    expect(text).not.toBe(example);
    expect(complaints("script.ts", `${head}${text}${uses}`, { ...options, ...JAVASCRIPT })).toEqual([]);
  });

  it.each([
    ["an ES module in Node", "tfjs.mts", NODE],
    ["a bundler's module", "tfjs.ts", BUNDLER],
    ["a CommonJS module", "tfjs.cts", NODE],
  ])("%s: the example of docs/guides/tfjs.md compiles", (_, name, options) => {
    const docs = readFileSync(new URL("../../docs/guides/tfjs.md", import.meta.url), "utf8");
    const example = /```ts\n([\s\S]*?)```/.exec(docs)?.[1] ?? "";
    expect(example).toContain('from "batchnorm-wasm/tfjs"');
    const wrong = '\n// @ts-expect-error: an axis is a number\nbatchNormalization({ axis: "last" });\n';
    // TF.js's own declarations do not pass every check
    const text = name.endsWith("cts") ? example.replaceAll("await ", "") : example;
    expect(complaints(name, `export {};\n${text}${wrong}`, { ...options, skipLibCheck: true })).toEqual([]);
  });

  it.each([
    ["an ES module in Node", "core.mts", NODE],
    ["a bundler's module", "core.ts", BUNDLER],
    ["a CommonJS module that imports", "core.cts", NODE],
  ])("%s: the small entry has the README's example, and not what it lacks", (_, name, options) => {
    const text = example.replace('"batchnorm-wasm"', '"batchnorm-wasm/core"');
    expect(text).not.toBe(example);
    const lacks = `
// @ts-expect-error: no activations
new BatchNorm(8, { activation: "relu" });
// @ts-expect-error: float32 alone
bn.forward({ data: new Float64Array(8), shape: [1, 8] });
// @ts-expect-error: no masks
bn.forward(prediction, { mask: [true] });
// @ts-expect-error: no state dicts
bn.train().stateDict();
`;
    expect(complaints(name, `${text}${uses}${lacks}`, { ...options, ...JAVASCRIPT })).toEqual([]);
  });

  it("the small entry's declarations do not mention what it lacks", () => {
    const text = readFileSync(join(library, "dist/core.d.ts"), "utf8").replace(/type BatchNormErrorCode = [^;]+;/, "");
    expect(text).toContain("batchNormForward");
    expect(text).not.toMatch(
      /activation|negativeSlope|residual|mask|renorm|dtype|float16|stateDict|toAffine|extended/i,
    );
  });

  it("a .wasm file is a WebAssembly.Module", () => {
    const text = `import { init } from "batchnorm-wasm";
import module from "batchnorm-wasm/simd.wasm";
import extended from "batchnorm-wasm/extended.wasm";
await init({ module, extended });
// @ts-expect-error: not bytes
const bytes: Uint8Array = module;
export { bytes };
`;
    expect(complaints("wasm.mts", text, NODE)).toEqual([]);
  });

  const ES2022 = "lib.es2022.d.ts";
  const LIBRARIES = {
    "es2022 alone": [ES2022],
    "es2022 and dom": [ES2022, "lib.dom.d.ts"],
    "es2022 and Symbol.dispose": [ES2022, "lib.esnext.disposable.d.ts"],
    "all of esnext, dom and Node's types": ["lib.esnext.d.ts", "lib.dom.d.ts"],
  };
  const RESOLUTIONS: Record<string, readonly [string, ts.CompilerOptions]> = {
    "node16, import": ["everything.mts", NODE16],
    "node16, require": ["everything.cts", NODE16],
    "bundler, import": ["everything-bundler.ts", BUNDLER],
    "node10, import": ["everything-10.ts", NODE10],
    "node10, require": ["everything-10-commonjs.ts", NODE10_COMMONJS],
  };
  const PROGRAM = `import { BatchNorm, type InitOptions, Tensor, createMessagePorts, init, tensor } from "batchnorm-wasm";
import { BatchNorm as Core, batchNormForward } from "batchnorm-wasm/core";
import { mpiGroup } from "batchnorm-wasm/mpi";
import { bytesSource, inspect } from "batchnorm-wasm/tools";
import module from "batchnorm-wasm/simd.wasm";
import extended from "batchnorm-wasm/extended.wasm";
export const options: InitOptions = { module, extended, threads: 2 };
export const x = tensor([2, 3], [1, 2, 3, 4, 5, 6]);
export const values: Float32Array = new BatchNorm(3).forward(x).data;
export const shape: readonly number[] = new Core(3).forward({ data: values, shape: [2, 3] }).shape;
export const port: object | undefined = createMessagePorts(2)[0]?.ports[0];
export const mean: Float64Array = batchNormForward(x).mean;
export const started: Promise<void> = init(options);
x[Symbol.dispose]();
// @ts-expect-error: a tensor is made by tensor()
export const made = new Tensor();
// @ts-expect-error: the number of threads is a number or "auto"
export const wrong: InitOptions = { threads: "2" };
export { mpiGroup };
export const codes: Promise<string[]> = inspect(bytesSource("a", new Uint8Array(8))).then(({ findings }) => findings.map(({ code }) => code));
`;

  describe.each(Object.entries(RESOLUTIONS))("moduleResolution %s", (_, [name, options]) => {
    it.each(Object.entries(LIBRARIES))("lib %s: a program with every entry passes all checks", (library, lib) => {
      const types = library.includes("Node") ? ["node"] : [];
      const typeRoots = [fileURLToPath(new URL("../../node_modules/@types", import.meta.url))];
      // Node cannot require a .wasm file, and the compiler says so
      const text = name.endsWith(".cts")
        ? PROGRAM.replace(/import (\w+) from .*wasm";/g, "declare const $1: object;")
        : PROGRAM;
      expect(complaints(name, text, { ...options, lib, types, typeRoots })).toEqual([]);
    });

    it("the entry for TF.js passes all checks", () => {
      const text =
        'import { batchNormalization } from "batchnorm-wasm/tfjs";\nexport const layer = batchNormalization();\n';
      const all = diagnostics(`tfjs-${name}`, text, { ...options, lib: LIBRARIES["es2022 and dom"] });
      // TF.js's own declarations, and those that they name, do not
      const ours = all.filter(({ file }) => /batchnorm-wasm|consumer/.test(file?.fileName ?? "consumer"));
      expect(ours.map((d) => ts.flattenDiagnosticMessageText(d.messageText, "\n"))).toEqual([]);
    });
  });

  /** Top-level declarations of a file, and the names that it exports, with what they are called inside. */
  function namesOf(entry: string) {
    const text = readFileSync(join(library, `dist/${entry}.d.ts`), "utf8");
    const source = ts.createSourceFile("index.d.ts", text, ts.ScriptTarget.ES2022, true);
    const exported = new Map<string, string>();
    const values: string[] = [];
    const declared = new Map<string, ts.Node[]>();
    const declare = (name: ts.Node | undefined, node: ts.Node) =>
      name && declared.set(name.getText(), [...(declared.get(name.getText()) ?? []), node]);
    for (const statement of source.statements)
      if (ts.isExportDeclaration(statement)) {
        for (const { name, propertyName } of (statement.exportClause as ts.NamedExports).elements) {
          exported.set((propertyName ?? name).text, name.text);
          if (!statement.isTypeOnly) values.push(name.text);
        }
      } else if (ts.isVariableStatement(statement))
        for (const variable of statement.declarationList.declarations) declare(variable.name, variable);
      else declare((statement as ts.DeclarationStatement).name, statement);
    return { lines: text.trimEnd().split("\n").length, exported, values, declared };
  }

  it.each(["index", "core", "tfjs", "mpi", "tools"])(
    "%s.d.ts: every type that a public signature names is exported",
    (entry) => {
      const { exported, declared } = namesOf(entry);
      const missing: string[] = [];
      const visit = (node: ts.Node): void => {
        if (ts.isHeritageClause(node)) return; // an editor shows what is inherited
        if (ts.isTypeReferenceNode(node)) {
          const name = node.typeName.getText();
          if (declared.has(name) && !exported.has(name)) missing.push(name);
        }
        ts.forEachChild(node, visit);
      };
      // what the two hold is for backward alone to read
      for (const name of exported.keys())
        if (!["Saved", "SavedNorm"].includes(name)) for (const node of declared.get(name) ?? []) visit(node);
      expect([...new Set(missing)]).toEqual([]);
      expect(exported.size).toBeGreaterThan(1);
    },
  );

  it.each(["index", "core", "tfjs", "mpi", "tools"])(
    "%s.d.ts: declares the values that there are, and no others",
    async (entry) => {
      const { values } = namesOf(entry);
      const required = createRequire(join(consumer, "x.js"))(join(library, `dist/${entry}.cjs`));
      expect(values.sort()).toEqual(Object.keys(required).sort());
    },
  );

  it("index.d.ts has no internals: fewer than 1,400 lines, and nothing of wasm memory", () => {
    const { lines, declared } = namesOf("index");
    expect(lines).toBeLessThan(1400);
    for (const name of ["Heap", "Kernels", "Pool", "Plan", "Exports", "Build"])
      expect([...declared.keys()]).not.toContain(name);
  });

  it("with lib dom, a module is a WebAssembly.Module, and a port a MessagePort", () => {
    const text = `import { type InitOptions, type Port } from "batchnorm-wasm";
import module from "batchnorm-wasm/simd.wasm";
type Same<A, B> = [A, B] extends [B, A] ? true : false;
export const port: Same<Port, MessagePort> = true;
declare global { namespace WebAssembly { interface Module { brand: 1 } } }
export const modules: Same<InitOptions["module"], WebAssembly.Module | undefined> = true;
export const raw: Same<typeof module, WebAssembly.Module> = true;
// @ts-expect-error: not bytes
export const options: InitOptions = { module: new Uint8Array() };
`;
    const options = { ...NODE, exactOptionalPropertyTypes: false };
    expect(complaints("dom.mts", text, options)).toEqual([]);
  });

  it("a mistake would be found", () => {
    const text = `import { BatchNorm } from "batchnorm-wasm";\nexport const bn = new BatchNorm("64");\n`;
    expect(complaints("mistake.mts", text, NODE)).toEqual([expect.stringContaining("not assignable")]);
  });
});

it("the program runs with nothing installed beside it, and has the licences of what is bundled", () => {
  const file = join(library, description.bin["batchnorm-wasm"]);
  expect(readFileSync(file, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
  const { stdout, stderr, status } = spawnSync(process.execPath, [file, "--version"], { encoding: "utf8" });
  expect([stdout, stderr, status]).toEqual([`${description.version}\n`, "", 0]);
  const licences = readFileSync(join(library, "dist/cli.licences.txt"), "utf8");
  for (const name of ["commander", "@jsquash/jpeg", "@observablehq/plot", "d3-scale", "linkedom"])
    expect(licences).toMatch(new RegExp(`^${name} \\d+\\.\\d+\\.\\d+$`, "m"));
  expect(licences).toContain("libjpeg-turbo Licenses"); // of what @jsquash/jpeg has compiled
});

it("package.json needs nothing installed besides", () => {
  for (const field of ["dependencies", "optionalDependencies", "bundleDependencies"])
    expect(description[field]).toBeUndefined();
  const optional = Object.fromEntries(
    Object.keys(description.peerDependencies).map((name) => [name, { optional: true }]),
  );
  expect(description.peerDependenciesMeta).toEqual(optional);
  for (const script of ["preinstall", "install", "postinstall"]) expect(description.scripts[script]).toBeUndefined();
  expect(existsSync(join(library, "node_modules"))).toBe(false);
});
