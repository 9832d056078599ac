// The command `fold`.

import { mkdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { type ByteSource, type FoldedOnnx, foldOnnx, foldText, type Patch } from "../tools/index.ts";
import { OpenFiles } from "./file-source.ts";
import { type Content, checkOutput, writeOutputs } from "./output.ts";
import { UsageError } from "./usage.ts";
import { compare, type Difference, loadRuntime } from "./verify.ts";

const EXAMPLE = `
Example:
  $ npx batchnorm-wasm fold model.onnx folded.onnx --verify

Batch norms that cannot be folded stay in the model, and the report says why.
The exit code is 0 if the model has been written, 1 if --verify finds outputs
that differ by more than 1e-3 of the largest element, or 0.05 in float16, and
2 for wrong arguments and for files that cannot be read.`;

interface FoldCommandOptions {
  readonly force?: boolean;
  readonly verify?: boolean;
  readonly json?: boolean;
  readonly tolerance?: number;
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

const textOf = (differences: readonly Difference[]) =>
  differences
    .map((d) => `verified: ${d.output} differs by at most ${relative(d).toExponential(1)} of its largest element\n`)
    .join("");

function toleranceOf(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0))
    throw new UsageError(`--tolerance: expected a number from 0 on, got ${text}; leave it out, or pass 1e-4`);
  return value;
}

/** Adds the command to a program. `exit` takes the exit code. */
export function addFold(program: Command, exit: (code: number) => void): void {
  program
    .command("fold")
    .summary("fold batch norms into the weights of their neighbours")
    .description(
      "Folds the batch norms of an ONNX model into the weights of convolutions and\nlinear layers next to them, and writes the new model.",
    )
    .argument("<in>", "the model file; external data are read beside it")
    .argument("<out>", "the new model file")
    .option("--force", "overwrite files that exist")
    .option(
      "--verify",
      "run both models on random inputs in onnxruntime-node or\nonnxruntime-web, which has to be installed here",
    )
    .option(
      "--tolerance <error>",
      "keep batch norms whose expected error is larger; by default\n1e-5, for float16 1e-3, for bfloat16 1.6e-2",
      toleranceOf,
    )
    .option("--json", "print the report as JSON")
    .addHelpText("after", EXAMPLE)
    .action(async (input: string, output: string, options: FoldCommandOptions) => {
      const { force = false, json = false, tolerance } = options;
      checkOutput(output, force, [input]);
      if (options.verify) await loadRuntime(); // before any work
      const files = new OpenFiles();
      try {
        const source = await files.open(input);
        const folded = await foldOnnx(source, tolerance === undefined ? {} : { tolerance });
        await write(source, folded, input, output, force);
        const differences = options.verify ? await verify(source, folded) : [];
        process.stdout.write(
          json
            ? `${JSON.stringify({ ...folded.report, ...(options.verify && { differences }) }, null, 2)}\n`
            : `${foldText(source.name, folded.report)}${differences.length > 0 ? `\n${textOf(differences)}` : ""}`,
        );
        exit(differences.some((d) => !(relative(d) <= limitOf(d))) ? 1 : 0);
      } finally {
        await files.close();
      }
    });
}

/** Writes the model and its external data. */
async function write(
  source: ByteSource,
  { model, external }: FoldedOnnx,
  input: string,
  output: string,
  force: boolean,
) {
  const contents = new Map<string, Content>();
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
    contents.set(path, patched(await source.sibling(file), patches));
  }
  contents.set(output, model);
  await writeOutputs(contents, force, inputs);
}
