// A progress bar on stderr, where that is a terminal.

import { Presets, SingleBar } from "cli-progress";

const shown = (total: number) => total.toLocaleString("en", { maximumFractionDigits: 0 });

/** Shows how much of `total` is done; `done` may be a fraction. */
export class Progress {
  #bar: SingleBar | undefined;

  constructor(total: number, unit: string) {
    if (!process.stderr.isTTY) return;
    const format = `{bar} {percentage} % of {size} ${unit} | {eta_formatted}`;
    // hiding the cursor would leave it hidden after Ctrl-C, and line wrapping switched off
    const terminal = { hideCursor: false, linewrap: true, stream: process.stderr };
    const options = { format, clearOnComplete: true, emptyOnZero: true, etaBuffer: 100 };
    this.#bar = new SingleBar({ ...options, ...terminal }, Presets.shades_classic);
    this.#bar.start(total, 0, { size: shown(total) });
  }

  /** Shows what is done, of another total if there is one. */
  update(done: number, total?: number): void {
    if (total !== undefined) this.#bar?.setTotal(total);
    this.#bar?.update(done, total === undefined ? {} : { size: shown(total) });
  }

  /** Removes the bar. Later updates show nothing. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

/** Shows how many of `total` bytes are done. */
export class BytesProgress extends Progress {
  #done = 0;

  constructor(total: number, unit: string) {
    super(total / 1e6, `MB ${unit}`);
  }

  override update(done: number, total?: number): void {
    super.update(done / 1e6, total === undefined ? undefined : total / 1e6);
  }

  /** Yields pieces of a file, which are done when the next one is asked for. It may be called for several files. */
  async *watch(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of pieces) {
      yield piece;
      this.#done += piece.length;
      this.update(this.#done);
    }
  }
}
