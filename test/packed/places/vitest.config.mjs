// The test hands in the folder of the golden cases by the environment.

export default { test: { environment: "jsdom", testTimeout: 120_000, disableConsoleIntercept: true } };
