// Additional files on Vitest's server: the packed library and this folder without transformation, and the package under
// its name for files that Vite transforms.

import { readFile } from "node:fs/promises";
import { extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import type { Plugin } from "vitest/config";
import { ISOLATION } from "../../browser/installed.mjs";

const folder = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const LIBRARY = folder("../../../build/packed/library/node_modules/batchnorm-wasm");

const FOLDERS: Readonly<Record<string, string>> = {
  "/library/": LIBRARY,
  "/packed/": folder(".."),
  "/golden/": folder("../../golden"),
};

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".bin": "application/octet-stream",
};

/** A request's file, if it is one of ours. */
function fileOf(pathname: string): string | undefined {
  const mount = Object.keys(FOLDERS).find((prefix) => pathname.startsWith(prefix));
  return mount && join(FOLDERS[mount] as string, pathname.slice(mount.length));
}

export const serve: Plugin = {
  name: "packed-library",
  enforce: "pre", // before Vite looks for it: the source tree is a package of the same name

  async resolveId(id, importer) {
    if (id !== "batchnorm-wasm" && !id.startsWith("batchnorm-wasm/")) return null;
    const found = await this.resolve(id, join(LIBRARY, "../../package.json"), { skipSelf: true });
    if (!found?.id.startsWith(LIBRARY + sep))
      throw new Error(`${importer}: ${id} is ${found?.id}, not the packed library`);
    return found;
  },

  configureServer({ middlewares }) {
    middlewares.use(async (request, response, next) => {
      const { pathname, searchParams } = new URL(request.url ?? "/", "http://localhost");
      const file = fileOf(pathname);
      if (!file) return next();
      try {
        const body = await readFile(file);
        // a test says what policy its page has
        const policy = searchParams.get("policy");
        const type = TYPES[extname(file)] ?? "application/octet-stream";
        const headers = policy ? { ...ISOLATION, "Content-Security-Policy": policy } : ISOLATION;
        response.writeHead(200, { ...headers, "Content-Type": type }).end(body);
      } catch (error) {
        response.writeHead(404).end(String(error));
      }
    });
  },
};
