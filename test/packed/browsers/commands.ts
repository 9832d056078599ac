// Commands that Node runs for the suite in a page. A page cannot write files, and its user agent does not tell the
// version of every browser.

import type { PlaywrightBrowserProvider } from "@vitest/browser-playwright";
import type { BrowserCommand, BrowserProvider } from "vitest/node";
import { type Row, record } from "../record.ts";

declare module "vitest/browser" {
  interface BrowserCommands {
    /** Keeps a row, with the version of the browser that asks. */
    record(row: Omit<Row, "version">): Promise<void>;
  }
}

type Versioned = BrowserProvider & { version(): string | Promise<string> };

async function versionOf(provider: BrowserProvider): Promise<string> {
  const version =
    provider.name === "playwright"
      ? (provider as PlaywrightBrowserProvider).browser?.version()
      : await (provider as Versioned).version();
  if (!version) throw new Error(`${provider.name}: its browser says no version`);
  return version;
}

export const commands: { record: BrowserCommand<[Omit<Row, "version">]> } = {
  record: async ({ provider }, row) => record({ ...row, version: await versionOf(provider) }),
};
