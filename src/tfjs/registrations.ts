// Registrations in TF.js's global registries that several calls share.

const registrations = /* @__PURE__ */ new Map<string, { uses: number; readonly undo: () => void }>();

/**
 * Calls `register` if no earlier call with this key is in force. Returns a function that undoes this call. What `register`
 * returns is called when all calls have been undone, in any order.
 */
export function shared(key: string, register: () => () => void): () => void {
  const entry = registrations.get(key) ?? { uses: 0, undo: register() };
  registrations.set(key, entry);
  entry.uses++;
  let isInForce = true;
  return () => {
    if (!isInForce) return;
    isInForce = false;
    if (--entry.uses > 0) return;
    registrations.delete(key);
    entry.undo();
  };
}
