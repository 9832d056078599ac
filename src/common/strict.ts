// A base class whose instances refuse properties that do not exist, and know a Proxy from themselves.

import { proxied, unknownProperty } from "./errors.ts";

// An engine by itself throws only in strict mode, and ignores the assignment in scripts. Constructors call
// Object.preventExtensions for their own instances only, so that authors of subclasses can add properties.
/** A class whose instances throw TypeError for a new property once they cannot be extended, also in sloppy scripts. */
export const Strict: {
  new (): object;
  /** @internal */
  checkItself(name: string, value: object): void;
} = /* @__PURE__ */ (() => {
  class Strict {
    readonly #brand = true;

    /** Throws TypeError if a value is a Proxy around an instance, whose private fields cannot be read. */
    static checkItself(name: string, value: object): void {
      if (!(#brand in value) && value instanceof Strict) throw proxied(name);
    }
  }
  // an assignment to a property that is found nowhere on the prototypes reaches the last of them
  const last = new Proxy(
    {},
    {
      set(_, name, value, instance) {
        if (!Object.isExtensible(instance)) throw unknownProperty(String(name));
        return Reflect.defineProperty(instance, name, { value, writable: true, enumerable: true, configurable: true });
      },
    },
  );
  Object.setPrototypeOf(Strict.prototype, last);
  return Strict;
})();
