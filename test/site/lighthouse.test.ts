// What Lighthouse says of the site that does not depend on the machine's speed: accessibility, best practices, search engines,
// and of performance the bytes, what shifts, and what blocks the first rendering. lighthouse.mjs prints all scores.

import { existsSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";

interface Audit {
  score: number | null;
  numericValue?: number;
  details?: { items?: { url?: string }[] };
}
interface Result {
  categories: Record<string, { score: number | null; auditRefs: { id: string }[] }>;
  audits: Record<string, Audit>;
}

const PAGES = ["index.html", "guides/folding.html", "reference/api/batchnorm-wasm/classes/BatchNorm.html"];
const installed = existsSync(new URL("node_modules/lighthouse", import.meta.url));

/** A page's bytes with its fonts, scripts and styles, compressed: 300 kB at the time of writing. */
const MOST_BYTES = 512 * 1024;

describe.skipIf(!installed)(
  installed ? "Lighthouse" : "Lighthouse: skipped, npm ci --prefix test/site installs it",
  () => {
    const results = new Map<string, Result>();
    beforeAll(async () => {
      const { audit } = await import("./lighthouse.mjs");
      for await (const { page, formFactor, lhr } of audit())
        results.set(`${page} ${formFactor}`, lhr as unknown as Result);
    }, 1_200_000);

    it.each(PAGES.flatMap((page) => [`${page} desktop`, `${page} mobile`]))("%s", (name) => {
      const { categories, audits } = results.get(name) as Result;
      const failed = Object.entries(audits).filter(([, { score }]) => score !== null && score < 1);
      for (const category of ["accessibility", "best-practices", "seo"])
        expect(categories[category]?.score, `${category}: ${failed.map(([id]) => id)}`).toBeGreaterThanOrEqual(0.95);
      expect(audits["total-byte-weight"]?.numericValue).toBeLessThan(MOST_BYTES);
      expect(audits["cumulative-layout-shift"]?.numericValue).toBeLessThan(0.05);
      // the one style sheet must come first; a script must not
      const blocking = audits["render-blocking-resources"]?.details?.items ?? [];
      expect(blocking.filter(({ url = "" }) => !url.endsWith(".css"))).toEqual([]);
    });
  },
);
