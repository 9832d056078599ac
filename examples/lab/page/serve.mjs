// `npm run lab`: builds the page and serves it on this machine.

import { parseArgs } from "node:util";
import { context } from "esbuild";
import { buildPage, FOLDER } from "./build.mjs";

/** Serves the built page; returns its address and what ends it. */
export async function serve(port = 0) {
  const server = await context({});
  const { port: chosen } = await server.serve({ servedir: FOLDER, host: "127.0.0.1", port });
  return { url: `http://localhost:${chosen}/`, close: () => server.dispose() };
}

if (process.argv[1].endsWith("serve.mjs")) {
  const { values } = parseArgs({ options: { port: { type: "string", default: "8000" } } });
  const port = Number(values.port);
  if (!(Number.isInteger(port) && port >= 0 && port < 65536)) {
    console.error(`--port: expected a whole number from 0 to 65535, got "${values.port}"`);
    process.exit(2);
  }
  await buildPage();
  const { url } = await serve(port);
  console.log(`The lab is at ${url} (Ctrl+C ends it).`);
}
