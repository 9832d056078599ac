// `npx batchnorm-wasm fold` of layers models of TF.js as a child process, with TF.js in the project in the current folder. It
// runs dist/cli.js, which `npm run build` makes.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { input, type LayersModel, layers, loadLayersModel, model, type SymbolicTensor } from "@tensorflow/tfjs-layers";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { foldModel } from "../../src/tfjs/index.ts";
import { chain, dense, expectSame, randomize } from "../support/fold-model.ts";
import { useBackend } from "../support/tfjs.ts";
import { type Files, type Json, saved } from "./tfjs-models.ts";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const modules = fileURLToPath(new URL("../../node_modules", import.meta.url));
const keras = fileURLToPath(new URL("../tfjs/fixtures/keras2", import.meta.url));

const folders: string[] = [];
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

beforeAll(() => useBackend("cpu"));

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "batchnorm-fold-tfjs-"));
  folders.push(folder);
  symlinkSync(modules, at("node_modules"));
});

afterAll(() => {
  for (const one of folders) rmSync(one, { recursive: true, force: true });
});

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, "fold", ...args], {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  return { status, stdout, stderr };
}

/** Writes the files of a model into the folder `in`. */
function write({ model, shards }: Files): void {
  mkdirSync(at("in"));
  writeFileSync(at("in", "model.json"), JSON.stringify(model));
  for (const [name, bytes] of Object.entries(shards)) writeFileSync(at("in", name), bytes);
}

const jsonOf = (name: string): Json => JSON.parse(readFileSync(at(name), "utf8"));

/** Returns the bytes of a model's shards. */
const bytesOf = (name: string): Buffer =>
  Buffer.concat(
    jsonOf(name).weightsManifest.flatMap(({ paths }: Json) =>
      paths.map((path: string) => readFileSync(join(dirname(at(name)), path))),
    ),
  );

const SIZES: Record<string, number> = { float32: 4, int32: 4, bool: 1, uint8: 1, uint16: 2, float16: 2 };

/** Returns the bytes and the entry of each weight of a model, by its name. */
function weightsOf(name: string): Record<string, { entry: Json; bytes: Buffer }> {
  const bytes = bytesOf(name);
  let begin = 0;
  const weights = jsonOf(name).weightsManifest.flatMap((group: Json) => group.weights);
  return Object.fromEntries(
    weights.map((entry: Json) => {
      const size = SIZES[entry.quantization?.dtype ?? entry.dtype] as number;
      const end = begin + entry.shape.reduce((a: number, b: number) => a * b, 1) * size;
      const own = bytes.subarray(begin, end);
      begin = end;
      return [entry.name, { entry, bytes: own }];
    }),
  );
}

/** Loads a model as a program does. */
function load(name: string): Promise<LayersModel> {
  const { weightsManifest, ...rest } = jsonOf(name);
  const weightData = Uint8Array.from(bytesOf(name)).buffer;
  const weightSpecs = weightsManifest.flatMap(({ weights }: Json) => weights);
  return loadLayersModel(tf.io.fromMemory({ ...rest, weightSpecs, weightData }));
}

const conv = (name: string, more: object = {}) => layers.conv2d({ name, filters: 4, kernelSize: 3, ...more });
const norm = (name: string) => layers.batchNormalization({ name });
const relu = (name: string) => layers.activation({ name, activation: "relu" });

/** Two batch norms: one that folds, and one between activations, with layers that neither concerns. */
const network = () =>
  chain(
    conv("first", { inputShape: [8, 8, 3], activation: "relu" }),
    conv("second"),
    norm("folds"),
    relu("relu1"),
    norm("stays"),
    relu("relu2"),
    layers.flatten({ name: "flat" }),
    dense(3, { name: "classes" }),
  );

