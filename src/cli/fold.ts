// The command `fold`.

import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { formatOf } from "../tools/formats/index.ts";
import {
  type ByteSource,
  bytesSource,
  type FoldedOnnx,
  type FoldPair,
  type FoldReport,
  findPairs,
  foldOnnx,
  foldPairs,
  foldText,
  type Patch,
} from "../tools/index.ts";
import { plural, printable } from "../tools/report/text.ts";
import type { Difference } from "./differences.ts";
import { OpenFiles } from "./file-source.ts";
import { foldTfjs } from "./fold-tfjs.ts";
import { type Content, checkOutput, jsonText, writeOutputs } from "./output.ts";
import { BytesProgress, type Progress } from "./progress.ts";
import { loadTfjs } from "./tfjs.ts";
import { reasonOf, UsageError } from "./usage.ts";
import { compare, loadRuntime } from "./verify.ts";
import { compareTfjs } from "./verify-tfjs.ts";

const EXAMPLE = `
Examples:
  $ npx batchnorm-wasm fold model.onnx folded.onnx --verify
  $ npx batchnorm-wasm fold model.json folded/model.json
  $ npx batchnorm-wasm fold in.safetensors out.safetensors --pair conv1:bn1

A model.json is read in the TF.js of the project in the current folder:
npm install @tensorflow/tfjs.

Batch norms that cannot be folded stay in the model, and the report says why.
The exit code is 0 if the model has been written, 1 if --verify finds outputs
that differ by more than 1e-3 of the largest element, or 0.05 in float16, and
2 for wrong arguments and for files that cannot be read.`;

interface FoldCommandOptions {
  readonly force?: boolean;
  readonly verify?: boolean;
  readonly json?: boolean;
  readonly tolerance?: number;
  readonly pair?: FoldPair[];
  readonly pairs?: string;
  readonly epsilon?: number;
}

/** Bytes that are copied at once. */
const BLOCK = 2 ** 24;

/** Reads a file by blocks, with other bytes in some places. */
async function* patched(source: ByteSource, patches: readonly Patch[]): AsyncGenerator<Uint8Array> {
  for (let begin = 0; begin < source.size; begin += BLOCK) {
    const end = Math.min(begin + BLOCK, source.size);
    const block = await source.read(begin, end);
    for (const { begin: at, bytes } of patches) {
      const [from, to] = [Math.max(at, begin), Math.min(at + bytes.length, end)];
      if (from < to) block.set(bytes.subarray(from - at, to - at), from - begin);
    }
    yield block;
  }
}

async function whole(source: ByteSource, patches: readonly Patch[] = []): Promise<Uint8Array> {
  const bytes = new Uint8Array(source.size);
  let at = 0;
  for await (const block of patched(source, patches)) {
    bytes.set(block, at);
    at += block.length;
  }
  return bytes;
}

/** Runs the two models, and returns how their outputs differ. */
async function verify(source: ByteSource, { model, originalFiles, external }: FoldedOnnx): Promise<Difference[]> {
  const runtime = await loadRuntime();
  const [before, after] = [new Map<string, Uint8Array>(), new Map<string, Uint8Array>()];
  for (const file of originalFiles) before.set(file, await whole(await source.sibling(file)));
  for (const [file, patches] of external) after.set(file, await whole(await source.sibling(file), patches));
  return compare(runtime, { bytes: await whole(source), files: before }, { bytes: model, files: after });
}

/** The difference, relative to the largest element, from which on the exit code is 1. */
const limitOf = ({ type }: Difference) => (type === "float16" ? 0.05 : 1e-3);

const relative = ({ difference, size }: Difference) => (difference === 0 ? 0 : difference / size);

/** Returns how the outputs differ, beside what the report expects of single layers. */
function textOf(differences: readonly Difference[], { folded }: FoldReport): string {
  const largest = Math.max(0, ...folded.map(({ expectedError }) => expectedError));
  const lines = differences.map(
    (d) =>
      `verified: ${printable(d.output)} differs by at most ${relative(d).toExponential(1)} of its largest element\n`,
  );
  return `${lines.join("")}expected: at most ${largest.toExponential(1)} of an output's size in a single layer\n`;
}

/** Returns a parser of an option that is a number from 0 up to, not including, `end`. */
const numberOf = (option: string, example: string, end: number) => (text: string) => {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0 && value < end))
    throw new UsageError(
      `${option}: expected a number from 0 ${end === Infinity ? "on" : `up to ${end}`}, got ${text}; leave it out, or pass ${example}`,
    );
  return value;
};

