// The built site (`npm run site:build`) for its tests: where it is, its pages, and a server as of static files.

import { existsSync, readdirSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { fileURLToPath } from "node:url";
import { serve as preview } from "vitepress";
import { ROOT } from "./programs.ts";

export const SITE = new URL("build/site/", ROOT);

/** The paths of the built pages in the site, such as "guides/folding.html". */
export const sitePages = (): string[] =>
  readdirSync(SITE, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".html"))
    .sort();

/** One page of every kind, by its path. A kind without a page is not there yet. */
export const KINDS: Record<string, string> = Object.fromEntries(
  [
    ["home", ""],
    ["guide", "guides/folding.html"],
    ["troubleshooting", "guides/troubleshooting.html"],
    ["reference", "reference/abi.html"],
    ["API", "reference/api/batchnorm-wasm/classes/BatchNorm.html"],
    ["API-entry", "reference/api/batchnorm-wasm/index.html"],
    ["concept", "concepts/derivation.html"],
    ["results", "results/benchmarks.html"],
    ["chinese", "zh/index.html"],
    ["playground", "playground.html"],
    ["lab", "lab/index.html"],
    ["404", "404.html"],
  ].filter(([, path]) => existsSync(new URL(path as string, SITE))),
);

/** Serves the site as `vitepress preview` does, at a free port; returns its address and what ends it. */
export async function serveSite(): Promise<{ url: string; close: () => Promise<void> }> {
  // vitepress's type says nothing of the server that it returns
  const { server } = (await preview({ root: fileURLToPath(new URL("docs", ROOT)), port: 0 })) as unknown as {
    server: Server;
  };
  if (!server.listening) await new Promise((resolve) => server.once("listening", resolve));
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}/`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
