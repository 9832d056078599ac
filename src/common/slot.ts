// What batchnorm-wasm/core leaves out. A file that calls a feature declares the interface that it needs, and a slot for it.
// The complete entry puts the implementation there (complete.ts), so that no type points upwards and a bundler can drop the
// implementation from a page that imports the small entry.

import { notInCore } from "./errors.ts";

/** A place for the implementation of an interface. It is empty in batchnorm-wasm/core. */
export class Slot<Interface> {
  #implementation: Interface | undefined;

  install(implementation: Interface): void {
    this.#implementation = implementation;
  }

  get installed(): boolean {
    return this.#implementation !== undefined;
  }

  /** The implementation. Throws TypeError in batchnorm-wasm/core; its message names `what` the caller has asked for. */
  get(what: string): Interface {
    if (this.#implementation === undefined) throw notInCore(what);
    return this.#implementation;
  }
}
