// Makes dist/ from src/ and build/: for each kind of host (package.json, "exports") one file, and its declarations.

import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { build } from "esbuild";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

/** Characters that stand in a string as they are, whatever minifies it; two more mark bytes that take a second one. */
const MARKS = "~^";
const PLAIN = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i))
  .filter((c) => !`"'\`\\$${MARKS}`.includes(c))
  .join("");

/** All bytes: the most frequent of some first, one for each plain character, then the others as they come. */
function byFrequency(bytes) {
  const times = new Array(256).fill(0);
  for (const byte of bytes) times[byte]++;
  const first = [...times.keys()].sort((a, b) => times[b] - times[a]).slice(0, PLAIN.length);
  return [...first, ...times.keys()].filter((byte, i, all) => all.indexOf(byte) === i);
}

/**
 * Returns bytes as text: the first of `order` become one plain character, the others a mark and a character. Unlike
 * base64, it keeps bytes apart, so that gzip finds in the text what it finds in the bytes.
 */
function encode(bytes, order) {
  const text = (byte) => {
    const i = order.indexOf(byte);
    const mark = Math.floor(i / PLAIN.length) - 1;
    return (MARKS[mark] ?? "") + PLAIN[i % PLAIN.length];
  };
  return Array.from(bytes, text).join("");
}

/** The least number of bytes that are copied from another build: naming a shorter piece takes as long as its bytes. */
const LEAST_COPY = 6;

/** Returns a function that finds the longest piece of `base` with which `bytes` continue at an index. */
function copiesFrom(base) {
  const starts = new Map();
  const key = (bytes, at) => bytes.toString("latin1", at, at + LEAST_COPY);
  for (let at = 0; at + LEAST_COPY <= base.length; at++)
    starts.set(key(base, at), [...(starts.get(key(base, at)) ?? []), at]);
  return (bytes, at) => {
    let longest = { from: 0, length: 0 };
    for (const from of starts.get(key(bytes, at)) ?? []) {
      let length = 0;
      while (at + length < bytes.length && bytes[at + length] === base[from + length]) length++;
      if (length > longest.length) longest = { from, length };
    }
    return longest;
  };
}

/**
 * Returns `bytes` as their difference from `base`, in the form that `patch` of src/wasm/decode.ts explains. The
 * text is 1.2 kB long instead of 24 kB. After gzip, which finds common code itself, a page has 0.2 kB less.
 */
function difference(base, bytes) {
  const edits = [];
  const write = (number) => {
    for (; number > 127; number >>>= 7) edits.push((number & 127) | 128);
    edits.push(number);
  };
  const copyAt = copiesFrom(base);
  let [behind, literal] = [0, []];
  const writeEdit = ({ from, length }) => {
    write(literal.length);
    edits.push(...literal);
    const distance = from - behind;
    write(distance < 0 ? -2 * distance - 1 : 2 * distance);
    write(length);
    [behind, literal] = [from + length, []];
  };
  for (let at = 0; at < bytes.length; ) {
    const copy = copyAt(bytes, at);
    if (copy.length > 0) {
      writeEdit(copy);
      at += copy.length;
    } else literal.push(bytes[at++]);
  }
  writeEdit({ from: behind, length: 0 });
  return Buffer.from(edits);
}

/** Returns a module without its custom sections: the package knows which build it embeds, so that pages need none. */
function withoutCustomSections(bytes) {
  const kept = [bytes.subarray(0, 8)];
  for (let at = 8; at < bytes.length; ) {
    const start = at++;
    let size = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      size |= (bytes[at] & 127) << shift;
      more = bytes[at++] > 127;
    }
    at += size;
    if (bytes[start] !== 0) kept.push(bytes.subarray(start, at));
  }
  return Buffer.concat(kept);
}

