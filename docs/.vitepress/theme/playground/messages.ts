// What a running program tells the page. The program's worker posts it, in an object that tells it from messages of the
// program itself. Workers that the program starts reach the page through a BroadcastChannel with the name of the program's blob,
// so that their `postMessage` stays theirs.

/** Lines of a plot by name; what is not finite is a gap. */
export type Lines = Record<string, number[]>;

export type Message =
  | { kind: "text"; text: string; level: "log" | "warn" | "error" }
  | { kind: "plot"; title: string; lines: Lines }
  | { kind: "error"; text: string; line?: number }
  | { kind: "finished" };

/** The name of the worker that the page starts: its end is the end of the run, and that of no other worker. */
export const MAIN = "playground";

/** What the program's worker posts; everything else is the program's own. */
export interface Envelope {
  playground: Message;
}
