// The soak: long runs of random calls, of pools that are opened, closed and raced, of workers that are killed and of memory
// that ends. `npm run soak` takes some minutes, and with --write its figures go into docs/results/reliability.md. CI runs --short,
// which judges no time. This program bundles soak.ts, runs it in a process of its own, and ends that process if it hangs.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { markdownTable } from "markdown-table";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    steps: { type: "string" },
    tensors: { type: "string" },
    pools: { type: "string" },
    failures: { type: "string" },
    only: { type: "string" },
    short: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

/** What a run does: steps of training and evaluation, tensors, pools, and calls that may find no memory. */
const SIZES = values.short
  ? { steps: 20_000, tensors: 20_000, pools: 60, failures: 4000 }
  : { steps: 1_000_000, tensors: 100_000, pools: 1000, failures: 100_000 };

/** A part that prints nothing for so many milliseconds hangs. Parts print after each hundredth of their work. */
const SILENCE = 120_000;

const root = fileURLToPath(new URL("../../", import.meta.url));
const outfile = `${root}build/soak.mjs`;
await build({
  entryPoints: [`${root}test/soak/soak.ts`],
  outfile,
  bundle: true,
  format: "esm",
  platform: "node",
  target: "es2022",
  loader: { ".txt": "text" },
  plugins: [
    {
      name: "wasm-as-base64",
      setup({ onLoad }) {
        onLoad({ filter: /\.wasm$/ }, ({ path }) => ({
          contents: `export default () => Uint8Array.from(Buffer.from("${readFileSync(path).toString("base64")}", "base64"));`,
        }));
      },
    },
  ],
});

const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed);
const sizes = Object.fromEntries(Object.entries(SIZES).map(([name, size]) => [name, Number(values[name] ?? size)]));
const parts = values.only?.split(",") ?? Object.keys(SIZES);
const options = { seed, sizes, parts, judgeTime: !values.short };
console.log(`soak: --seed ${seed}, ${parts.map((part) => `${sizes[part]} ${part}`).join(", ")}`);

const child = spawn(process.execPath, ["--expose-gc", outfile, JSON.stringify(options)], {
  stdio: ["ignore", "pipe", "inherit"],
});
let last = "the start";
let timer;
const watch = () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    console.error(`soak: nothing for ${SILENCE} ms after ${last}: it hangs (--seed ${seed})`);
    child.kill("SIGKILL");
  }, SILENCE);
};
watch();
const found = [];
createInterface({ input: child.stdout }).on("line", (line) => {
  const message = JSON.parse(line);
  if (message.row) found.push(message.row);
  if (message.row || message.tenth) console.log(message.row ? message.row.join(" | ") : message.at);
  last = message.at ?? last;
  watch();
});
const [code] = await once(child, "close");
clearTimeout(timer);
if (code !== 0) {
  console.error(`soak: failed after ${last}; to repeat it: npm run soak -- --seed ${seed}`);
  process.exit(1);
}

if (values.write) {
  const document = `${root}docs/results/reliability.md`;
  const [begin, end] = ["<!-- soak:begin -->", "<!-- soak:end -->"];
  const [head, rest] = readFileSync(document, "utf8").split(begin);
  const tail = rest?.split(end)[1];
  if (tail === undefined) throw new Error(`${document}: expected the marks ${begin} and ${end}`);
  const table = markdownTable([["part", "done", "failed on purpose, state as promised", "level at the end"], ...found]);
  const where = `Node ${process.version.slice(1)}, ${availableParallelism()} processors, seed ${seed}.`;
  writeFileSync(document, `${head}${begin}\n${table}\n\n${where}\n${end}${tail}`);
}
