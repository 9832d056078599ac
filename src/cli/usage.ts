/** An error of the command line: wrong arguments, or files that cannot be written. The message is all that users see. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