/** Returns a pair of a text such as "conv1:bn1". */
function pairOf(option: string, text: string): FoldPair {
  const [, layer, batchNorm] = /^([^:]+):([^:]+)$/.exec(text.trim()) ?? [];
  if (layer === undefined || batchNorm === undefined)
    throw new UsageError(`${option}: expected names of a layer and of a batch norm, as conv1:bn1, got ${text}`);
  return { layer, batchNorm };
}

/** Adds the command to a program. `exit` takes the exit code. */
export function addFold(program: Command, exit: (code: number) => void): void {
  program
    .command("fold")
    .summary("fold batch norms into the weights of their neighbours")
    .description(
      "Folds the batch norms of a model into the weights of convolutions and linear layers next to them, and writes the new " +
        "model: ONNX, a TF.js layers model (model.json), or safetensors by pairs.",
    )
    .argument("<in>", "the model file; external data and shards are read beside it")
    .argument("<out>", "the new model file")
    .option("--force", "overwrite files that exist")
    .option(
      "--verify",
      "run both models on random inputs: ONNX in onnxruntime-node or onnxruntime-web, which has to be installed here, and " +
        "model.json in TF.js",
    )
    .option(
      "--tolerance <error>",
      "of ONNX and safetensors: keep batch norms whose expected error is larger; by default 1e-5, for float16 1e-3, for " +
        "bfloat16 1.6e-2",
      numberOf("--tolerance", "1e-4", Infinity),
    )
    .option(
      "--pair <layer:bn>",
      "of safetensors: fold this batch norm into this layer; may be given several times",
      (text, pairs: FoldPair[] = []) => [...pairs, pairOf("--pair", text)],
    )
    .option(
      "--pairs <file>",
      'of safetensors: fold the pairs in a file, one a line; "auto" prints pairs that match by name and shape, and writes nothing',
    )
    .option("--epsilon <number>", "of safetensors: the epsilon, by default 1e-5", numberOf("--epsilon", "1e-3", 1))
    .option("--json", "print the report as JSON")
    .addHelpText("after", EXAMPLE)
    .action(async (input: string, output: string, options: FoldCommandOptions) => {
      const reading = new BytesProgress(0, "read");
      const files = new OpenFiles(reading);
      try {
        const source = await files.open(input);
        const { format } = await formatOf(source);
        // "auto" writes nothing, and the folder of a model of several files is made with them
        if (options.pairs !== "auto" && (format !== "tfjs" || existsSync(dirname(output))))
          checkOutput(output, options.force ?? false, [input]);
        if (format === "onnx") exit(await foldModelFile(source, input, output, options, reading));
        else if (format === "tfjs") exit(await foldLayersModel(source, files, output, options, reading));
        else if (format === "safetensors") await foldWeights(source, input, output, options, reading);
        else
          throw new UsageError(
            `${input}: expected ONNX, safetensors or a layers model of TF.js, got ${format}; export the model to one of these`,
          );
      } finally {
        reading.stop();
        await files.close();
      }
    });
}

const withTolerance = ({ tolerance }: FoldCommandOptions) => (tolerance === undefined ? {} : { tolerance });

function print(file: string, report: FoldReport, json: boolean | undefined, differences?: readonly Difference[]) {
  const asJson = { ...report, ...(differences && { differences }) };
  const verified = differences && differences.length > 0 ? `\n${textOf(differences, report)}` : "";
  process.stdout.write(json ? jsonText(asJson) : foldText(file, report) + verified);
}

/** Throws UsageError for options that a model with a graph does not take. */
function refusePairs(options: FoldCommandOptions, format: string): void {
  for (const option of ["pair", "pairs", "epsilon"] as const)
    if (options[option] !== undefined)
      throw new UsageError(
        `--${option}: expected a file of safetensors, got ${format}, which says what follows what; leave it out`,
      );
}

const exitCodeOf = (differences: readonly Difference[] | undefined) =>
  differences?.some((d) => !(relative(d) <= limitOf(d))) ? 1 : 0;

