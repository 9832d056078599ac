// Isolates of the browser: workers that are asked and waited for, with the interface of ../isolate.mjs.

export function isolate() {
  const worker = new Worker("worker.js", { type: "module" });
  return {
    ask: (action, options) =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data: { answer, failure } }) => (failure ? reject(new Error(failure)) : resolve(answer));
        worker.onerror = ({ message }) => reject(new Error(message));
        worker.postMessage({ action, options });
      }),
    close: () => worker.terminate(),
  };
}
