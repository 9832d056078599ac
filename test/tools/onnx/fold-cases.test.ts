// foldOnnx, one small model for each case: what is folded into what, and that onnxruntime computes the same.

import { describe, expect, it } from "vitest";
import { foldOnnx } from "../../../src/tools/index.ts";
import { Model } from "../../../src/tools/onnx/graph.ts";
import { bytesOf, caseOf, differenceOf, filesOf, run, sourceOf } from "./onnxruntime.ts";

/** What is expected of each model: "batch norm → layers" for what is folded, "batch norm: reason" for what is kept. */
const CASES: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  // networks that PyTorch has exported
  resnet: ["/1/BatchNormalization → /0/Conv", "/4/bn1/BatchNormalization → /4/conv1/Conv"].concat([
    "/4/bn2/BatchNormalization → /4/conv2/Conv",
    "/4/shortcut/shortcut.1/BatchNormalization → /4/shortcut/shortcut.0/Conv",
  ]),
  mobilenet: ["/1/BatchNormalization → /0/Conv"].concat(
    [0, 3, 6].map((i) => `/3/layers/layers.${i + 1}/BatchNormalization → /3/layers/layers.${i}/Conv`),
  ),
  densenet: [
    "/1/layers/layers.3/BatchNormalization → /1/layers/layers.2/Conv",
    "/2/layers/layers.3/BatchNormalization → /2/layers/layers.2/Conv",
    /^\/1\/layers\/layers\.0\/BatchNormalization: the output of "\/0\/Conv" \(Conv\) before it is taken elsewhere, too, by "\/1\/Concat" \(Concat\); behind it, "\/1\/layers\/layers\.1\/Relu" \(Relu\) is neither/,
    /^\/2\/layers\/layers\.0\/BatchNormalization: .* before it is taken elsewhere, too, by /,
    /^\/3\/BatchNormalization: before it, "\/2\/Concat" \(Concat\) is neither a convolution nor linear nor commutes/,
  ],
  decoder: ["/1/BatchNormalization → /0/ConvTranspose", "/4/BatchNormalization → /3/ConvTranspose"],
  mlp: ["/1/BatchNormalization → /0/Gemm", "/5/BatchNormalization → /4/MatMul"],
  arcface: ["/1/BatchNormalization → /0/Conv", "/3/BatchNormalization ⇒ /6/Gemm", "/7/BatchNormalization → /6/Gemm"],
  untrained: ["/1/BatchNormalization → /0/Conv"],

  // backward
  ir3: ["bn → c"],
  constants: ["bn → c"],
  between: ["bn → c"],
  chain: ["bn → c", "bn2 → c"],
  "max-pool": ["bn → c"],
  "max-pool-negative": [
    /^bn: before it, "p" \(MaxPool\) does not commute with a negative gamma; behind it is an output/,
  ],
  shared: ["bn → c", "z → d"],
  "shared-kept": ["bn → c"],
  "mean-is-output": ["bn → c"],
  external: ["bn → c", "bn2 → d"],
  consumers: [
    /^bn: the output of "c" \(Conv\) before it is taken elsewhere, too, by "r" \(Relu\); behind it, "y" \(Add\)/,
  ],
  "conv-is-output": [
    /^bn: the output of "c" \(Conv\) before it is taken elsewhere, too, as an output of the graph; behind/,
  ],
  overridable: [/^bn: "c" \(Conv\) has a weight that callers may override; behind it is an output of the graph$/],
  "overridable-mean": ["bn: its mean is an input of the graph, which callers may override"],
  training: ["bn: it is in training mode, and normalises by the statistics of its input"],
  lossy: [
    /^bn: folding backward loses digits: an expected error of 7\.0e-4 of an output's size, more than 1e-5; behind/,
  ],

  // forward
  "forward-conv": ["bn ⇒ y"],
  "forward-two": ["bn ⇒ y, z"],
  "forward-reshape": ["bn ⇒ m"],
  "forward-padded": [
    'bn: before it is no node; "y" (Conv) behind it pads with zeros, which would have to be shifted, too',
  ],
  "forward-same": [
    'bn: before it is no node; "y" (Conv) behind it pads with zeros, which would have to be shifted, too',
  ],
  "forward-transposed": [
    /; "y" \(ConvTranspose\) behind it is transposed, and a shift does not reach all of its outputs/,
  ],

  // linear
  matmul: ["bn → m"],
  "matmul-add": ["bn → m"],
  "matmul-scalar": ["bn → m"],
  "matmul-forward": ["bn ⇒ y"],
  "matmul-rank3": [/^bn: "m" \(MatMul\) has an input that is not known to have two axes; onnx\.shape_inference/],
  gemm: ["bn → g"],
  "gemm-rows": [/^bn: "g" \(Gemm\) has a bias of shape \[3,6\] for 6 outputs; behind it is an output of the graph$/],
  "gemm-forward": ["bn ⇒ y"],

  // graphs inside nodes
  "if-true": [
    "y/then_branch/bn1 → y/then_branch/t1",
    "y/else_branch/bn → y/else_branch/e1",
    /^bn: the output of "c" \(Conv\) before it is taken elsewhere, too, by "bn2" \(BatchNormalization\) in a graph inside a node; /,
    "y/else_branch/bn2: its input comes from a graph around its own; behind it, " +
      '"e4" (Add) is neither a convolution nor linear nor commutes with batch norm',
  ],
  loop: [
    "y/body/bn1 → y/body/c1",
    "y/body/bn2 → y/body/c2",
    'y/body/bn3: its mean is not constant: "m" is an input of the graph',
  ],
  scan: ["sum/body/bn1 ⇒ sum/body/c", "sum/body/bn2 → sum/body/c"],
};
const ALL = { ...CASES, "if-false": CASES["if-true"] as (string | RegExp)[] };

