// Explores the schedules of ranks that exchange by message ports: SyncBatchNorm and messagePortGroup run as they are, but
// ports and timers are a scheduler's. It chooses what happens next: a rank begins, a message arrives in whatever order, is
// lost or arrives twice, a timer runs out, a rank closes its group. A schedule is run anew from its beginning, since a
// program cannot be copied. What a rank does depends only on what has happened to it, so that schedules with the same
// history of every rank are explored once.

import { messagePortGroup, SyncBatchNorm } from "../../src/index.ts";

/** What a call came to. */
export type Outcome = "result" | "own error" | "group error";

/** What a rank calls, and the faults that may happen. */
export interface Scenario {
  readonly size: number;
  readonly layers: number;
  readonly phases: readonly ("forward" | "backward")[];
  /** Options of a rank's layers, apart from the group. */
  readonly options?: (rank: number) => object;
  /** Options of a call. */
  readonly call?: (rank: number, layer: number, phase: string) => object;
  /** The layers in the order in which a rank calls them. */
  readonly order?: (rank: number) => readonly number[];
  /** How many messages may be lost, or arrive twice, and which. */
  readonly losses?: number;
  readonly duplicates?: number;
  readonly affects?: (message: Flight) => boolean;
  /** How many timers may run out before their time, and of which ranks. */
  readonly early?: number;
  readonly slow?: (rank: number) => boolean;
  /** The rank that closes its group at some moment. */
  readonly closes?: number;
}

/** A message on its way. */
export interface Flight {
  readonly id: string;
  readonly from: number;
  readonly to: number;
  readonly message: { readonly kind: string; readonly number?: number };
}

/** A state in which nothing more can happen. */
export interface End {
  /** Whether a message was lost, a timer ran out or a rank closed its group. */
  readonly faulty: boolean;
  /** What each call came to, by rank, layer and phase; undefined for a call that never ends. */
  readonly outcomes: readonly (readonly Partial<Record<string, Outcome>>[])[];
  readonly errors: readonly string[];
  /** The bits that each successful call left, by rank, layer and phase. */
  readonly bits: readonly (readonly Partial<Record<string, string>>[])[];
  /** Whether an error changed anything. */
  readonly changed: boolean;
  /** Whether each rank's group can still be used. */
  readonly alive: readonly boolean[];
  /** Whether the lost message was one that says that the group is lost. */
  readonly unheard: boolean;
}

interface Timer {
  readonly rank: number;
  readonly run: () => void;
}

interface FakePort {
  onmessage?: (event: { data: unknown }) => void;
  postMessage(message: unknown): void;
  close(): void;
}

/** Waits until all promises that can settle have settled. The longest chain in SyncBatchNorm has about 15 steps. */
async function settle(): Promise<void> {
  for (let i = 0; i < 40; i++) await null;
}

const bitsOf = (...arrays: (ArrayLike<number> | undefined | null)[]) =>
  arrays.map((values) => values && Array.from(values).join(" ")).join("; ");

