// The command `inspect`.

import type { Command } from "commander";
import { parseHTML } from "linkedom";
import { inspect, textReport } from "../tools/index.ts";
import { htmlReport } from "../tools/report/html.ts";
import { OpenFiles } from "./file-source.ts";
import { checkOutput, jsonText, writeOutput } from "./output.ts";
import { BytesProgress } from "./progress.ts";

const EXAMPLE = `
Example:
  $ npx batchnorm-wasm inspect model.safetensors --html report.html

The exit code is 0 without findings of severity error, 1 with some, and 2 for
wrong arguments and for files that cannot be read.`;

interface Options {
  readonly against?: string;
  readonly json?: boolean;
  readonly html?: string;
  readonly force?: boolean;
}

/** Adds the command to a program. `exit` takes the exit code. */
export function addInspect(program: Command, exit: (code: number) => void): void {
  program
    .command("inspect")
    .summary("tell what is wrong with the batch norms of a checkpoint")
    .description(
      "Tells what is wrong with the batch norms of a checkpoint: safetensors (a file or an index of several), a TF.js model " +
        "(model.json), a model of Keras (.keras, .h5), or ONNX.",
    )
    .argument("<file>", "the model file; its shards are read beside it")
    .option("--against <other>", "another checkpoint of the model: tells how far each batch norm has drifted from it")
    .option("--json", "print the report as JSON")
    .option("--html <out>", "write the report with plots to an HTML file")
    .option("--force", "overwrite a file that exists")
    .addHelpText("after", EXAMPLE)
    .action(async (path: string, { against, json = false, html, force = false }: Options) => {
      if (html !== undefined) checkOutput(html, force, against === undefined ? [path] : [path, against]);
      const progress = new BytesProgress(0, "read");
      const files = new OpenFiles(progress);
      try {
        const other = against === undefined ? {} : { against: await files.open(against) };
        const report = await inspect(await files.open(path), other);
        progress.stop();
        if (html !== undefined) await writeOutput(html, htmlReport(emptyDocument(), report), force, files.paths);
        process.stdout.write(json ? jsonText(report) : textReport(report));
        exit(report.findings.some(({ severity }) => severity === "error") ? 1 : 0);
      } finally {
        progress.stop();
        await files.close();
      }
    });
}

const emptyDocument = () => parseHTML("<!doctype html><html><body></body></html>").document;