/** Folds an ONNX model, and returns the exit code. */
async function foldModelFile(
  source: ByteSource,
  input: string,
  output: string,
  options: FoldCommandOptions,
  reading: Progress,
) {
  refusePairs(options, "ONNX");
  if (options.verify) await loadRuntime(); // before any work
  const folded = await foldOnnx(source, withTolerance(options));
  reading.stop();
  await write(source, folded, input, output, options.force ?? false);
  const differences = options.verify ? await verify(source, folded) : undefined;
  print(source.name, folded.report, options.json, differences);
  return exitCodeOf(differences);
}

/** Folds a layers model of TF.js, and returns the exit code. */
async function foldLayersModel(
  source: ByteSource,
  files: OpenFiles,
  output: string,
  options: FoldCommandOptions,
  reading: Progress,
) {
  refusePairs(options, "a TF.js model");
  if (options.tolerance !== undefined)
    throw new UsageError("--tolerance: expected ONNX or safetensors, got a TF.js model; leave it out");
  const tfjs = await loadTfjs();
  const folded = await foldTfjs(tfjs, source, basename(output).replace(/\.json$/, ""));
  reading.stop();
  const folder = dirname(output);
  const contents = new Map<string, Content>([...folded.shards].map(([name, bytes]) => [join(folder, name), bytes]));
  contents.set(output, folded.json);
  await mkdir(folder, { recursive: true });
  await writeOutputs(contents, options.force ?? false, files.paths);
  const differences = options.verify ? await compareTfjs(tfjs, folded) : undefined;
  print(source.name, folded.report, options.json, differences);
  return exitCodeOf(differences);
}

/** Folds pairs of a safetensors file, or prints those that match. */
async function foldWeights(
  source: ByteSource,
  input: string,
  output: string,
  options: FoldCommandOptions,
  reading: Progress,
) {
  const { pair: pairs = [], pairs: file, epsilon, force = false } = options;
  if (options.verify)
    throw new UsageError("--verify: expected ONNX, got safetensors, which cannot be run; leave it out");
  if (file === "auto") {
    const found = await findPairs(source);
    reading.stop();
    const lines = found.map(({ layer, batchNorm }) => `${printable(layer)}:${printable(batchNorm)}\n`);
    process.stdout.write(options.json ? jsonText(found) : lines.join(""));
    process.stderr.write(
      `${plural(found.length, "pair")} found by name and shape, and nothing was written. Look whether each batch norm takes the output of\n` +
        "its layer, with no activation between, and pass the right ones by --pairs FILE, or --pair.\n",
    );
    return;
  }
  if (file !== undefined) {
    const text = await readFile(file, "utf8").catch((error: Error) => {
      throw new UsageError(
        `--pairs: expected a file that can be read, or auto, got: ${reasonOf(error)}; look at its path: ${file}`,
      );
    });
    pairs.push(
      ...text
        .split("\n")
        .filter((line) => line.trim() !== "")
        .map((line) => pairOf("--pairs", line)),
    );
  }
  if (pairs.length === 0)
    throw new UsageError(
      `${input}: expected --pair layer:bn or --pairs, since safetensors does not say what follows what, got neither; ` +
        "--pairs auto prints pairs that match",
    );
  const { model, report } = await foldPairs(source, {
    pairs,
    ...(epsilon !== undefined && { epsilon }),
    ...withTolerance(options),
  });
  reading.stop();
  await writeOutputs(new Map([[output, model]]), force, [input]);
  print(source.name, report, options.json);
}

/** Writes the model and its external data. */
async function write(
  source: ByteSource,
  { model, external }: FoldedOnnx,
  input: string,
  output: string,
  force: boolean,
) {
  const contents = new Map<string, AsyncIterable<Uint8Array>>();
  let size = model.length;
  const inputs = [input];
  const [from, to] = [dirname(resolve(input)), dirname(resolve(output))];
  if (external.size > 0 && from === to)
    throw new UsageError(
      `${output}: expected another folder than the input's, got the same; the model has external data, which keep their ` +
        "names, so write it to another folder",
    );
  for (const [file, patches] of external) {
    const path = join(to, file);
    await mkdir(dirname(path), { recursive: true });
    inputs.push(join(from, file));
    checkOutput(path, force, inputs);
    const data = await source.sibling(file);
    size += data.size;
    contents.set(path, patched(data, patches));
  }
  contents.set(output, patched(bytesSource(output, model), []));
  const progress = new BytesProgress(size, "written");
  try {
    await writeOutputs(new Map([...contents].map(([path, pieces]) => [path, progress.watch(pieces)])), force, inputs);
  } finally {
    progress.stop();
  }
}
