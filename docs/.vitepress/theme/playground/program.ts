// Runs a program in a worker of its own. The worker is the program: a blob with the page's prelude in front, its imports of the
// package pointed at the copy that the site serves, and the lines where they were. So nothing needs 'unsafe-eval'.

import { javascriptLanguage } from "@codemirror/lang-javascript";
import library from "../../../../dist/index.js?url";
import { type Envelope, MAIN, type Message } from "./messages.ts";
import prelude from "./prelude.ts?worker&url";

const PACKAGE = "batchnorm-wasm";

/** Places of a program, as the parser of the editor sees them: module names, and the first error of syntax. */
function parsed(source: string) {
  const modules: { from: number; to: number; name: string }[] = [];
  let wrong: number | undefined;
  javascriptLanguage.parser.parse(source).iterate({
    enter({ type, from, to, node }) {
      if (type.isError) wrong ??= from;
      const { parent } = node;
      const imports = parent?.name === "ImportDeclaration" || parent?.name === "DynamicImport";
      const exports = parent?.name === "ExportDeclaration" && parent.getChild("from");
      if (type.name === "String" && (imports || exports))
        modules.push({ from, to, name: source.slice(from + 1, to - 1) });
    },
  });
  return { modules, wrong };
}

const lineAt = (source: string, at: number) => source.slice(0, at).split("\n").length;

/** The module that runs: as many lines as the program, and one. Throws Error for a module that there is not. */
function moduleOf(source: string): string {
  const { modules } = parsed(source);
  const address = (url: string) => JSON.stringify(new URL(url, location.href).href);
  let code = source;
  for (const { from, to, name } of modules.reverse()) {
    if (/^(\/|\.|https?:|data:|blob:)/.test(name)) continue;
    if (name !== PACKAGE)
      throw Object.assign(new Error(`There is no module "${name}" here: programs can import "${PACKAGE}".`), {
        line: lineAt(source, from),
      });
    code = code.slice(0, from) + address(library) + code.slice(to);
  }
  return `import ${address(prelude)}; ${code}\n__finished();`;
}

/** A program that runs. `stop` ends it, and is harmless after its end. */
export interface Run {
  stop(): void;
}

/**
 * Starts a program. `tell` gets what it says; an error or "finished" comes last.
 *
 * @param source JavaScript, a module
 */
export function run(source: string, tell: (message: Message) => void): Run {
  let code: string;
  try {
    code = moduleOf(source);
  } catch (error) {
    const { message, line } = error as Error & { line: number };
    tell({ kind: "error", text: message, line });
    return { stop: () => {} };
  }
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const channel = new BroadcastChannel(url);
  const worker = new Worker(url, { type: "module", name: MAIN });
  let over = false;
  const stop = () => {
    if (over) return;
    over = true;
    worker.terminate();
    channel.close();
    URL.revokeObjectURL(url);
  };
  const end = (message: Message) => {
    if (over) return;
    stop();
    tell(message);
  };
  const receive = (message: Message) => {
    if (over) return;
    if (message.kind === "error" || message.kind === "finished") end(message);
    else tell(message);
  };
  channel.onmessage = ({ data }: MessageEvent<Message>) => receive(data);
  worker.onmessage = ({ data }: MessageEvent<Partial<Envelope> | undefined>) => {
    if (data?.playground) receive(data.playground);
  };
  // what happens before the prelude can listen: an error of syntax, or a policy that forbids the worker
  worker.onerror = (event) => {
    event.preventDefault();
    const { wrong } = parsed(source);
    const line = event.lineno || (wrong === undefined ? 0 : lineAt(source, wrong));
    const text =
      event.message?.replace(/^Uncaught /, "") || "The program is not valid JavaScript, or cannot be started.";
    end({ kind: "error", text, ...(line && { line }) });
  };
  return { stop };
}
