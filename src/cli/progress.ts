// A progress bar on stderr, where that is a terminal.

import { Presets, SingleBar } from "cli-progress";

/** Shows how much of `total` is done; `done` may be a fraction. */
export class Progress {
  readonly #bar: SingleBar | undefined;

  constructor(total: number, unit: string) {
    if (!process.stderr.isTTY) return;
    const format = `{bar} {percentage} % of ${total.toLocaleString("en")} ${unit} | {eta_formatted}`;
    // hiding the cursor would leave it hidden after Ctrl-C
    const options = { format, clearOnComplete: true, hideCursor: false, etaBuffer: 100, stream: process.stderr };
    this.#bar = new SingleBar(options, Presets.shades_classic);
    this.#bar.start(total, 0);
  }

  update(done: number): void {
    this.#bar?.update(done);
  }

  stop(): void {
    this.#bar?.stop();
  }
}
