// A peer in another isolate or process, as the runner sees peers: open() gives { ask(action, options), close() }, and the
// other side carries out prepare, time and results.

import { ISOLATED } from "./index.mjs";

export const remote = (description, open) => ({
  ...description,
  async prepare(problem, settings) {
    const { ask, close } = await open();
    try {
      const own = { ...settings, ...description.settings };
      const names = await ask("prepare", { peer: description.id, problem, settings: own });
      const operation = (operation) => ({
        time: (repeats) => ask("time", { operation, repeats }),
        results: () => ask("results", { operation }),
      });
      return { operations: Object.fromEntries(names.map((name) => [name, operation(name)])), dispose: close };
    } catch (error) {
      await close();
      throw error;
    }
  },
});

/** isolated(id, description): the peer `id` of index.mjs in isolates that `open` opens. */
export const isolatedBy =
  (open) =>
  (id, description = {}) => {
    const { name, layouts } = ISOLATED[id];
    return remote({ id, name, layouts, ...description }, open);
  };