describe("a layers model", () => {
  test("is written without the batch norms that foldModel folds, and with its report", async () => {
    const original = network();
    write(await saved(original));
    const { status, stdout, stderr } = run(["in/model.json", "out/model.json"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(
      /^model\.json: 1 of 2 batch norms folded\n\nexpected error of an output, in units of its size:\n\d\.\de-[78] {2}folds {2}into second\n\nkept stays: /,
    );
    const after = await load("out/model.json");
    expectSame(original, after);
    const names = original.layers.map(({ name }) => name).filter((name) => name !== "folds");
    expect(after.layers.map(({ name }) => name)).toEqual([after.inputNames[0], ...names]);
    const { model: expected } = await foldModel(original);
    for (const [i, weight] of expected.weights.entries())
      expect(Array.from(after.weights[i]?.read().dataSync() as Float32Array)).toEqual(
        Array.from(weight.read().dataSync()),
      );
    expect(readdirSync(at("out")).sort()).toEqual(["model-shard1of1.bin", "model.json"]);
  });

  test("keeps the names of weights, and the bytes of those that nothing is folded into", async () => {
    write(await saved(network()));
    run(["in/model.json", "out/model.json"]);
    const [before, after] = [weightsOf("in/model.json"), weightsOf("out/model.json")];
    const isFolded = (name: string) => name.startsWith("folds/");
    expect(Object.keys(after).sort()).toEqual(
      Object.keys(before)
        .filter((name) => !isFolded(name))
        .sort(),
    );
    const changed = Object.keys(after).filter((name) => !after[name]?.bytes.equals(before[name]?.bytes as Buffer));
    expect(changed).toEqual(["second/kernel", "second/bias"]);
    for (const name of Object.keys(after)) expect(after[name]?.entry).toEqual(before[name]?.entry);
  });

  test("keeps what is quantised and not folded into as it is, and writes the rest in float32", async () => {
    const files = await saved(network());
    const weights = files.model.weightsManifest[0].weights;
    const bytes = Object.values(files.shards).flatMap((shard) => Array.from(shard));
    const values = new Float32Array(Uint8Array.from(bytes).buffer);
    const [scale, min] = [1 / 64, -2];
    for (const entry of weights) entry.quantization = { dtype: "uint8", scale, min, original_dtype: "float32" };
    files.model.weightsManifest[0].paths = ["all.bin"];
    write({
      ...files,
      shards: { "all.bin": Uint8Array.from(values, (v) => Math.max(0, Math.min(255, Math.round((v - min) / scale)))) },
    });
    const original = await load("in/model.json");
    expect(run(["in/model.json", "out/model.json"])).toMatchObject({ status: 0, stderr: "" });
    expectSame(original, await load("out/model.json"));
    const [before, after] = [weightsOf("in/model.json"), weightsOf("out/model.json")];
    for (const [name, { entry, bytes }] of Object.entries(after)) {
      if (name.startsWith("second/"))
        expect(entry).toEqual({ name, shape: before[name]?.entry.shape, dtype: "float32" });
      else expect({ entry, bytes }).toEqual(before[name]);
    }
  });

  test("keeps the other fields of model.json; of what belongs to training, the optimizer's weights are left out", async () => {
    const original = network();
    original.compile({ optimizer: "sgd", loss: "meanSquaredError" });
    const files = await saved(original);
    const trainingConfig = {
      loss: "mean_squared_error",
      metrics: ["mae"],
      optimizer_config: { class_name: "SGD", config: { learning_rate: 0.01 } },
    };
    const more = {
      format: "layers-model",
      generatedBy: "keras v2.15.0",
      convertedBy: "TensorFlow.js Converter v4.22.0",
      trainingConfig,
      userDefinedMetadata: { labels: ["a", "b", "c"] },
      own: { field: [1, "two"] },
    };
    const [group] = files.model.weightsManifest;
    group.weights.push({ name: "iter", shape: [], dtype: "int32", group: "optimizer" });
    group.paths.push("iter.bin");
    const iterations = new Uint8Array(Int32Array.of(77).buffer);
    write({ model: { ...files.model, ...more }, shards: { ...files.shards, "iter.bin": iterations } });
    expect(run(["in/model.json", "out/model.json"])).toMatchObject({ status: 0, stderr: "" });
    const { modelTopology, weightsManifest, ...rest } = jsonOf("out/model.json");
    expect(rest).toEqual(more);
    expect(Object.keys(weightsOf("out/model.json"))).not.toContain("iter");
    const after = await load("out/model.json");
    expect(after.getUserDefinedMetadata()).toEqual({ labels: ["a", "b", "c"] });
    // it evaluates as the original does
    const [x, y] = [tf.ones([2, 8, 8, 3]), tf.ones([2, 3])];
    const lossOf = (m: LayersModel) => ([m.evaluate(x, y)].flat()[0] as tf.Tensor).dataSync()[0] as number;
    expect(lossOf(after)).toBeCloseTo(lossOf(original), 4);
  });

  test("stays as it is if nothing can be folded", async () => {
    const files = await saved(chain(dense(4, { inputShape: [3], activation: "relu" }), norm("bn"), relu("relu")));
    write(files);
    expect(run(["in/model.json", "out/model.json"])).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^model\.json: 0 of 1 batch norm folded\n\nkept bn: "[^"]+" before it has the act/),
    });
    expect(jsonOf("out/model.json").modelTopology).toEqual(jsonOf("in/model.json").modelTopology);
    expect(weightsOf("out/model.json")).toEqual(weightsOf("in/model.json"));
  });

  test("is cut into shards of 4 MiB", async () => {
    write(await saved(chain(dense(1500, { inputShape: [1000], name: "a" }), norm("bn"), relu("relu")), 2 ** 20));
    expect(run(["in/model.json", "out/model.json", "--json"])).toMatchObject({ status: 0, stderr: "" });
    const size = 4 * 1500 * 1001;
    expect(readFileSync(at("out", "model-shard1of2.bin"))).toHaveLength(2 ** 22);
    expect(readFileSync(at("out", "model-shard2of2.bin"))).toHaveLength(size - 2 ** 22);
  });

  test("of Keras is read with the layers that TF.js lacks", async () => {
    const { status, stdout, stderr } = run([join(keras, "model.json"), "out/model.json", "--verify"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(
      /^model\.json: \d of 4 batch norms folded\n[\s\S]*\nverified: classes differs by at most (0\.0e\+0|\d\.\de-[789]) of/,
    );
    expect(jsonOf("out/model.json")).toMatchObject({ generatedBy: expect.stringContaining("keras") });
  });

  test("has names of weights with a cell in them, which TF.js leaves out", async () => {
    const files = await saved(
      chain(
        layers.lstm({ units: 4, inputShape: [5, 3], name: "lstm", recurrentInitializer: "zeros" }),
        dense(4, { name: "d" }),
        norm("bn"),
      ),
    );
    for (const entry of files.model.weightsManifest[0].weights)
      entry.name = entry.name.replace(/^lstm\//, "lstm/lstm_cell/");
    // TF.js's default, which its build for Node cannot compute without the package @tensorflow/tfjs
    const orthogonal = { class_name: "Orthogonal", config: { gain: 1, seed: null } };
    files.model.modelTopology.config.layers[0].config.recurrent_initializer = orthogonal;
    write(files);
    expect(run(["in/model.json", "out/model.json", "--verify"])).toMatchObject({ status: 0, stderr: "" });
    const [before, after] = [weightsOf("in/model.json"), weightsOf("out/model.json")];
    expect(Object.keys(after).sort()).toEqual(
      Object.keys(before)
        .filter((name) => !name.startsWith("bn/"))
        .sort(),
    );
    expect(after["lstm/lstm_cell/recurrent_kernel"]).toEqual(before["lstm/lstm_cell/recurrent_kernel"]);
  });
});

describe("--verify", () => {
  test("runs both models, and prints the largest difference beside the expected one", async () => {
    write(await saved(network()));
    const { status, stdout, stderr } = run(["in/model.json", "out/model.json", "--verify"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(
      /\nverified: classes differs by at most \d\.\de-[78] of its largest element\nexpected: at most \d\.\de-[78] of an output's size in a single layer\n$/,
    );
    const { folded, differences } = JSON.parse(run(["in/model.json", "json/model.json", "--verify", "--json"]).stdout);
    expect(folded).toEqual([
      { batchNorm: "folds", into: ["second"], direction: "backward", expectedError: expect.any(Number) },
    ]);
    expect(differences).toEqual([
      { output: "classes", type: "float32", difference: expect.any(Number), size: expect.any(Number) },
    ]);
    expect(differences[0].difference).toBeLessThan(1e-6 * differences[0].size);
  });

  test("takes several inputs and outputs, whole numbers for an embedding, and sequences of any length", async () => {
    const [words, numbers] = [input({ shape: [null as never], name: "words" }), input({ shape: [6], name: "numbers" })];
    const apply = (layer: { apply(x: unknown): unknown }, x: unknown) => layer.apply(x) as SymbolicTensor;
    const embedded = apply(layers.embedding({ inputDim: 9, outputDim: 4 }), words);
    const sequence = apply(layers.gru({ units: 5, recurrentInitializer: "zeros" }), embedded);
    const a = apply(norm("bn1"), apply(dense(7, { name: "one" }), sequence));
    const b = apply(norm("bn2"), apply(dense(7, { name: "two" }), numbers));
    const outputs = [apply(relu("sum"), apply(layers.add(), [a, b])), apply(relu("other"), b)];
    write(await saved(randomize(model({ inputs: [words, numbers], outputs }))));
    const { status, stdout, stderr } = run(["in/model.json", "out/model.json", "--verify"]);
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^model\.json: 2 of 2 batch norms folded/);
    expect(stdout).toMatch(/\nverified: sum differs by at most \S+ of [^\n]+\nverified: other differs by at most /);
  });

  test("gives 1 for outputs that differ", async () => {
    writeFileSync(at("layers.mjs"), OWN.replace("CALL", "tf.mul([x].flat()[0], (count += 1))"));
    write(await own());
    const { status, stdout } = run(["in/model.json", "out/model.json", "--verify"], { NODE_OPTIONS: IMPORT });
    expect(stdout).toMatch(/\nverified: own differs by at most [1-9]/);
    expect(status).toBe(1);
  });
});

/** A file of a program that registers a layer of its own. */
const OWN = `import * as tf from "@tensorflow/tfjs-core";
import { layers } from "@tensorflow/tfjs-layers";
let count = 0;
const Base = Object.getPrototypeOf(layers.flatten({ name: "flatten" }).constructor);
class Own extends Base {
  static className = "Own";
  call(x) { return CALL; }
}
tf.serialization.registerClass(Own);
`;

const IMPORT = "--import ./layers.mjs";

/** Returns the files of a model with a layer of a class that TF.js does not know, behind a batch norm that folds. */
async function own(): Promise<Files> {
  const files = await saved(chain(dense(4, { inputShape: [3], name: "d" }), norm("bn"), relu("own")));
  const list = files.model.modelTopology.config.layers;
  Object.assign(list.at(-1), { class_name: "Own", config: { name: "own", trainable: true } });
  return files;
}

describe("TF.js", () => {
  test("is asked for where there is none, before anything is written", async () => {
    write(await saved(network()));
    rmSync(at("node_modules"));
    expect(run(["in/model.json", "out/model.json"])).toEqual({
      status: 2,
      stdout: "",
      stderr: expect.stringMatching(/^fold: expected TF\.js in this project, .* run npm install @tensorflow\/tfjs,/),
    });
    expect(existsSync(at("out"))).toBe(false);
  });

  test("may be the package @tensorflow/tfjs, whose own packages only it finds", async () => {
    write(await saved(network()));
    rmSync(at("node_modules"));
    const union = at("node_modules", "@tensorflow", "tfjs");
    mkdirSync(join(union, "node_modules"), { recursive: true });
    symlinkSync(join(modules, "@tensorflow"), join(union, "node_modules", "@tensorflow"));
    writeFileSync(join(union, "package.json"), JSON.stringify({ name: "@tensorflow/tfjs", main: "index.js" }));
    writeFileSync(join(union, "index.js"), "throw new Error('not needed')");
    expect(run(["in/model.json", "out/model.json", "--verify"])).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/1 of 2 batch norms folded[\s\S]*verified: classes/),
      stderr: "",
    });
  });

  test("names a class that it does not know, which a file of the program may register", async () => {
    write(await own());
    const { status, stdout, stderr } = run(["in/model.json", "out/model.json"]);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(
      /^model\.json: the model: expected every layer of a class that TF\.js knows, got "Own"; .*--import \.\/FILE\.mjs"\n$/,
    );
    writeFileSync(at("layers.mjs"), OWN.replace("CALL", "tf.neg([x].flat()[0])"));
    expect(run(["in/model.json", "out/model.json", "--verify"], { NODE_OPTIONS: IMPORT })).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(
        /^model\.json: 1 of 1 batch norm folded[\s\S]*verified: own differs by at most \S+e-[78]/,
      ),
      stderr: "",
    });
    expect(jsonOf("out/model.json").modelTopology.config.layers.at(-1).class_name).toBe("Own");
  });
});

