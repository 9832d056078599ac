// What every program imports first, unseen: `console` prints on the page, `plot` draws there, and errors arrive with the line
// in which they happened. It runs in the program's worker.

import { type Envelope, type Lines, MAIN, type Message } from "./messages.ts";
import { textOf } from "./values.ts";

/** Per run: an endless loop that prints must not fill the page. */
const [MOST_TEXTS, MOST_PLOTS] = [1000, 20];

/** Characters of one text. */
const LONGEST = 20_000;

/** Lines that differ in dashes and colours. */
const MOST_LINES = 6;

const isMain = self.name === MAIN;
const channel = isMain ? undefined : new BroadcastChannel(self.location.href);
const post = self.postMessage.bind(self);
const send = (message: Message) => {
  if (channel) channel.postMessage(message);
  else post({ playground: message } satisfies Envelope);
};

let texts = 0;
function print(level: "log" | "warn" | "error", values: unknown[]): void {
  if (++texts > MOST_TEXTS) return;
  const text = values.map((value) => textOf(value)).join(" ");
  send({ kind: "text", level, text: text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text });
  if (texts === MOST_TEXTS) send({ kind: "text", level: "warn", text: `Nothing after ${MOST_TEXTS} lines is shown.` });
}

for (const level of ["log", "info", "debug", "warn", "error"] as const)
  console[level] = (...values) => print(level === "info" || level === "debug" ? "log" : level, values);

const isNumbers = (values: unknown): values is ArrayLike<number> =>
  (Array.isArray(values) && values.every((v) => typeof v === "number")) ||
  (ArrayBuffer.isView(values) && typeof (values as unknown as ArrayLike<unknown>)[0] === "number");

let plots = 0;

/**
 * Draws lines: an array of numbers, or an object with arrays by their names. Throws TypeError for anything else, and
 * RangeError for more lines than can be told apart.
 */
function plot(values: unknown, { title = "" }: { title?: string } = {}): void {
  const named: [string, unknown][] = isNumbers(values) ? [["value", values]] : Object.entries(values ?? {});
  if (named.length === 0 || !named.every(([, line]) => isNumbers(line)))
    throw new TypeError(`plot: expected an array of numbers, or an object with such arrays, got ${textOf(values)}`);
  if (named.length > MOST_LINES)
    throw new RangeError(`plot: expected at most ${MOST_LINES} lines, got ${named.length}; call plot several times`);
  if (++plots > MOST_PLOTS) return;
  const lines: Lines = Object.fromEntries(
    named.map(([name, line]) => [name, Array.from(line as ArrayLike<number>)] as const),
  );
  send({ kind: "plot", title: String(title), lines });
}

/** The line of the program in a stack such as "at f (blob:…:12:5)" or "f@blob:…:12:5". */
const lineOf = (stack = ""): number | undefined => {
  const [, rest] = stack.split(`${self.location.href}:`);
  return rest ? Number.parseInt(rest, 10) : undefined;
};

function fail(error: unknown, line?: number): void {
  const found = (error instanceof Error ? lineOf(error.stack) : undefined) ?? line;
  const text = error instanceof Error ? textOf(error) : `Uncaught ${textOf(error)}`;
  send({ kind: "error", text, ...(found && { line: found }) });
}

self.addEventListener("error", (event) => {
  event.preventDefault();
  fail(event.error ?? event.message, event.lineno);
});
self.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  fail(event.reason);
});

Object.assign(globalThis, {
  plot,
  /** The last line of every program. */
  __finished: () => isMain && send({ kind: "finished" }),
});
