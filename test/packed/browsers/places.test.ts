// The packed library in every place of a page that can contain a program, in the browser that runs this suite.

import { afterEach, beforeAll, describe, expect, inject, it } from "vitest";
import { commands, server } from "vitest/browser";
import { type Checked, check } from "../check.js";
import { expectChecked } from "../expected.ts";
import { core, library } from "./places/by-name.js";

const NAMES = { chromium: "Chromium", firefox: "Firefox ESR", webkit: "WebKitGTK" };
const browser = NAMES[server.browser as keyof typeof NAMES];

const { expected } = inject("packed");

interface Manifest {
  readonly cases: readonly { readonly id: string }[];
}

interface Input {
  readonly golden: { readonly manifest: Manifest; readonly data: ArrayBuffer };
  readonly simd: ArrayBuffer;
}

interface Failure {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
}

/** What tasks.js answers when it is asked for threads. */
interface Threads {
  readonly failure?: Failure;
  readonly threads: number;
  readonly values: number;
  readonly different: number;
}

/** Something that answers questions: a worker, or a port to a page or to an audio processor. */
interface Place {
  postMessage(message: unknown): void;
  onmessage: ((event: MessageEvent) => void) | null;
}

const base = new URL("/packed/browsers/places/", location.href);

/** Ends the places that a test opened. */
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

/** The next message of a place. */
const next = (place: Place) =>
  new Promise<unknown>((resolve) => {
    place.onmessage = ({ data }) => resolve(data);
  });

/** A document of its own, under a content security policy where one is given. */
async function openPage(file: string, policy?: string): Promise<Place> {
  const frame = document.createElement("iframe");
  const url = new URL(file, base);
  if (policy) url.searchParams.set("policy", policy);
  frame.src = url.href;
  cleanups.push(() => frame.remove());
  const opened = new Promise<MessagePort>((resolve) => {
    const listener = ({ source, ports: [port] }: MessageEvent) => {
      if (source !== frame.contentWindow || !port) return;
      removeEventListener("message", listener);
      resolve(port);
    };
    addEventListener("message", listener);
  });
  document.body.append(frame);
  const port = await opened;
  await next(port);
  return port;
}

async function openWorker(file: string, type: WorkerType): Promise<Place> {
  const worker = new Worker(new URL(file, base), { type });
  cleanups.push(() => worker.terminate());
  const failed = new Promise<never>((_, reject) => {
    worker.onerror = ({ message }) => reject(new Error(`${file}: ${message || "could not be loaded"}`));
  });
  await Promise.race([next(worker), failed]);
  return worker;
}

/** A processor of an offline context, which needs neither a gesture nor hardware. */
async function openWorklet(file: string): Promise<Place> {
  const context = new OfflineAudioContext(1, 128, 44_100);
  await context.audioWorklet.addModule(new URL(file, base));
  const node = new AudioWorkletNode(context, "batchnorm-wasm");
  cleanups.push(() => node.disconnect()); // a node that nobody refers to ends with its processor
  const failed = new Promise<never>((_, reject) => {
    node.onprocessorerror = () => reject(new Error(`${file}: its processor failed`));
  });
  await Promise.race([next(node.port), failed]);
  return node.port;
}

type Answer<T> = { readonly result: T; readonly failure?: never } | { readonly failure: Failure };

async function ask<T>(place: Place, task: string, input?: Input): Promise<Answer<T>> {
  const answer = next(place);
  place.postMessage({ task, input });
  return (await answer) as Answer<T>;
}

/** What a task results in; its failure is the test's. */
async function perform<T>(place: Place, task: string, input?: Input): Promise<T> {
  const { failure, ...rest } = await ask<T>(place, task, input);
  if (failure) throw new Error(`${task}: ${failure.name}: ${failure.message}`);
  return (rest as { result: T }).result;
}

const WASM = "script-src 'self' 'wasm-unsafe-eval'";

const PLACES: Readonly<Record<string, () => Promise<Place>>> = {
  "ES module": () => openPage("module.html"),
  "classic script": () => openPage("classic.html"),
  "module worker": () => openWorker("module-worker.js", "module"),
  "classic worker": () => openWorker("classic-worker.js", "classic"),
  [`ES module under ${WASM}`]: () => openPage("module.html", WASM),
  [`classic script under ${WASM}`]: () => openPage("classic.html", WASM),
};

let input: Input;
let relaxed: boolean;

