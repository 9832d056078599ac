// A release: what `npm run release` changes, in a repository of its own, and what the workflows run.

import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (...path: string[]) => readFileSync(join(...path), "utf8");

describe("npm run release", () => {
  const folder = mkdtempSync(join(tmpdir(), "release-"));
  const run = (file: string, ...args: string[]) =>
    execFileSync(file, args, { cwd: folder, encoding: "utf8", stdio: "pipe" });
  const before = JSON.parse(read(root, "package.json")).version;
  const [major, minor] = before.split(".").map(Number);
  const next = `${major}.${minor + 1}.0`;

  beforeAll(() => {
    for (const file of ["package.json", "package-lock.json", "CHANGELOG.md", ".release-it.json"])
      cpSync(join(root, file), join(folder, file));
    run("git", "init", "-q");
    run("git", "config", "user.name", "Test");
    run("git", "config", "user.email", "test@localhost");
    run("git", "add", ".");
    run("git", "commit", "-qm", "before");
    const releaseIt = join(root, "node_modules/release-it/bin/release-it.js");
    // what it does by itself, but for the push, which needs a remote
    run(process.execPath, releaseIt, "minor", "--ci", "--no-git.push", "--no-git.requireUpstream");
  });

  afterAll(() => rmSync(folder, { recursive: true }));

  it("sets the version in both files", () => {
    for (const file of ["package.json", "package-lock.json"]) expect(JSON.parse(read(folder, file)).version).toBe(next);
  });

  it("gives the changelog's entries to the version, with the date, and begins a new section", () => {
    const old = read(root, "CHANGELOG.md");
    const changed = read(folder, "CHANGELOG.md");
    const title = new RegExp(
      `## \\[Unreleased\\]\\n\\n## \\[${next.replaceAll(".", "\\.")}\\] - \\d{4}-\\d\\d-\\d\\d\\n`,
    );
    expect(changed).toMatch(title);
    expect(changed.replace(title, "## [Unreleased]\n")).toBe(old);
  });

  it("commits all of it, and tags the commit", () => {
    expect(run("git", "status", "--short")).toBe("");
    expect(run("git", "log", "--format=%s")).toBe(`Version ${next}\nbefore\n`);
    expect(run("git", "tag", "--points-at", "HEAD")).toBe(`v${next}\n`);
  });
});

describe("workflows", () => {
  const folder = join(root, ".github/workflows");

  it.each(readdirSync(folder))("%s names each action by a commit", (file) => {
    const actions = [...read(folder, file).matchAll(/uses: (\S+)/g)].map((match) => match[1]);
    expect(actions.length).toBeGreaterThan(0);
    for (const action of actions) expect(action).toMatch(/^(\.\/\.github\/workflows\/\w+\.yml|[\w/-]+@[0-9a-f]{40})$/);
  });

  it("CI is .ci/run, and what is published has passed it and comes with provenance", () => {
    expect(read(folder, "ci.yml")).toContain("run: bash .ci/run\n");
    const publish = read(folder, "publish.yml");
    expect(publish).toContain("needs: ci\n");
    expect(publish).toContain("id-token: write");
    expect(publish).toContain("npm publish --provenance");
  });
});
