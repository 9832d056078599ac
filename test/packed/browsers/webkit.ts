// WebKitGTK for Vitest, over WebDriver. The driver starts MiniBrowser by default; it runs on a screen in memory.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { defineBrowserProvider } from "@vitest/browser";
import type { BrowserProvider } from "vitest/node";
import { installed } from "../../browser/installed.mjs";

/** Starting takes a second; on a machine that others load, ten. */
const START_MS = 60_000;

/** Ends a program and all that it started, even where it ended itself: it leads a process group of its own. */
function end({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // nobody is left of the group
  }
}

class WebKitProvider implements BrowserProvider {
  readonly name = "webkit";
  readonly supportsParallelism = false;
  readonly #started: ChildProcess[] = [];
  readonly #end = () => this.#started.forEach(end);
  #driver: Promise<string> | undefined;
  #session: { url: string; version: string } | undefined;

  constructor() {
    process.on("exit", this.#end); // where the run ends without close()
  }

  #start(file: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
    const child = spawn(file, args, {
      detached: true,
      env: { ...process.env, ...env },
      stdio: ["ignore", "ignore", "inherit", "pipe"],
    });
    this.#started.push(child);
    return child;
  }

  /** A screen: $DISPLAY, or one in memory, which says its number on the descriptor that it is given. */
  async #screen(): Promise<string> {
    if (process.env.DISPLAY) return process.env.DISPLAY;
    const server = this.#start(installed("Xvfb"), ["-displayfd", "3", "-screen", "0", "1024x768x24"]);
    const lines = createInterface({ input: server.stdio[3] as Readable });
    const [number] = await once(lines, "line", { signal: AbortSignal.timeout(START_MS) });
    return `:${number}`;
  }

  /** The driver's address, when it answers. */
  async #startDriver(): Promise<string> {
    const DISPLAY = await this.#screen();
    const port = await freePort();
    // WebKitGTK has shared memory, but does not show it by itself
    const env = { DISPLAY, GDK_BACKEND: "x11", JSC_useSharedArrayBuffer: "1" };
    const driver = this.#start(installed("WebKitWebDriver"), ["--host=127.0.0.1", `--port=${port}`], env);
    const url = `http://127.0.0.1:${port}`;
    for (const until = Date.now() + START_MS; ; await sleep(100)) {
      if (driver.exitCode !== null) throw new Error(`WebKitWebDriver ended with exit code ${driver.exitCode}`);
      try {
        await fetch(`${url}/status`);
        return url;
      } catch (error) {
        if (Date.now() > until) throw error; // it listens a moment after it started
      }
    }
  }

  async openPage(_session: string, url: string): Promise<void> {
    this.#driver ??= this.#startDriver();
    const driver = await this.#driver;
    if (!this.#session) {
      const capabilities = { alwaysMatch: { browserName: "MiniBrowser", pageLoadStrategy: "none" } };
      const created = await post(`${driver}/session`, { capabilities });
      this.#session = {
        url: `${driver}/session/${created.sessionId}`,
        version: created.capabilities.browserVersion,
      };
    }
    await post(`${this.#session.url}/url`, { url });
  }

  version(): string {
    return this.#session?.version ?? "";
  }

  getCommandsContext(): Record<string, unknown> {
    return {};
  }

  async close(): Promise<void> {
    process.off("exit", this.#end);
    try {
      await this.#driver;
      if (this.#session) await fetch(this.#session.url, { method: "DELETE" });
    } finally {
      this.#end();
    }
  }
}

/** WebKitWebDriver does not choose one itself. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error(`no port: ${address}`);
  return address.port;
}

interface Created {
  readonly sessionId: string;
  readonly capabilities: { readonly browserVersion: string };
}

/** One command of WebDriver. */
async function post(url: string, body: object): Promise<Created> {
  const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  const { value } = (await response.json()) as { value: Created & { error?: string; message?: string } };
  if (!response.ok) throw new Error(`${url}: ${value.error}: ${value.message}`);
  return value;
}

export const webkit = () =>
  defineBrowserProvider({
    name: "webkit",
    supportedBrowser: ["webkit"],
    options: {},
    providerFactory: () => new WebKitProvider(),
  });
