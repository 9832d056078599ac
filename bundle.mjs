// Makes dist/ from src/ and build/: for each kind of host (package.json, "exports") one file, and its declarations.

import { readFile, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { build } from "esbuild";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

/** Characters that stand in a string as they are, whatever minifies it. */
const PLAIN = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).filter((c) => !"\"'`\\$~".includes(c));

/** The most frequent bytes first, as many as there are plain characters. */
function frequent(bytes) {
  const times = new Array(256).fill(0);
  for (const byte of bytes) times[byte]++;
  const order = [...times.keys()].sort((a, b) => times[b] - times[a]);
  return order.slice(0, PLAIN.length);
}

/**
 * Bytes as text: the frequent ones stand as one plain character, the others as "~" and two hexadecimal digits. Unlike base64
 * it keeps bytes apart, so that gzip finds in the text what it finds in the bytes: 6.7 kB for the two builds of the core,
 * 16.5 kB in base64.
 */
function encode(bytes, order) {
  const text = (byte) => {
    const i = order.indexOf(byte);
    return i < 0 ? `~${byte.toString(16).padStart(2, "0")}` : PLAIN[i];
  };
  return Array.from(bytes, text).join("");
}

/** A .wasm file as a function that returns its bytes (src/wasm.d.ts). */
const wasmAsText = {
  name: "wasm-as-text",
  setup({ onLoad }) {
    onLoad({ filter: /\.wasm$/ }, async ({ path }) => {
      // one order for all: what two builds share stays the same text
      const order = frequent(await readFile("build/simd.wasm"));
      const alphabet = JSON.stringify([PLAIN.join(""), order]);
      const text = JSON.stringify(encode(await readFile(path), order));
      return {
        contents: `import { decode } from "./src/text.ts"; export default () => decode(...${alphabet}, ${text});`,
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

const shared = { bundle: true, platform: "neutral", target: "es2022", sourcemap: true, logLevel: "warning" };
const inlined = { ...shared, plugins: [wasmAsText], loader: { ".txt": "text" } };

await rm("dist", { recursive: true, force: true });
await Promise.all([
  build({ ...inlined, entryPoints: ["src/index.ts"], format: "esm", outfile: "dist/index.js" }),
  build({ ...inlined, entryPoints: ["src/index.ts"], format: "cjs", outfile: "dist/index.cjs" }),
  build({
    ...inlined,
    entryPoints: ["src/index.ts"],
    format: "iife",
    globalName: "batchnormWasm",
    minify: true,
    outfile: "dist/batchnorm-wasm.global.js",
  }),
  build({
    ...shared,
    plugins: [wasmAsModule],
    loader: { ".txt": "text" },
    entryPoints: ["src/index.ts"],
    format: "esm",
    outfile: "dist/edge.js",
  }),
]);

// the same for Next, to which a .wasm file is a module where its import says so
const edge = await readFile("dist/edge.js", "utf8");
await writeFile("dist/edge-light.js", edge.replaceAll(/(from "\.\.\/build\/\w+\.wasm)"/g, '$1?module"'));

const declarations = await rollup({ input: "src/index.ts", plugins: [dts({ tsconfig: "src/tsconfig.json" })] });
const { output } = await declarations.generate({ format: "esm" });
await writeFile("dist/index.d.ts", output[0].code);
await writeFile("dist/index.d.cts", output[0].code);
await writeFile("dist/batchnorm-wasm.global.d.ts", 'export * from "./index.js";\nexport as namespace batchnormWasm;\n');
await writeFile("dist/wasm.d.ts", "declare const module: WebAssembly.Module;\nexport default module;\n");
