// Every schedule of a few ranks and layers, explored by test/support/schedules.ts, and the table of outcomes in
// docs/guides/sync-guarantees.md, which this test writes: npm run docs:sync.

import { describe, expect, it } from "vitest";
import { expectPart } from "../support/document.ts";
import { type End, explore, type Scenario } from "../support/schedules.ts";

const DOCUMENT = new URL("../../docs/guides/sync-guarantees.md", import.meta.url);

const BOTH = ["forward", "backward"] as const;

/** The bits of a schedule without faults. */
async function expectedBits(scenario: Scenario) {
  let bits: End["bits"] | undefined;
  const { options, size, layers, phases } = scenario;
  const plain = { size, layers, phases, ...(options && { options: () => options(0) }) };
  await explore(plain, (end) => {
    bits ??= end.bits;
    expect(end.bits).toEqual(bits);
  });
  return bits as End["bits"];
}

/** What holds after any schedule, whatever fails. */
function checkEnd(end: End, schedule: readonly string[], scenario: Scenario, expected: End["bits"]) {
  const where = schedule.join(", ");
  const ended = end.outcomes.flat().every((phases) => {
    const last = Object.values(phases).at(-1);
    return last !== undefined && (last !== "result" || Object.keys(phases).length === scenario.phases.length);
  });
  expect(ended, `every call ends: ${where}`).toBe(true);
  expect(end.changed, `an error changes nothing: ${where}`).toBe(false);
  for (const [rank, layers] of end.bits.entries())
    for (const [layer, phases] of layers.entries())
      for (const [phase, bits] of Object.entries(phases))
        expect(bits, `${phase} of layer ${layer} on rank ${rank}: ${where}`).toBe(expected[rank]?.[layer]?.[phase]);
  // ranks come to different outcomes only if a message or a rank was lost, and then the group is lost, too
  const alike = (scenario.layers === 1 ? [0] : [0, 1]).every(
    (layer) =>
      new Set(end.outcomes.map((ranks) => Object.values(ranks[layer] ?? {}).filter((o) => o === "result").length))
        .size === 1,
  );
  if (!end.faulty) expect([alike, ...end.alive], where).toEqual([true, ...end.alive.map(() => true)]);
  else if (!alike && !end.unheard) expect(end.alive, where).toEqual(end.alive.map(() => false));
}

const refuse = (rank: number, layer: number, phase: string) => (r: number, l: number, p: string) =>
  r === rank && l === layer && p === phase ? { foo: 1 } : {};

const MODELS: Record<string, Scenario> = {
  "2 ranks, 2 layers": { size: 2, layers: 2, phases: BOTH },
  "2 ranks, 2 layers, a duplicate": { size: 2, layers: 2, phases: BOTH, duplicates: 1 },
  "2 ranks, 2 layers, a loss": { size: 2, layers: 2, phases: BOTH, losses: 1 },
  "2 ranks, 2 layers, a slow rank": { size: 2, layers: 2, phases: BOTH, early: 1 },
  "2 ranks, 2 layers, a refusal": { size: 2, layers: 2, phases: BOTH, call: refuse(1, 0, "forward") },
  "2 ranks, 2 layers, called in another order": {
    size: 2,
    layers: 2,
    phases: BOTH,
    order: (rank) => (rank ? [1, 0] : [0, 1]),
  },
  "2 ranks, a loss, a duplicate and a slow rank": {
    size: 2,
    layers: 1,
    phases: BOTH,
    losses: 1,
    duplicates: 1,
    early: 1,
  },
  "3 ranks, 2 layers": { size: 3, layers: 2, phases: ["forward"] },
  "3 ranks, 2 layers, a refusal": { size: 3, layers: 2, phases: ["forward"], call: refuse(2, 1, "forward") },
  "3 ranks, a loss": { size: 3, layers: 1, phases: BOTH, losses: 1 },
  "3 ranks, a duplicate": { size: 3, layers: 1, phases: BOTH, duplicates: 1 },
  "3 ranks, a slow rank": { size: 3, layers: 1, phases: BOTH, early: 1 },
  "3 ranks, a rank that closes": { size: 3, layers: 1, phases: BOTH, closes: 1 },
  "3 ranks, a refusal in backward": { size: 3, layers: 1, phases: BOTH, call: refuse(1, 0, "backward") },
  "3 ranks, another momentum": {
    size: 3,
    layers: 1,
    phases: BOTH,
    options: (rank) => ({ momentum: rank === 1 ? 0.5 : 0.1 }),
  },
};

