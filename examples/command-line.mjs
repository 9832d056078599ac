// What the examples' command lines have in common.

export const stringOption = (value) => ({ type: "string", default: value });

export const isWhole = (n, from, to) => Number.isInteger(n) && n >= from && n <= to;

export function number(name, text, expected, isValid) {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!isValid(value)) throw new Error(`${name}: expected ${expected}, got "${text}"`);
  return value;
}

/** What `parse` makes of the arguments, or the end of the process with its message where it throws. */
export function optionsOrExit(parse) {
  try {
    return parse(process.argv.slice(2));
  } catch (error) {
    const [message] = error.message.split("\n");
    console.error(`${message} (--help explains the options)`);
    process.exit(2);
  }
}
