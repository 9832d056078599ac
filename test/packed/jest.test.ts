// The packed library in Jest, which runs tests in a realm of its own: by require and by import, in its environments for
// Node and jsdom. The tests of test/packed/jest go through what once failed there.

import { execFile } from "node:child_process";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, inject, it } from "vitest";
import { tool } from "./tools.ts";

/** A project that depends on the library, which lies in the node_modules of the folder above. */
const project = join(inject("packed").library, "../../jest");

beforeAll(() => {
  rmSync(project, { recursive: true, force: true });
  cpSync(fileURLToPath(new URL("./jest", import.meta.url)), project, { recursive: true });
  writeFileSync(join(project, "package.json"), "{}");
});

interface Report {
  readonly numPassedTests: number;
  readonly testResults: readonly { readonly name: string; readonly message: string; readonly status: string }[];
}

/** Runs Jest and returns its report. It ends with an error where a test fails, which the report has too. */
function jest(environment: string): Promise<Report> {
  const report = join(project, "report.json");
  const config = { rootDir: project, testMatch: ["**/*.test.{cjs,mjs}"], transform: {}, testEnvironment: environment };
  const args = [tool("jest/bin/jest.js"), "--config", JSON.stringify(config), "--json", `--outputFile=${report}`];
  const env = { ...process.env, NODE_OPTIONS: "--experimental-vm-modules" };
  return new Promise((done, failed) => {
    execFile(process.execPath, args, { cwd: project, env, maxBuffer: 1 << 26 }, (error, _, stderr) => {
      try {
        done(JSON.parse(readFileSync(report, "utf8")));
      } catch {
        failed(new Error(`jest: expected a report, got:\n${error?.message}\n${stderr}`));
      } finally {
        rmSync(report, { force: true });
      }
    });
  });
}

it.each([
  ["node", "jest-environment-node/build/index.js"],
  ["jsdom", "jest-environment-jsdom/build/index.js"],
])("runs every check in environment %s, by require and by import", async (_, environment) => {
  const { numPassedTests, testResults } = await jest(tool(environment));
  for (const { message } of testResults) expect(message).toBe("");
  expect(testResults.map(({ name, status }) => [name.slice(project.length + 1), status]).sort()).toEqual([
    ["import.test.mjs", "passed"],
    ["require.test.cjs", "passed"],
  ]);
  expect(numPassedTests).toBe(2 * 34);
});
