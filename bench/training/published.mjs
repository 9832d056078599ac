// Finished models that people run, from npm: nsfwjs (MIT) ships two classifiers of images as layers models with batch norms.

import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { io } from "@tensorflow/tfjs-core";
import { loadLayersModel } from "@tensorflow/tfjs-layers";
import { folderOf } from "../packages.mjs";

const require = createRequire(import.meta.url);

/** What a file of nsfwjs, a script, exports. */
function exportOf(file) {
  const value = require(file);
  return value.default ?? value;
}

/** Loads a model from a folder of nsfwjs, whose weights are in Base64. */
async function load(folder) {
  const { modelTopology, weightsManifest } = exportOf(join(folder, "model.min.js"));
  const files = readdirSync(folder);
  const shards = weightsManifest
    .flatMap(({ paths }) => paths)
    .map((path) =>
      Buffer.from(
        exportOf(
          join(
            folder,
            files.find((file) => file.startsWith(path)),
          ),
        ),
        "base64",
      ),
    );
  const weightSpecs = weightsManifest.flatMap(({ weights }) => weights);
  const weightData = Uint8Array.from(Buffer.concat(shards)).buffer;
  return loadLayersModel(io.fromMemory({ modelTopology, weightSpecs, weightData }));
}

/** The models as networks that predict; none where nsfwjs is not installed (npm ci --prefix bench). */
export function publishedModels() {
  const main = folderOf("nsfwjs");
  if (!main) return [];
  const models = join(main, "..", "models");
  return [
    { name: "nsfwjs's MobileNetV2, 224×224×3", folder: "mobilenet_v2", size: 224 },
    { name: "nsfwjs's InceptionV3, 299×299×3", folder: "inception_v3", size: 299 },
  ].map(({ name, folder, size }) => ({
    name,
    input: [size, size, 3],
    batch: 1,
    make: () => load(join(models, folder)),
  }));
}
