// Functions of node:* that the suites use, for a page. vitest.browser.config.ts replaces these modules by this file, so
// that the same suites run in Node and in a page. A path is a URL of Vitest's server, and reading is synchronous.

/** Synchronous, because the suites read while they collect their tests; a page can do that by XMLHttpRequest only. */
export function readFileSync(file: URL | string): Uint8Array<ArrayBuffer>;
export function readFileSync(file: URL | string, encoding: "utf8"): string;
export function readFileSync(file: URL | string, encoding?: "utf8"): Uint8Array<ArrayBuffer> | string {
  const request = new XMLHttpRequest();
  request.open("GET", file, false);
  // responseType is for asynchronous requests; this charset leaves each byte in the low half of one character
  if (!encoding) request.overrideMimeType("text/plain; charset=x-user-defined");
  request.send();
  if (request.status !== 200) throw new Error(`${file}: ${request.status} ${request.statusText}`);
  const text = request.responseText;
  return encoding ? text : Uint8Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
}

export const fileURLToPath = String;
export const pathToFileURL = (path: string): URL => new URL(path, location.href);
export const join = (...parts: readonly string[]): string => parts.join("/");

const absent = (name: string) => () => {
  throw new Error(`${name}: not in a page`);
};
export const writeFileSync = absent("writeFileSync");
export const createHash = absent("createHash");
