// The command `convert`.

import { type Command, InvalidArgumentError, Option } from "commander";
import { FRAMEWORKS } from "../tools/convert.ts";
import { conversionText, convert, type Framework } from "../tools/index.ts";
import { OpenFiles } from "./file-source.ts";
import { checkOutput, jsonText, writeOutput } from "./output.ts";
import { BytesProgress } from "./progress.ts";

const EXAMPLE = `
Example:
  $ npx batchnorm-wasm convert model.safetensors flax.safetensors --to flax

The exit code is 0 if every batch norm is converted, 1 if some are not, which
the report lists with the reason, and 2 for wrong arguments and for files that
cannot be read or written.`;

interface ConvertArguments {
  readonly to: Framework;
  readonly from?: Framework;
  readonly count?: number;
  readonly json?: boolean;
  readonly force?: boolean;
}

function count(text: string): number {
  const value = Number(text);
  if (!(value > 1 && value < Infinity)) throw new InvalidArgumentError("Expected a number above 1.");
  return value;
}

/** Adds the command to a program. `exit` takes the exit code. */
export function addConvert(program: Command, exit: (code: number) => void): void {
  program
    .command("convert")
    .summary("give the batch norms of a checkpoint the names of another framework")
    .description(
      "Gives the batch norms of a checkpoint the names of another framework, and copies all other tensors as they are. It " +
        "reads safetensors, models of Keras (.keras, .h5) and the layers models of TF.js (model.json), and writes one " +
        "safetensors file.",
    )
    .argument("<in>", "the model file; its shards are read beside it")
    .argument("<out>", "the safetensors file to write")
    .addOption(new Option("--to <framework>", "the names to write").choices(FRAMEWORKS).makeOptionMandatory())
    .addOption(
      new Option("--from <framework>", "the names to read; without it, they tell by themselves").choices(FRAMEWORKS),
    )
    .option(
      "--count <n>",
      "values per channel in a training batch (N·H·W), the same for all batch norms: converts the running variance between unbiased and biased",
      count,
    )
    .option("--json", "print the report as JSON")
    .option("--force", "overwrite a file that exists")
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, out: string, { json = false, force = false, ...options }: ConvertArguments) => {
      checkOutput(out, force, [path]);
      const files = new OpenFiles();
      let progress: BytesProgress | undefined;
      try {
        const { report, size, chunks } = await convert(await files.open(path), options);
        progress = new BytesProgress(size, "written");
        await writeOutput(out, progress.watch(chunks()), force, files.paths);
        progress.stop();
        process.stdout.write(json ? jsonText(report) : conversionText(report));
        exit(report.unconverted.length ? 1 : 0);
      } finally {
        progress?.stop();
        await files.close();
      }
    });
}
