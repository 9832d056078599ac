// Finds the browsers that install.sh installs.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** An absolute path: of $VARIABLE, or of `name` on the PATH. */
export function installed(name, variable = name.toUpperCase().replace(/\W/g, "_")) {
  const onPath = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, name));
  const given = process.env[variable];
  const found = (given ? [given] : onPath).find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error(`No ${name}: run test/browser/install.sh, or set ${variable} to an executable.`);
  return found;
}

/** Flags that give Chromium's pages WebGL 2 and WebGPU without a GPU, by SwiftShader. */
export const GPU = [
  "--use-angle=swiftshader",
  "--enable-unsafe-swiftshader",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan,WebGPU",
  "--ignore-gpu-blocklist",
];

/** How Playwright starts Chromium. */
export const launchChromium = (gpu = ["--disable-gpu"]) => ({
  executablePath: installed("chromium"),
  args: [
    "--no-sandbox", // root, as in CI, has none
    ...gpu,
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

/** Headers of a page that is cross-origin isolated: only there may threads share memory. */
export const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
