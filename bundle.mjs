// Makes dist/ from src/ and build/: for each kind of host (package.json, "exports") one file, and its declarations.

import { readFile, rm, writeFile } from "node:fs/promises";
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
 * Bytes as text: the first of `order` stand as one plain character, the others as a mark and another. Unlike base64 it
 * keeps bytes apart, so that gzip finds in the text what it finds in the bytes: 6.7 kB for the two builds of the core,
 * 16.5 kB in base64.
 */
function encode(bytes, order) {
  const text = (byte) => {
    const i = order.indexOf(byte);
    const mark = Math.floor(i / PLAIN.length) - 1;
    return (MARKS[mark] ?? "") + PLAIN[i % PLAIN.length];
  };
  return Array.from(bytes, text).join("");
}

/** A .wasm file as a function that returns its bytes (src/wasm.d.ts). */
const wasmAsText = {
  name: "wasm-as-text",
  async setup({ onLoad, onResolve }) {
    // one order for all: what two builds share stays the same text
    const order = byFrequency(await readFile("build/simd.wasm"));
    const text = (name, value) => `export const ${name} = ${JSON.stringify(value)};`;
    const frequent = Buffer.from(order.slice(0, PLAIN.length)).toString("hex");
    const alphabet = [text("plain", PLAIN), text("marks", MARKS), text("frequent", frequent)];
    onResolve({ filter: /^alphabet$/ }, ({ path }) => ({ path, namespace: "alphabet" }));
    onLoad({ filter: /./, namespace: "alphabet" }, () => ({ contents: alphabet.join("\n") }));
    onLoad({ filter: /\.wasm$/ }, async ({ path }) => ({
      contents: `import { frequent, marks, plain } from "alphabet";
        import { decode } from "./src/wasm/decode.ts";
        export default () => decode(plain, marks, frequent, ${JSON.stringify(encode(await readFile(path), order))});`,
      resolveDir: import.meta.dirname,
    }));
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
]);

// the same for Next, to which a .wasm file is a module where its import says so
for (const [, name] of ENTRIES) {
  const edge = await readFile(`dist/${name}.edge.js`, "utf8");
  await writeFile(`dist/${name}.edge-light.js`, edge.replaceAll(/(from "\.\.\/build\/\w+\.wasm)"/g, '$1?module"'));
}

for (const [file, name] of [...ENTRIES, ["tfjs/index.ts", "tfjs"], ["mpi.ts", "mpi"]]) {
  const declarations = await rollup({
    input: `src/${file}`,
    external: /^@tensorflow/,
    plugins: [dts({ tsconfig: "src/tsconfig.json" })],
  });
  const { output } = await declarations.generate({ format: "esm" });
  for (const extension of ["ts", "cts"]) await writeFile(`dist/${name}.d.${extension}`, output[0].code);
}
await writeFile("dist/batchnorm-wasm.global.d.ts", 'export * from "./index.js";\nexport as namespace batchnormWasm;\n');
await writeFile("dist/wasm.d.ts", "declare const module: WebAssembly.Module;\nexport default module;\n");
