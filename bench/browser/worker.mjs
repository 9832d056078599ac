// An isolate of the browser: what host.mjs does, in a worker that is asked by messages.

import { host } from "../host.mjs";

const actions = host();

addEventListener("message", async ({ data: { action, options } }) => {
  try {
    postMessage({ answer: await actions[action](options) });
  } catch (error) {
    postMessage({ failure: `${error.name}: ${error.message}` });
  }
});