const counts: string[] = [];

describe("in every schedule of", () => {
  it.each(Object.entries(MODELS))(
    "%s, calls end, errors change nothing, and results have their bits",
    async (name, scenario) => {
      const expected = await expectedBits(scenario);
      const { states, ends } = await explore(scenario, (end, schedule) => checkEnd(end, schedule, scenario, expected));
      expect(ends).toBeGreaterThan(0);
      counts.push(`| ${name} | ${states} | ${ends} |`);
    },
  );

  it("docs/guides/sync-guarantees.md has how many there are (npm run docs:sync)", () => {
    expect(counts).toHaveLength(Object.keys(MODELS).length);
    expectPart(DOCUMENT, "schedules", ["| explored | states | ends |", "|---|---:|---:|", ...counts].join("\n"));
  });
});

/** Failures of rank 1, or on the way from or to it, in one phase. A message of this phase has this number. */
const failures = (phase: "forward" | "backward", number: number): Record<string, Partial<Scenario>> => ({
  "none, in any order, any message twice": { duplicates: 1 },
  "a rank refuses its arguments": { call: refuse(1, 0, phase) },
  ...(phase === "forward" && {
    "a rank has other options": { options: (rank) => ({ momentum: rank === 1 ? 0.5 : 0.1 }) },
  }),
  "a rank's values are lost": {
    losses: 1,
    affects: ({ from, message }) => from === 1 && message.kind === "gather" && message.number === number,
  },
  "the result for a rank is lost": {
    losses: 1,
    affects: ({ to, message }) => to === 1 && message.kind === "result" && message.number === number,
  },
  "a rank's time runs out": { early: 1, slow: (rank) => rank === 1 },
  "a rank closes its group": { closes: 1 },
});

const WORDS = {
  result: "result",
  "own error": "its own error",
  "group error": "error `group`",
} as const;

it("docs/guides/sync-guarantees.md has what each failure comes to on each rank (npm run docs:sync)", async () => {
  const rows: string[] = [];
  for (const [i, phase] of BOTH.entries())
    for (const [name, failure] of Object.entries(failures(phase, i + 1))) {
      const base: Scenario = { size: 3, layers: 1, phases: BOTH.slice(0, i + 1) };
      const scenario = { ...base, ...failure };
      const expected = await expectedBits(base);
      const seen = [new Set<string>(), new Set<string>()];
      let alive = true;
      let unlike = false;
      await explore(scenario, (end, schedule) => {
        if (end.outcomes.some(([phases]) => !phases?.[phase])) return; // the phase before has failed
        checkEnd(end, schedule, scenario, scenario.options ? end.bits : expected);
        if (scenario.losses && !end.faulty) return; // the loss did not happen
        const outcomes = end.outcomes.map(([phases]) => phases?.[phase]);
        for (const [rank, outcome] of outcomes.entries())
          seen[rank === 1 ? 0 : 1]?.add(WORDS[outcome as keyof typeof WORDS]);
        unlike ||= outcomes.includes("result") && new Set(outcomes).size > 1;
        alive &&= end.alive.every(Boolean);
      });
      const [own, others] = seen.map((words) => [...words].sort().join(" or "));
      const always = own === "result" ? "changed on all ranks" : "changed on no rank";
      const state = unlike ? "**may differ between ranks**" : always;
      rows.push(`| ${phase} | ${name} | ${own} | ${others} | ${state} | ${alive ? "goes on" : "is lost"} |`);
    }
  const head = ["| phase | failure | on that rank | on the others | state | the group |", "|---|---|---|---|---|---|"];
  expectPart(DOCUMENT, "outcomes", [...head, ...rows].join("\n"));
});