beforeAll(async () => {
  const get = async (path: string) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response;
  };
  const bytes = async (path: string) => (await get(path)).arrayBuffer();
  const manifest = (await (await get("/golden/manifest.json")).json()) as Manifest;
  input = {
    golden: { manifest, data: await bytes("/golden/data.bin") },
    simd: await bytes("/library/build/simd.wasm"),
  };
  relaxed = WebAssembly.validate(await bytes("/library/build/relaxed.wasm"));
});

/** Golden cases without numbers below 2⁻¹²⁶. */
const withoutDenormals = ({ golden: { manifest, data }, simd }: Input): Input => ({
  golden: { manifest: { ...manifest, cases: manifest.cases.filter(({ id }) => id !== "ill/denormal") }, data },
  simd,
});

const seen = new Map<string, Checked>();

/** Keeps a place that has passed. */
async function passed(name: string, checked: Checked, what = ""): Promise<void> {
  await commands.record({ kind: "place", name: `${name}, ${browser}`, what, checked });
  seen.set(name, checked);
}

describe(browser, () => {
  it("trains to the same bits where a dev server finds the package by its name", async () => {
    const checked = await check(library, input.golden, new WebAssembly.Module(input.simd), core);
    expectChecked(checked, expected);
    await passed("Vite", checked);
  });

  it.each(Object.keys(PLACES))("trains to the same bits in: %s", async (name) => {
    const place = await (PLACES[name] as () => Promise<Place>)();
    const checked = await perform<Checked>(place, "check", input);
    expectChecked(checked, expected, name.includes("classic") ? "complete" : "both"); // a script is one global
    expect(checked.build).toBe(relaxed ? "relaxed" : "simd");
    await passed(name, checked);
  });

  // Firefox has WebAssembly take numbers below 2⁻¹²⁶ for zero in worklets, and there only: sound needs no such numbers, and
  // processors are slow with them. So the case that is all of such numbers is left out where it does.
  it("trains to the same bits in an AudioWorklet, and with denormal numbers where WebAssembly keeps them there", async () => {
    const place = await openWorklet("worklet.js");
    const flushes = await perform<boolean>(place, "flushes");
    if (flushes) {
      const checked = await perform<Checked>(place, "check", withoutDenormals(input));
      const page = await openPage("module.html");
      expectChecked(checked, await perform<Checked>(page, "check", withoutDenormals(input)));
      expect(checked.extendedDigest).toBe(expected.extendedDigest);
      await passed("AudioWorklet", checked, "without denormal numbers, which are zero there");
    } else {
      const checked = await perform<Checked>(place, "check", input);
      expectChecked(checked, expected);
      await passed("AudioWorklet", checked);
    }
  });

  it("gives the same bits on two threads", async () => {
    expect(crossOriginIsolated).toBe(true);
    const alone = await perform<Checked>(await openPage("module.html"), "check", input);
    const page = await openPage("module.html");
    const { values, ...rest } = await perform<Threads>(page, "threads");
    expect(values).toBeGreaterThan(1_000_000);
    expect(rest).toEqual({ failure: undefined, threads: 2, different: 0 });
    const checked = await perform<Checked>(page, "check", input);
    expectChecked(checked, expected);
    expect(checked.ownDigest).toBe(alone.ownDigest);
    await passed("two threads", checked);
  });

  it("has two threads under a policy with worker-src blob:", async () => {
    const page = await openPage("module.html", `${WASM}; worker-src blob:`);
    expect(await perform<Threads>(page, "threads")).toMatchObject({ threads: 2, different: 0 });
  });

  it.each([
    ["under a policy without worker-src blob:", () => openPage("module.html", WASM)],
    ["in an AudioWorklet", () => openWorklet("worklet.js")],
  ])("says what threads need %s, and works on with one", async (_, open) => {
    const { failure, ...rest } = await perform<Threads>(await open(), "threads");
    expect(failure).toMatchObject({ name: "BatchNormError", code: "thread" });
    expect(failure?.message).toContain("worker-src blob:");
    expect(failure?.message).toContain("audio worklet");
    expect(rest).toMatchObject({ threads: 1, different: 0 });
  });

  it("fails with the policy's name under a policy without wasm-unsafe-eval", async () => {
    const { failure } = await ask(await openPage("module.html", "script-src 'self'"), "construct");
    expect(failure?.name).toBe("CompileError");
    expect(failure?.message).toMatch(/content security policy|CSP/i);
  });

  it("has passed in every place", async () => {
    expect([...seen.keys()]).toEqual(["Vite", ...Object.keys(PLACES), "AudioWorklet", "two threads"]);
    const checked = seen.get("ES module") as Checked;
    await commands.record({ kind: "browser", name: browser, what: "with 1 and 2 threads", checked });
  });
});
