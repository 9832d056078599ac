// Links and anchors: those of every page of the built site, and those of the Markdown files as GitHub and the npm package
// show them. No page asks another host for anything.

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { parseHTML } from "linkedom";
import { createMarkdownRenderer } from "vitepress";
import { beforeAll, describe, expect, it } from "vitest";
import { EXAMPLES } from "../../docs/.vitepress/theme/playground/examples/index.ts";
import { pages, ROOT } from "./programs.ts";
import { SITE, sitePages } from "./site.ts";

const HOST = "http://site.invalid/";

/** Elements that load what their attribute names, as opposed to links that a reader may follow. */
const LOADED =
  "script[src], link[href], img[src], source[src], video[src], audio[src], iframe[src], object[data], use[href]";

/** What stands behind the # in the addresses of the playground's starting points. */
const STARTING_POINTS = EXAMPLES.map(({ id }) => `example=${id}`);

interface Parsed {
  links: string[];
  loaded: string[];
  anchors: Set<string>;
}

function parse(html: string): Parsed {
  const { document } = parseHTML(html);
  const values = (selector: string, ...names: string[]) =>
    [...document.querySelectorAll(selector)].flatMap((element) =>
      names.map((name) => element.getAttribute(name)).filter((value) => value !== null),
    );
  return {
    links: values("a[href]", "href"),
    loaded: values(LOADED, "src", "href", "data"),
    anchors: new Set([...values("[id]", "id"), ...values("a[name]", "name")]),
  };
}

describe("the built site", () => {
  const parsed = new Map<string, Parsed>();
  beforeAll(() => {
    for (const page of sitePages()) parsed.set(page, parse(readFileSync(new URL(page, SITE), "utf8")));
    for (const id of STARTING_POINTS) parsed.get("playground.html")?.anchors.add(id);
  });

  /** The file of an address in the site, as a static host finds it, or undefined. */
  function fileOf(path: string): string | undefined {
    const name = decodeURIComponent(path).slice(1);
    return [name, `${name}index.html`, `${name}.html`, `${name}/index.html`].find((file) => {
      const url = new URL(file, SITE);
      return file !== "" && existsSync(url) && statSync(url).isFile();
    });
  }

  it("has pages", () => {
    expect(parsed.size).toBeGreaterThan(100);
    expect(parsed.get("index.html")?.links.length).toBeGreaterThan(3);
  });

  it("has no link and no anchor that leads nowhere", () => {
    const dead: string[] = [];
    for (const [page, { links, loaded }] of parsed)
      for (const link of new Set([...links, ...loaded])) {
        const { origin, pathname, hash } = new URL(link, HOST + page);
        if (`${origin}/` !== HOST) continue;
        const file = fileOf(pathname);
        const anchor = decodeURIComponent(hash.slice(1));
        if (!file) dead.push(`${page}: ${link}`);
        // the lab keeps its settings behind the #
        else if (anchor && !file.startsWith("lab/") && !parsed.get(file)?.anchors.has(anchor))
          dead.push(`${page}: ${link}`);
      }
    expect(dead).toEqual([]);
  });

  it("loads nothing from another host", () => {
    const foreign: string[] = [];
    for (const [page, { loaded }] of parsed)
      for (const link of loaded) {
        const { origin, protocol } = new URL(link, HOST + page);
        if (`${origin}/` !== HOST && protocol !== "data:") foreign.push(`${page}: ${link}`);
      }
    const styles = readdirSync(SITE, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".css"));
    expect(styles.length).toBeGreaterThan(0);
    for (const style of styles)
      for (const [address] of readFileSync(new URL(style, SITE), "utf8").matchAll(
        /(?:url\(|@import)\s*["']?(?:https?:)?\/\/[^)"']*/g,
      ))
        foreign.push(`${style}: ${address}`);
    expect(foreign).toEqual([]);
  });
});

describe("Markdown on disk", () => {
  const files = [...pages(), "CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md", "SECURITY.md"];
  const parsed = new Map<string, Parsed>();
  beforeAll(async () => {
    // GitHub and VitePress make the same anchors of the headings that we write; a difference would show in the site above
    const { render } = await createMarkdownRenderer(new URL("docs", ROOT).pathname);
    const read = (file: string) => {
      const text = readFileSync(new URL(file, ROOT), "utf8");
      // the links as they are written, and not as VitePress changes them
      const links = [...withoutCode(text).matchAll(/\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)/g)].map(
        ([, link = ""]) => link,
      );
      const html = [...text.matchAll(/<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)="([^"]+)"/g)].map(
        ([, link = ""]) => link,
      );
      return { ...parse(`<main>${render(text)}</main>`), links: [...links, ...html] };
    };
    for (const file of files) parsed.set(file, read(file));
    for (const id of STARTING_POINTS) parsed.get("docs/playground.md")?.anchors.add(id);
  });

  const withoutCode = (text: string) => text.replace(/^```[\s\S]*?^```$/gm, "").replace(/`[^`\n]+`/g, "");

  it("has no link and no anchor that leads nowhere", () => {
    const dead: string[] = [];
    for (const [file, { links }] of parsed)
      for (const link of links) {
        // the site alone has the lab
        if (/^([a-z]+:|\/lab\/)/.test(link)) continue;
        const target = new URL(link, new URL(file, "file:///"));
        const path = decodeURIComponent(target.pathname.slice(1));
        const anchor = decodeURIComponent(target.hash.slice(1));
        if (!existsSync(new URL(path, ROOT))) dead.push(`${file}: ${link}`);
        else if (anchor && path.endsWith(".md") && !parsed.get(path)?.anchors.has(anchor))
          dead.push(`${file}: ${link}`);
      }
    expect(dead).toEqual([]);
  });

  it("has links in README and in guides", () => {
    for (const file of ["README.md", "docs/reference/index.md"])
      expect(parsed.get(file)?.links.length, file).toBeGreaterThan(2);
  });
});