/** A .wasm file as a function that returns its bytes (src/wasm.d.ts). */
const wasmAsText = {
  name: "wasm-as-text",
  async setup({ onLoad, onResolve }) {
    const simd = withoutCustomSections(await readFile("build/simd.wasm"));
    const order = byFrequency(simd);
    const text = (name, value) => `export const ${name} = ${JSON.stringify(value)};`;
    const frequent = Buffer.from(order.slice(0, PLAIN.length)).toString("hex");
    const alphabet = [text("plain", PLAIN), text("marks", MARKS), text("frequent", frequent)];
    onResolve({ filter: /^alphabet$/ }, ({ path }) => ({ path, namespace: "alphabet" }));
    onLoad({ filter: /./, namespace: "alphabet" }, () => ({ contents: alphabet.join("\n") }));
    const decoded = (bytes) => `decode(plain, marks, frequent, ${JSON.stringify(encode(bytes, order))})`;
    onLoad({ filter: /\.wasm$/ }, async ({ path }) => {
      const bytes = withoutCustomSections(await readFile(path));
      const module =
        basename(path) === "relaxed.wasm" ? `patch(simd(), ${decoded(difference(simd, bytes))})` : decoded(bytes);
      return {
        contents: `import { frequent, marks, plain } from "alphabet";
          import { decode, patch } from "./src/wasm/decode.ts";
          ${module.startsWith("patch") ? 'import simd from "./build/simd.wasm";' : ""}
          export default () => ${module};`,
        resolveDir: import.meta.dirname,
      };
    });
  },
};

/**
 * For hosts that compile no bytes: .wasm files stay imports, which such a host compiles itself. It would refuse the whole
 * program for one that it cannot compile, so the build with relaxed SIMD is left out.
 */
const wasmAsModule = {
  name: "wasm-as-module",
  setup({ onLoad, onResolve }) {
    onLoad({ filter: /\.wasm$/ }, ({ path }) => {
      const file = basename(path);
      if (file === "relaxed.wasm") return { contents: "export default undefined;" };
      return { contents: `import module from "beside:${file}"; export default () => module;` };
    });
    onResolve({ filter: /^beside:/ }, ({ path }) => ({ path: path.replace("beside:", "../build/"), external: true }));
  },
};

/**
 * The text of the kernels stands before all code: in its midst it would put the code before it out of gzip's sight, which
 * reaches 32 KiB back, and cost a page 0.9 kB.
 */
const kernelsFirst = {
  name: "kernels-first",
  setup({ onResolve }) {
    onResolve({ filter: /^first:/ }, ({ path }) => ({
      path: resolve("build", path.slice("first:".length)),
      sideEffects: true, // nothing else keeps an import that nobody uses
    }));
  },
};

const entry = (file) => ({
  stdin: {
    contents: `import "first:simd.wasm"; import "first:relaxed.wasm"; export * from "./src/${file}";`,
    resolveDir: import.meta.dirname,
  },
  bundle: true,
  platform: "neutral",
  target: "es2022",
  sourcemap: true,
  logLevel: "warning",
  loader: { ".txt": "text" },
  plugins: [kernelsFirst, wasmAsText],
});

/** For users of TF.js, which is theirs: kernels included, so that a page needs no other entry beside it. */
const tfjs = { ...entry("tfjs/index.ts"), external: ["@tensorflow/*"] };

/** Has no kernels: a group works for every copy of the package. koffi is its user's. */
const mpi = {
  ...entry("mpi.ts"),
  stdin: undefined,
  entryPoints: ["src/mpi.ts"],
  platform: "node",
  external: ["koffi"],
};

/** Functions for model files. They run no kernels. */
const tools = { ...entry("tools/index.ts"), stdin: undefined, entryPoints: ["src/tools/index.ts"] };

/** The decoders of images, which the program has in itself, as the bytes that they are. */
const decodersAsBytes = {
  name: "decoders-as-bytes",
  setup({ onLoad }) {
    const filter = /@jsquash.+\.wasm$/;
    onLoad({ filter }, async ({ path }) => ({ contents: await readFile(path), loader: "binary" }));
  },
};

/** The program, with all that it needs. Its packages are in CommonJS partly, and require Node's own modules. */
const cli = {
  ...tools,
  entryPoints: ["src/cli.ts"],
  platform: "node",
  target: "node20",
  minify: true,
  sourcemap: false,
  metafile: true,
  plugins: [decodersAsBytes, ...tools.plugins],
  define: { VERSION: JSON.stringify(JSON.parse(await readFile("package.json", "utf8")).version) },
  banner: {
    js: '#!/usr/bin/env node\nimport{createRequire as makeRequire}from"node:module";const require=makeRequire(import.meta.url);',
  },
};