/** One run of a scenario. */
class Run {
  readonly #scenario: Scenario;
  readonly #flights: Flight[] = [];
  readonly #timers: Timer[] = [];
  readonly #counts = new Map<string, number>();
  readonly #starts: ((() => void) | undefined)[] = [];
  readonly #deliver: ((message: unknown) => void)[][] = [];
  readonly #groups: ReturnType<typeof messagePortGroup>[] = [];
  readonly #layers: SyncBatchNorm[][] = [];
  readonly #outcomes: Partial<Record<string, Outcome>>[][] = [];
  readonly #bits: Partial<Record<string, string>>[][] = [];
  readonly #errors: string[] = [];
  #changed = false;
  #current = 0;
  #left: { losses: number; duplicates: number; early: number; closes: boolean };
  /** What has happened to each rank, and to messages that no rank got. */
  readonly #histories: string[][];
  #faulty = false;
  #unheard = false;

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
    const { size, layers, losses = 0, duplicates = 0, early = 0, closes, options } = scenario;
    this.#left = { losses, duplicates, early, closes: closes !== undefined };
    this.#histories = Array.from({ length: size + 1 }, () => []);
    const ports = Array.from({ length: size }, (_, rank) =>
      rank === 0 ? Array.from({ length: size - 1 }, (_, i) => this.#port(0, i + 1)) : [this.#port(rank, 0)],
    );
    for (let rank = 0; rank < size; rank++) {
      const group = messagePortGroup({ rank, size, ports: ports[rank] as never });
      this.#groups.push(group);
      this.#layers.push(Array.from({ length: layers }, () => new SyncBatchNorm(1, { ...options?.(rank), group })));
      this.#outcomes.push(Array.from({ length: layers }, () => ({})));
      this.#bits.push(Array.from({ length: layers }, () => ({})));
      const order = scenario.order?.(rank) ?? Array.from({ length: layers }, (_, i) => i);
      this.#starts.push(() => {
        for (const layer of order) void this.#program(rank, layer);
      });
    }
  }

  #port(from: number, to: number): FakePort {
    const port: FakePort = {
      postMessage: (message) => {
        const n = (this.#counts.get(`${from}>${to}`) ?? 0) + 1;
        this.#counts.set(`${from}>${to}`, n);
        this.#flights.push({ id: `${from}>${to}#${n}`, from, to, message: structuredClone(message) as never });
      },
      close: () => {},
    };
    this.#deliver[from] ??= [];
    (this.#deliver[from] as unknown[])[to] = (data: unknown) => port.onmessage?.({ data });
    return port;
  }

  /** Calls forward and backward of a layer, and records what they come to. */
  async #program(rank: number, layer: number): Promise<void> {
    const bn = this.#layers[rank]?.[layer] as SyncBatchNorm;
    const x = { data: Float32Array.of(1 + rank, 4 * layer - rank, 2), shape: [3, 1] };
    const outcomes = this.#outcomes[rank]?.[layer] as Partial<Record<string, Outcome>>;
    const bits = this.#bits[rank]?.[layer] as Partial<Record<string, string>>;
    const state = () =>
      `${bitsOf(bn.runningMean, bn.runningVariance, bn.dGamma)} ${bn.batchesTracked} ${bn.saved !== undefined}`;
    for (const phase of this.#scenario.phases) {
      const options = this.#scenario.call?.(rank, layer, phase) ?? {};
      const before = [state(), bn.saved];
      try {
        const y = phase === "forward" ? await bn.forwardAsync(x, options) : (await bn.backwardAsync(x, options)).dx;
        outcomes[phase] = "result";
        bits[phase] = `${bitsOf(y.data)} ${state()}`;
      } catch (error) {
        outcomes[phase] = (error as { code?: string }).code === "group" ? "group error" : "own error";
        this.#errors.push((error as Error).message);
        if (before[0] !== state() || before[1] !== bn.saved) this.#changed = true;
        return;
      }
    }
  }

  /** All that can happen next, as a name and what it does. */
  choices(): { name: string; to: number; run: () => void }[] {
    const { affects = () => true, slow = () => true, closes } = this.#scenario;
    const choices: { name: string; to: number; run: () => void }[] = [];
    const lost = this.#scenario.size;
    this.#starts.forEach((start, rank) => {
      if (!start) return;
      const run = () => {
        this.#starts[rank] = undefined;
        start();
      };
      choices.push({ name: "start", to: rank, run });
    });
    for (const flight of this.#flights) {
      const { id, from, to, message } = flight;
      const remove = () => void this.#flights.splice(this.#flights.indexOf(flight), 1);
      const deliver = () => this.#deliver[to]?.[from]?.(message);
      choices.push({
        name: id,
        to,
        run: () => {
          remove();
          deliver();
        },
      });
      if (this.#left.losses && affects(flight))
        choices.push({
          name: `loss of ${id}`,
          to: lost,
          run: () => {
            this.#left.losses--;
            this.#faulty = true;
            this.#unheard ||= message.kind === "lost";
            remove();
          },
        });
      if (this.#left.duplicates && affects(flight))
        choices.push({
          name: `${id} twice`,
          to,
          run: () => {
            this.#left.duplicates--;
            deliver();
          },
        });
    }
    if (this.#left.closes && !this.#starts[closes as number])
      choices.push({
        name: "close",
        to: closes as number,
        run: () => {
          this.#left.closes = false;
          this.#faulty = true;
          this.#groups[closes as number]?.close();
        },
      });
    const isIdle = choices.length === 0;
    const seen = new Set<number>();
    for (const timer of this.#timers) {
      // timers of a rank run out in the order in which they were set
      if (seen.has(timer.rank) || !(isIdle || (this.#left.early && slow(timer.rank)))) continue;
      seen.add(timer.rank);
      choices.push({
        name: "timer",
        to: timer.rank,
        run: () => {
          if (!isIdle) this.#left.early--;
          this.#faulty = true;
          this.#timers.splice(this.#timers.indexOf(timer), 1);
          timer.run();
        },
      });
    }
    return choices;
  }

  /** Identifies the state after a choice, or the present one. */
  key(choice?: { name: string; to: number }): string {
    return this.#histories
      .map((history, rank) => {
        const names = choice?.to === rank ? [...history, choice.name] : history;
        // which messages were lost counts, and not when
        return (rank === this.#scenario.size ? [...names].sort() : names).join();
      })
      .join("|");
  }

  async step(choice: { name: string; to: number; run: () => void }): Promise<void> {
    this.#histories[choice.to]?.push(choice.name);
    this.#current = choice.to;
    choice.run();
    await settle();
  }

  setTimer(run: () => void): Timer {
    const timer = { rank: this.#current, run };
    this.#timers.push(timer);
    return timer;
  }

  clearTimer(timer: Timer): void {
    const at = this.#timers.indexOf(timer);
    if (at >= 0) this.#timers.splice(at, 1);
  }

  async end(): Promise<End> {
    const result = {
      faulty: this.#faulty,
      outcomes: this.#outcomes,
      errors: this.#errors,
      bits: this.#bits,
      changed: this.#changed,
      unheard: this.#unheard,
    };
    const alive = this.#groups.map(() => true);
    this.#groups.forEach((group, rank) => {
      // a call of a lost group fails at once, and another one waits for the others
      group.sum(new Float64Array(1), 99).catch(() => {
        alive[rank] = false;
      });
    });
    await settle();
    const at = [...alive];
    for (const group of this.#groups) group.close();
    await settle();
    return { ...result, alive: at };
  }
}

/** Explores all schedules of a scenario. Calls `visit` with every end. Returns the numbers of states and of ends. */
export async function explore(scenario: Scenario, visit: (end: End, schedule: readonly string[]) => void) {
  let run: Run;
  const [setTimeout, clearTimeout] = [globalThis.setTimeout, globalThis.clearTimeout];
  const visited = new Set<string>();
  const pending: string[][] = [[]];
  let ends = 0;
  Object.assign(globalThis, {
    setTimeout: (f: () => void) => run.setTimer(f),
    clearTimeout: (timer: Timer) => run.clearTimer(timer),
  });
  try {
    while (pending.length) {
      const prefix = pending.pop() as string[];
      run = new Run(scenario);
      const schedule: string[] = [];
      const take = async (name: string) => {
        const choice = run.choices().find((c) => `${c.to}: ${c.name}` === name);
        if (!choice) throw new Error(`${name} cannot happen after ${schedule.join(", ")}`);
        schedule.push(name);
        await run.step(choice);
      };
      for (const name of prefix) await take(name);
      for (;;) {
        const fresh = run.choices().filter((choice) => !visited.has(run.key(choice)));
        if (run.choices().length === 0) {
          ends++;
          visit(await run.end(), schedule);
        }
        const [next, ...others] = fresh;
        if (!next) break;
        for (const choice of fresh) visited.add(run.key(choice));
        for (const other of others) pending.push([...schedule, `${other.to}: ${other.name}`]);
        await take(`${next.to}: ${next.name}`);
      }
    }
  } finally {
    Object.assign(globalThis, { setTimeout, clearTimeout });
  }
  return { states: visited.size + 1, ends };
}