describe("gives 2 and a message without a stack, and writes nothing, for", () => {
  test.each<[string, (files: Files) => void, string[], string]>([
    [
      "a graph model",
      ({ model }) => {
        model.modelTopology = { node: [], versions: {} };
      },
      [],
      "model.json: modelTopology: expected a layers model's, got a graph model's",
    ],
    [
      "weights alone",
      ({ model }) => {
        delete model.modelTopology;
      },
      [],
      "model.json: modelTopology: expected a layers model's, got none",
    ],
    [
      "a topology that is none",
      ({ model }) => {
        model.modelTopology = { class_name: "Sequential", config: { layers: [{}] } };
      },
      [],
      "model.json: the model: expected one that TF.js loads",
    ],
    [
      "weights that are not the model's",
      ({ model }) => {
        model.weightsManifest[0].weights[0].name = "other";
      },
      [],
      "TF.js says: Provided weight data has no target variable: other",
    ],
    [
      "shards in another folder",
      ({ model }) => {
        model.weightsManifest[0].paths[0] = "../model.bin";
      },
      [],
      "model.json: the path of another file: expected one relative to the model's folder, inside it",
    ],
    [
      "shards that are too short",
      ({ shards }) => {
        shards["group1-shard1of2.bin"] = new Uint8Array(5);
      },
      [],
      "model.json:",
    ],
    ["a pair", () => {}, ["--pair", "a:b"], "--pair: expected a file of safetensors, got a TF.js model"],
    ["a tolerance", () => {}, ["--tolerance", "1"], "--tolerance: expected ONNX or safetensors, got a TF.js model"],
  ])("%s", async (_, change, args, text) => {
    const files = await saved(chain(dense(40, { inputShape: [8] }), norm("bn")), 1500);
    change(files);
    write(files);
    const { status, stdout, stderr } = run(["in/model.json", "out/model.json", ...args]);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(text);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(existsSync(at("out"))).toBe(false);
  });

  test("files that exist, unless --force is given, and shards of the input", async () => {
    write(await saved(network(), 2 ** 20));
    const before = bytesOf("in/model.json");
    mkdirSync(at("out"));
    writeFileSync(at("out", "model-shard1of1.bin"), "mine");
    expect(run(["in/model.json", "out/model.json"])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("pass --force"),
    });
    expect(readdirSync(at("out"))).toEqual(["model-shard1of1.bin"]);
    expect(readFileSync(at("out", "model-shard1of1.bin"), "utf8")).toBe("mine");
    expect(run(["in/model.json", "out/model.json", "--force"]).status).toBe(0);
    expect(readFileSync(at("out", "model-shard1of1.bin")).length).toBeGreaterThan(1000);
    // beside the input, also by another path to its folder
    expect(run(["in/model.json", "in/folded.json"]).status).toBe(0);
    symlinkSync(at("in"), at("link"));
    expect(run(["in/folded.json", "link/folded.json", "--force"])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("expected another file than the input"),
    });
    renameSync(at("in", "folded.json"), at("in", "input.json"));
    expect(run(["in/input.json", "link/folded.json", "--force"])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("link/folded-shard1of1.bin: expected another file than the input"),
    });
    const files = ["folded-shard1of1.bin", "group1-shard1of1.bin", "input.json", "model.json"];
    expect(readdirSync(at("in")).sort()).toEqual(files);
    expect(bytesOf("in/model.json")).toEqual(before);
  });
});
