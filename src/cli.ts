// The command line: npx batchnorm-wasm <command>.

import { Command, CommanderError } from "commander";
import { addConvert } from "./cli/convert.ts";
import { addFold } from "./cli/fold.ts";
import { addInspect } from "./cli/inspect.ts";
import { addMeanStd } from "./cli/mean-std.ts";
import { UsageError } from "./cli/usage.ts";
import { BatchNormError } from "./common/errors.ts";

declare const VERSION: string; // bundle.mjs puts the package's version there

const program = new Command("batchnorm-wasm")
  .description("Tools for the batch norms of whole models.")
  .version(VERSION)
  .showHelpAfterError("(--help explains the arguments)")
  .exitOverride();

const exit = (code: number) => {
  process.exitCode = code;
};

addInspect(program, exit);
addConvert(program, exit);
addMeanStd(program, exit);
addFold(program, exit);

/** A reader that has seen enough, such as `head`, closes the pipe. */
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit();
});

program.parseAsync().catch((error: unknown) => {
  if (error instanceof CommanderError) return exit(error.exitCode === 0 ? 0 : 2);
  // an error of ours says all in its message; the stack of any other is needed to find the fault
  const isOurs = error instanceof BatchNormError || error instanceof UsageError;
  process.stderr.write(`${isOurs ? error.message : `This is a fault of batchnorm-wasm: ${(error as Error).stack}`}\n`);
  exit(2);
});
