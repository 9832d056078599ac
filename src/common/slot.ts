// Slots for the features that batchnorm-wasm/core leaves out. The file that calls a feature declares the interface that
// it needs and a slot for it. The complete entry puts the implementation there (complete.ts). So no type points
// upwards, and a bundler can drop the implementation from a page that imports the small entry.

import { notInCore } from "./errors.ts";

/** A place for the implementation of an interface. It is empty in batchnorm-wasm/core. */
export class Slot<Interface> {
  #implementation: Interface | undefined;

  /** Puts the implementation into the slot. */
  install(implementation: Interface): void {
    this.#implementation = implementation;
  }

  /** Whether the slot has an implementation: true in the complete entry, false in batchnorm-wasm/core. */
  get installed(): boolean {
    return this.#implementation !== undefined;
  }

  /** Returns the implementation. Throws TypeError in batchnorm-wasm/core; the message names the feature, `what`. */
  get(what: string): Interface {
    if (this.#implementation === undefined) throw notInCore(what);
    return this.#implementation;
  }
}