/** Returns the licences of the packages in a bundle, which they ask to keep with copies of them. */
async function licences({ inputs }) {
  const folders = new Set(
    Object.keys(inputs).flatMap((path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? []),
  );
  const texts = [...folders].sort().map(async (folder) => {
    // a package may have a licence of its own, and another one of what it has compiled
    const all = await readdir(folder, { recursive: true });
    const files = all.filter((name) => /^(?!.*node_modules).*\blicen[cs]e[^/]*$/i.test(name)).sort();
    const { name, version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    if (!files.length && !license) throw new Error(`${name} has no licence`);
    const contents = await Promise.all(files.map((file) => readFile(`${folder}/${file}`, "utf8")));
    return `${name} ${version}\n\n${contents.map((text) => text.trim()).join("\n\n") || license}\n`;
  });
  return (await Promise.all(texts)).join(`\n${"-".repeat(80)}\n\n`);
}

/** The complete entry and the small one, with their names in dist/. Each is there for every kind of host. */
const ENTRIES = [
  ["index.ts", "index"],
  ["core.ts", "core"],
];

await rm("dist", { recursive: true, force: true });
await Promise.all([
  ...ENTRIES.flatMap(([file, name]) => [
    build({ ...entry(file), format: "esm", outfile: `dist/${name}.js` }),
    build({ ...entry(file), format: "cjs", outfile: `dist/${name}.cjs` }),
    build({ ...entry(file), format: "esm", plugins: [kernelsFirst, wasmAsModule], outfile: `dist/${name}.edge.js` }),
  ]),
  build({
    ...entry("index.ts"),
    format: "iife",
    globalName: "batchnormWasm",
    minify: true,
    outfile: "dist/batchnorm-wasm.global.js",
  }),
  build({ ...tfjs, format: "esm", outfile: "dist/tfjs.js" }),
  build({ ...tfjs, format: "cjs", outfile: "dist/tfjs.cjs" }),
  build({ ...mpi, format: "esm", outfile: "dist/mpi.js" }),
  build({ ...mpi, format: "cjs", outfile: "dist/mpi.cjs" }),
  build({ ...tools, format: "esm", outfile: "dist/tools.js" }),
  build({ ...tools, format: "cjs", outfile: "dist/tools.cjs" }),
  build({ ...cli, format: "esm", outfile: "dist/cli.js" }).then(async ({ metafile }) =>
    writeFile("dist/cli.licences.txt", await licences(metafile)),
  ),
]);

// the same for Next, to which a .wasm file is a module where its import says so
for (const [, name] of ENTRIES) {
  const edge = await readFile(`dist/${name}.edge.js`, "utf8");
  await writeFile(`dist/${name}.edge-light.js`, edge.replaceAll(/(from "\.\.\/build\/\w+\.wasm)"/g, '$1?module"'));
}

/** Prints object types without comments on one line each, as the compiler does with all that surrounds them. */
function compact(code) {
  const onOneLine = (_, members) => `{ ${members.trim().replace(/\s*\n\s*/g, " ")} }`;
  const compacted = code.replace(/\{\n((?:\s+[^\n{}*/]+(?:\{[^\n{}]*\}[^\n{}*/]*)?;\n)+)\s*\}/g, onOneLine);
  return compacted === code ? code.replaceAll("\n\n", "\n") : compact(compacted); // types inside types
}

/** Lib es2022 has no Symbol.dispose. Where the library has it, the two declarations merge, as with @types/node. */
const SYMBOL_DISPOSE = `declare global {
    interface SymbolConstructor {
        readonly dispose: unique symbol;
    }
}
`;

/** The declaration of a .wasm file, with the type of src/common/globals.ts. */
const WASM_MODULE = `type WasmModule = typeof globalThis extends Record<"WebAssembly", Record<"Module", Record<"prototype", infer M>>> ? M : object;
declare const module: WasmModule;
export default module;
`;

for (const [file, name] of [...ENTRIES, ["tfjs/index.ts", "tfjs"], ["mpi.ts", "mpi"], ["tools/index.ts", "tools"]]) {
  const declarations = await rollup({
    input: `src/${file}`,
    external: /^@tensorflow/,
    plugins: [dts({ tsconfig: "src/tsconfig.json" })],
  });
  const { output } = await declarations.generate({ format: "esm" });
  const code = compact(output[0].code);
  const text = code.includes("Symbol.dispose") ? `${code}\n${SYMBOL_DISPOSE}` : code;
  for (const extension of ["ts", "cts"]) await writeFile(`dist/${name}.d.${extension}`, text);
}
await writeFile("dist/batchnorm-wasm.global.d.ts", 'export * from "./index.js";\nexport as namespace batchnormWasm;\n');
await writeFile("dist/wasm.d.ts", WASM_MODULE);
