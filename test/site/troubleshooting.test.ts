// docs/guides/troubleshooting.md has every code of BatchNormError, with its cause and remedy from src/common/errors.ts and a
// message that the library has thrown. `npm run docs:troubleshooting` writes them.

import { readFileSync } from "node:fs";
import ts from "typescript";
import { expect, test } from "vitest";
import { BatchNorm, BatchNormError, type BatchNormErrorCode, readSafetensors, tensor } from "../../dist/index.js";
import { bytesSource, inspect } from "../../dist/tools.js";
import { faultyGroup, noMpi, noSimd, otherMemory, outOfMemory, threadNotStarted } from "../../src/common/errors.ts";
import { expectPart } from "../support/document.ts";
import { ROOT } from "./programs.ts";

const PAGE = new URL("docs/guides/troubleshooting.md", ROOT);

const x = { data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [3, 2] };

/**
 * For each code, a call that throws such an error. What depends on the machine, its memory or other processes comes from the
 * function that makes the message. A code that is missing here does not compile.
 */
const EXAMPLES: Record<BatchNormErrorCode, () => unknown> = {
  "one-value-per-channel": () => new BatchNorm(2).forward({ data: Float32Array.of(1, 2), shape: [1, 2] }),
  "non-finite-statistics": () => new BatchNorm(2).forward({ ...x, data: Float32Array.of(1, 2, 3, NaN, 5, 6) }),
  "no-forward": () => new BatchNorm(2).backward(x),
  "no-running-statistics": () => new BatchNorm(2, { trackRunningStats: false }).forward(x, { mode: "frozen" }),
  "in-place": () => new BatchNorm(2).forward(x, { out: x }),
  disposed: () => {
    const gone = tensor([3, 2]);
    gone.dispose();
    new BatchNorm(2).forward(gone);
  },
  "other-memory": () => thrown(otherMemory("x")),
  "out-of-memory": () => thrown(outOfMemory(8589934592, 67108864, 4294967296)),
  "state-dict": () =>
    new BatchNorm(2).loadStateDict({ "bn1.running_mean": [0, 0], "bn1.running_var": [1, 1], weight: [1, 1, 1] }),
  safetensors: () => readSafetensors(new TextEncoder().encode("<!doctype html>")),
  "model-file": () => inspect(bytesSource("model.pt", Uint8Array.of(0x50, 0x4b, 3, 4))),
  "no-simd": () => thrown(noSimd()),
  thread: () => thrown(threadNotStarted(1, "the worker failed to load")),
  group: () => thrown(faultyGroup(1, 4, 0)),
  mpi: () => thrown(noMpi("the package koffi", "npm install koffi")),
};

function thrown(error: Error): never {
  throw error;
}

/** The codes in errors.ts, each with the paragraphs of its comment. */
function documented(): [code: string, cause: string, remedy: string][] {
  const file = ts.createSourceFile(
    "errors.ts",
    readFileSync(new URL("src/common/errors.ts", ROOT), "utf8"),
    ts.ScriptTarget.Latest,
    true,
  );
  const union = file.statements
    .filter(ts.isTypeAliasDeclaration)
    .find(({ name }) => name.text === "BatchNormErrorCode")?.type;
  if (!union || !ts.isUnionTypeNode(union)) throw new Error("BatchNormErrorCode is no union");
  return union.types.map((type) => {
    const code = ((type as ts.LiteralTypeNode).literal as ts.StringLiteral).text;
    // TypeScript has the comment in front of the bar, which is trivia of the literal or of the union
    const before = file.text.slice(union.types.pos, type.getStart(file));
    const comment = before.match(/\/\*\*((?:(?!\/\*\*)[\s\S])*?)\*\/\s*\|?\s*$/)?.[1] ?? "";
    const [cause = "", remedy = ""] = comment
      .replace(/^\s*\* ?/gm, "")
      .trim()
      .split(/\n\nRemedy: /)
      .map((paragraph) => paragraph.replace(/\s+/g, " "));
    return [code, cause, remedy];
  });
}

async function messageOf(code: BatchNormErrorCode): Promise<string> {
  try {
    await EXAMPLES[code]();
  } catch (error) {
    expect(error).toBeInstanceOf(BatchNormError);
    expect((error as BatchNormError).code).toBe(code);
    return (error as Error).message;
  }
  throw new Error(`${code}: nothing was thrown`);
}

test("every code has a cause and a remedy", () => {
  const codes = documented();
  expect(codes.map(([code]) => code).sort()).toEqual(Object.keys(EXAMPLES).sort());
  expect(codes.filter(([, cause, remedy]) => !cause.endsWith(".") || !remedy.endsWith("."))).toEqual([]);
});

test("the page has every code, with a message that the library throws", async () => {
  const entries = [];
  for (const [code, cause, remedy] of documented())
    entries.push(
      `### ${code}`,
      cause,
      `\`\`\`text\n${await messageOf(code as BatchNormErrorCode)}\n\`\`\``,
      `**Remedy.** ${remedy}`,
    );
  expectPart(PAGE, "codes", entries.join("\n\n"));
});
