// What newcomers want to do, as they would type it: the page that answers is among the first results of the site's search.

import { readdirSync } from "node:fs";
import MiniSearch, { type SearchResult } from "minisearch";
import { beforeAll, describe, expect, it } from "vitest";
import { searchOptions } from "../../docs/.vitepress/search.ts";
import { wordsOf } from "../../docs/.vitepress/zh.ts";
import { SITE } from "./site.ts";

/** How many results a reader sees without scrolling. */
const FIRST = 5;

/** Each task with the pages that answer it, of which one must be found, and the queries. */
const TASKS: [task: string, pages: string[], queries: string[]][] = [
  ["train in TypeScript", ["start/training"], ["training loop", "train typescript", "training step"]],
  ["save and load", ["start/saving", "guides/checkpoints"], ["save", "save and load", "load a saved layer"]],
  [
    "a PyTorch state with a prefix",
    ["guides/checkpoints"],
    ["load pytorch checkpoint", "state dict prefix", "pytorch weights"],
  ],
  ["freeze, and eval against frozen", ["guides/modes"], ["freeze", "eval vs frozen", "frozen mode"]],
  ["fold a convolution in HWIO", ["guides/folding"], ["fold convolution", "fold HWIO", "fold batch norm into conv"]],
  [
    "ragged sequences",
    ["guides/masks-and-sequences", "guides/small-batches"],
    ["padding mask", "sequences of different length", "ragged"],
  ],
  [
    "micro-batches equal to the big batch",
    ["guides/micro-batches", "guides/small-batches"],
    ["micro-batches", "gradient accumulation", "batch does not fit in memory"],
  ],
  ["a layer used twice", ["guides/shared-layers"], ["layer used twice", "shared layer", "siamese"]],
  ["a momentum schedule", ["guides/momentum-schedules"], ["momentum schedule", "change momentum during training"]],
  ["ReLU", ["guides/activations"], ["relu", "activation", "fuse relu"]],
  ["threads started and ended", ["guides/threads"], ["threads", "start threads", "stop threads"]],
  [
    "TF.js with a last batch of one",
    ["guides/tfjs", "guides/tfjs-keras", "guides/tfjs-models", "guides/troubleshooting"],
    ["tfjs last batch", "tensorflow.js one sample", "more than 1 value per channel"],
  ],
  ["clone", ["start/saving", "guides/inputs-and-memory", "guides/shared-layers"], ["clone", "copy a layer"]],
  ["group and layer norm", ["concepts/family"], ["group norm", "layer norm", "instance norm"]],
  [
    "an error code",
    ["guides/troubleshooting"],
    ["error code", "one-value-per-channel", "no-running-statistics", "NaN in training"],
  ],
  ["u", ["concepts/glossary", "concepts/numerics"], ["unit roundoff", "what is u", "condition scale"]],
  [
    "each preset's epsilon",
    ["reference/presets", "reference/options"],
    ["epsilon keras", "preset epsilon", "default epsilon"],
  ],
  [
    "mean and deviation of a data set",
    ["guides/mean-and-deviation"],
    ["mean and std of dataset", "standard deviation of a data set", "mean-std"],
  ],
  [
    "which build runs and how to choose",
    ["guides/threads", "reference/options", "start/install", "concepts/numerics"],
    ["which build", "simd or relaxed", "choose build"],
  ],
  ["a gradient penalty", ["guides/gradient-penalties"], ["gradient penalty", "wgan-gp", "penalty on gradients"]],
  ["a symbol", ["reference/api/batchnorm-wasm/functions/recalibrate"], ["recalibrate()"]],
];

let index: MiniSearch;

beforeAll(async () => {
  const [file] = readdirSync(new URL("assets/chunks/", SITE)).filter((name) =>
    name.startsWith("@localSearchIndexroot"),
  );
  const { default: json } = await import(new URL(`assets/chunks/${file}`, SITE).href);
  // as VPLocalSearchBox.vue does
  index = MiniSearch.loadJSON(json, {
    fields: ["title", "titles", "text"],
    storeFields: ["title", "titles"],
    tokenize: wordsOf,
  });
});

/** The first results, as paths such as "guides/folding". */
function found(query: string): string[] {
  const results: SearchResult[] = index.search(query, searchOptions);
  return results.slice(0, FIRST).map(({ id }) => (id as string).replace(/^\/|(\.html)?(#.*)?$/g, ""));
}

describe.each(TASKS)("%s", (_, pages, queries) => {
  it.each(queries)("%s", (query) => {
    expect(pages.some((page) => found(query).includes(page)) || found(query)).toBe(true);
  });
});
