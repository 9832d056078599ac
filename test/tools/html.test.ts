// The HTML report: it stands on its own, has every layer and finding, and takes no text of the file for markup.

import { parseHTML } from "linkedom";
import { describe, expect, test } from "vitest";
import { type InspectionReport, inspect } from "../../src/tools/index.ts";
import { htmlReport } from "../../src/tools/report/html.ts";
import { filled, source, type Tensors, trained, withValue } from "./checkpoints.ts";

const { document } = parseHTML("<!doctype html><html><body></body></html>");
const parsed = (html: string) => parseHTML(html).document;
const reportOf = async (tensors: Tensors, name?: string) => htmlReport(document, await inspect(source(tensors, name)));

const healthy = (count: number): Tensors =>
  Object.assign({}, ...Array.from({ length: count }, (_, i) => trained(`layer${i}.bn`, 4, i + 1)));

describe("a report", () => {
  test("has a row for every layer, a mark for each in every plot, and every finding", async () => {
    const tensors = withValue(withValue(healthy(5), "layer1.bn.running_var", 0, Number.NaN), "layer2.bn.weight", 3, 0);
    const page = parsed(await reportOf(tensors));
    expect(page.querySelectorAll(".layers tbody tr")).toHaveLength(5);
    const [findings] = page.querySelectorAll("table");
    expect(findings?.querySelectorAll("tbody tr")).toHaveLength(2);
    expect(findings?.textContent).toContain("layer1.bn: variance is NaN in channel 0");
    const figures = [...page.querySelectorAll("figure")];
    expect(figures.map((figure) => figure.querySelector("figcaption")?.textContent)).toEqual([
      "Running variance",
      "|gamma|",
      "Largest |mean|/std",
    ]);
    // without a variance that is complete there is no |mean|/std
    expect(figures.map((figure) => figure.querySelectorAll('g[aria-label="rule"] line, circle').length)).toEqual([
      5, 5, 4,
    ]);
    expect(figures[0]?.querySelectorAll('g[aria-label="y-axis tick label"] text')).toHaveLength(5);
  });

  test("of two checkpoints has the drift of every layer that both have, and names the others", async () => {
    const drifted = withValue(healthy(4), "layer1.bn.running_mean", 0, 9);
    const report = await inspect(source(drifted), { against: source(healthy(5), "old.safetensors") });
    const page = parsed(htmlReport(document, report));
    const figures = [...page.querySelectorAll("figure")].slice(3);
    expect(figures.map((figure) => figure.querySelector("figcaption")?.textContent)).toEqual([
      "Mean drift",
      "Ratio of standard deviations",
      "Change of |gamma|",
    ]);
    // a rule at 1 stands among the ratios, and a mean without drift has no dot
    expect(figures.map((figure) => figure.querySelectorAll('g[aria-label="rule"] line, circle').length)).toEqual([
      1, 5, 4,
    ]);
    expect(page.querySelectorAll(".layers")[1]?.querySelectorAll("tbody tr")).toHaveLength(4);
    expect(page.body.textContent).toContain("only in old.safetensors: layer4.bn");
  });

  test("groups findings of one code, with the others behind a fold", async () => {
    const tensors = Object.keys(healthy(3)).reduce(
      (all, name) => (name.endsWith("weight") ? withValue(all, name, 1, 0) : all),
      healthy(3),
    );
    const page = parsed(await reportOf(tensors));
    expect(page.querySelector("summary")?.textContent).toBe("and 2 more");
    expect(page.querySelectorAll("details li")).toHaveLength(2);
  });

  test("loads nothing, runs nothing, and adapts to dark mode", async () => {
    const html = await reportOf(healthy(2));
    const page = parsed(html);
    expect(page.querySelector('meta[http-equiv="Content-Security-Policy"]')?.getAttribute("content")).toBe(
      "default-src 'none'; style-src 'unsafe-inline'",
    );
    expect(page.querySelectorAll("script, img, link, iframe, [src], [href]")).toHaveLength(0);
    const urls = html.match(/https?:[^"' ]*/g) ?? [];
    expect(new Set(urls)).toEqual(new Set(urls.filter((url) => url.startsWith("http://www.w3.org/"))));
    expect(html).toContain("color-scheme: light dark");
    expect(html).not.toMatch(/(?<!-)background: ?white|fill="(white|black|#222)"/);
  });

  test("of names with markup has them as text", async () => {
    const evil = '</title></style><img src=x onerror="alert(1)"><script>alert(1)</script>&lt;';
    const html = await reportOf(filled(trained(evil, 2), `${evil}.weight`, 0), `${evil}.safetensors`);
    // not even in text that an HTML parser takes for text
    expect(html).not.toMatch(/<(img|script)|<\/title><\/style>/);
    const page = parsed(html);
    expect(page.querySelectorAll("img, script")).toHaveLength(0);
    expect(page.querySelector("h1")?.textContent).toBe(`Batch norms of ${evil}.safetensors`);
    expect(page.querySelector(".layers tbody td")?.textContent).toBe(evil);
  });

  test("of values at the ends of what there is can be drawn", async () => {
    const bn = trained("bn", 2);
    const variances = [0, Number.MIN_VALUE, 1e-30, 3.4e38, Number.NaN];
    const all = variances.map((v, i) =>
      Object.fromEntries(Object.entries(filled(bn, "bn.running_var", v)).map(([k, t]) => [`l${i}.${k}`, t])),
    );
    const html = await reportOf(Object.assign({}, ...all));
    expect(html).not.toMatch(/(x1|x2|cx|transform)="[^"]*NaN/);
  });

  test("without batch norms has no plots", async () => {
    const report: InspectionReport = { file: "a", format: "tfjs", layers: [], findings: [] };
    const page = parsed(htmlReport(document, report));
    expect(page.querySelectorAll("svg, .layers")).toHaveLength(0);
    expect(page.body.textContent).toContain("0 batch norms");
  });
});
