// docs/reference/options.md has the options of the code, and their values and defaults in every preset.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { BatchNorm, init, type Preset } from "../../src/index.ts";

const page = readFileSync(new URL("../../docs/reference/options.md", import.meta.url), "utf8");

/** The rows of the first table below a heading, by the name in the first cell. */
function tableBelow(heading: string): Map<string, string[]> {
  const from = page.indexOf(`\n## ${heading}\n`);
  expect(from, heading).toBeGreaterThan(0);
  const [table = ""] = /(^\|.*\n)+/m.exec(page.slice(from)) ?? [];
  const rows = table.trim().split("\n").slice(2);
  return new Map(
    rows.map((row) => {
      const [name = "", ...cells] = row.split("|").slice(1, -1);
      return [name.replaceAll("`", "").trim(), cells.map((cell) => cell.trim())];
    }),
  );
}

/** The message of the error that a call throws. */
function messageOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("expected the call to throw");
}

/** What an error says that it expected: the names of options, or the values of one. */
const named = (message: string) => /options among (.*), got/.exec(message)?.[1]?.split(", ") ?? [];
const quoted = (text: string) => [...text.replace(/, got.*/, "").matchAll(/"([^"]*)"/g)].map(([, value]) => value);

const layer = (options: object) => new BatchNorm(3, options);
const x = { data: Float32Array.of(1, 2, 3, 4, 5, 7), shape: [2, 3] };

const options = tableBelow("BatchNorm");
/** The cells of an option: its defaults, as in "1e-5; keras, tfjs: 1e-3", its values and its meaning. */
const cellsOf = (name: string) => options.get(name) ?? [];
const PRESETS = quoted(cellsOf("preset")[1] ?? "") as Preset[];

describe("options of a layer", () => {
  it("are those of the code", () => {
    expect([...options.keys()]).toEqual(named(messageOf(() => layer({ nonsense: 1 }))));
  });

  it.each([...options].filter(([, [, values = ""]]) => values.startsWith('`"')))(
    "%s has the values of the code",
    (name, [, values = ""]) => {
      expect(quoted(values)).toEqual(quoted(messageOf(() => layer({ [name]: "nonsense" }))));
    },
  );

  /** A value as the page writes it: `"text"`, a number, true, null. */
  const parsed = (text: string): unknown => JSON.parse(text.replaceAll("`", ""));

  it.each(PRESETS)("have their defaults, preset %s", (preset) => {
    const rows = [...options].filter(([name]) => !["preset", "decay", "affine"].includes(name));
    const written = rows.map(([name, [defaults = ""]]) => {
      const [standard = "", ...others] = defaults.split("; ");
      const other = others.find((part) => part.split(": ")[0]?.split(", ").includes(preset));
      return [name, parsed(other?.split(": ")[1] ?? standard)];
    });
    const { momentum, ...exact } = Object.fromEntries(written);
    const { momentum: actual, ...others } = layer({ preset }).options;
    expect(exact).toEqual(others);
    // the paper's rule has no momentum
    if (preset !== "paper") expect(actual).toBeCloseTo(momentum as number, 12);
  });

  it("without a preset are those of its default", () => {
    const preset = parsed(cellsOf("preset")[0] ?? "") as Preset;
    expect(layer({}).options).toEqual(layer({ preset }).options);
    expect(cellsOf("decay")[0]).toBe("1 − momentum");
    expect(layer({ decay: 0.75 }).momentum).toBe(0.25);
    expect(parsed(cellsOf("affine")[0] ?? "")).toBe(true);
    expect(layer({ affine: false }).options).toMatchObject({ scale: false, shift: false });
  });

  it("that can be assigned later are those of the code", () => {
    const below = page.slice(page.indexOf("### What can be changed later"));
    const [assignable = ""] = below.split("Everything else");
    const names = [...assignable.matchAll(/`bn\.(\w+)`/g)].map(([, name]) => name as string);
    const message = messageOf(() => Object.assign(layer({}), { nonsense: 1 }));
    expect(names.sort()).toEqual((/\((.*)\)/.exec(message)?.[1] ?? "").split(", ").sort());
  });

  it("that the small entry lacks are named", () => {
    const [, lacks = ""] = /`batchnorm-wasm\/core` does not have (.*)\./.exec(page) ?? [];
    const declarations = readFileSync(new URL("../../dist/core.d.ts", import.meta.url), "utf8");
    const [, its = ""] = /interface (?:Core)?Options \{([\s\S]*?)\n\}/.exec(declarations) ?? [];
    const names = [...its.matchAll(/^\s+(\w+)\?:/gm)].map(([, name]) => name);
    const missing = [...lacks.matchAll(/`(\w+)`/g)].map(([, name]) => name);
    expect(names.length).toBeGreaterThan(0);
    expect([...options.keys()].filter((name) => !names.includes(name)).sort()).toEqual(missing.sort());
  });
});

it.each<[string, () => unknown]>([
  ["forward", () => layer({}).forward(x, { nonsense: 1 } as object)],
  [
    "backward",
    () => {
      const bn = layer({});
      bn.forward(x);
      bn.backward(x, { nonsense: 1 } as object);
    },
  ],
])("options of %s are those of the code", (heading, call) => {
  expect([...tableBelow(heading).keys()]).toEqual(named(messageOf(call)));
});

it("options of init are those of the code", async () => {
  const message = await init({ nonsense: 1 } as object).catch((error: Error) => error.message);
  expect([...tableBelow("init").keys()]).toEqual(named(String(message)));
});