describe.each(Object.entries(ALL))("%s", (name, expected) => {
  const original = bytesOf(`${name}.onnx`);

  it("is folded where it can be", async () => {
    const { model, report } = await foldOnnx(sourceOf(name));
    const lines = [
      ...report.folded.map((f) => `${f.batchNorm} ${f.direction === "forward" ? "⇒" : "→"} ${f.into.join(", ")}`),
      ...report.kept.map((k) => `${k.batchNorm}: ${k.reason}`),
    ];
    expect(lines).toHaveLength(expected.length);
    for (const line of expected)
      expect(lines).toContainEqual(typeof line === "string" ? line : expect.stringMatching(line));
    const rest = new Model("", model).graphs.flatMap(({ nodes }) => nodes.filter((n) => n.is("BatchNormalization")));
    expect(rest.map((node) => node.path).sort()).toEqual(report.kept.map((k) => k.batchNorm).sort());
    if (report.folded.length === 0) expect(model).toEqual(original);
    for (const { expectedError } of report.folded) expect(expectedError).toBeLessThan(5e-7);
  });

  it("computes the same in onnxruntime, and what the reference implementation computes", async () => {
    const folded = await foldOnnx(sourceOf(name));
    const { inputs, outputs } = caseOf(name);
    const before = await run(original, inputs, { "external.data": bytesOf("external.data") });
    const after = await run(folded.model, inputs, filesOf(folded));
    expect(Object.keys(after)).toEqual(Object.keys(before));
    for (const [output, { data }] of Object.entries(outputs)) {
      expect(differenceOf(before[output] as number[], data)).toBeLessThan(1e-6);
      expect(differenceOf(after[output] as number[], data)).toBeLessThan(1e-6);
    }
  });

  it("stays as it is when it is folded again", async () => {
    const folded = await foldOnnx(sourceOf(name));
    const again = await foldOnnx({
      ...sourceOf(name, folded.model),
      sibling: async (file) => sourceOf(file, filesOf(folded)[file] as Uint8Array),
    });
    expect(again.report).toEqual({ folded: [], kept: folded.report.kept });
    expect(again.model).toEqual(folded.model);
    expect([...again.external].every(([, patches]) => patches.length === 0)).toBe(true);
  });
});
