// The command line: npx batchnorm-wasm <command>.

import { Command, CommanderError } from "commander";
import { addConvert } from "./cli/convert.ts";
import { addFold } from "./cli/fold.ts";
import { addInspect } from "./cli/inspect.ts";
import { addMeanStd } from "./cli/mean-std.ts";
import { reasonOf, UsageError } from "./cli/usage.ts";
import { BatchNormError } from "./common/errors.ts";
import { printable } from "./tools/report/text.ts";

declare const VERSION: string; // bundle.mjs puts the package's version there

const program = new Command("batchnorm-wasm")
  .description("Tools for the batch norms of whole models.")
  .version(VERSION)
  .showHelpAfterError("(--help explains the arguments)")
  .exitOverride();

// the largest code counts, so that no command hides a failure of its output
const exit = (code: number) => {
  process.exitCode = Math.max(code, Number(process.exitCode ?? 0));
};

addInspect(program, exit);
addConvert(program, exit);
addMeanStd(program, exit);
addFold(program, exit);

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") return; // a reader that has seen enough, such as `head`, closes the pipe
  process.stderr.write(`stdout: expected room for the report, got: ${reasonOf(error)}; write it elsewhere\n`);
  exit(2);
});
// without a listener the process would end with code 1; there is no other place to say it
process.stderr.on("error", () => exit(2));

program.parseAsync().catch((error: unknown) => {
  if (error instanceof CommanderError) return exit(error.exitCode === 0 ? 0 : 2);
  // an error of ours says all in its message; the stack of any other is needed to find the fault
  const isOurs = error instanceof BatchNormError || error instanceof UsageError;
  process.stderr.write(
    `${isOurs ? printable(error.message) : `This is a fault of batchnorm-wasm: ${(error as Error).stack}`}\n`,
  );
  exit(2);
});
