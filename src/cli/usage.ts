/** An error of the command line: wrong arguments, or files that cannot be written. The message is all that users see. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/**
 * Returns the reason in an error of the file system, such as "ENOENT: no such file or directory", without the call and the
 * path, which may be that of a temporary file.
 */
export const reasonOf = (error: unknown): string => (error as Error).message.replace(/^([A-Z]\w+: [^,]+), .*/s, "$1");
