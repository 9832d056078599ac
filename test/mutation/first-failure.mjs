// A reporter for Vitest that ends the process at the first failure. --bail waits for tests that other threads are in,
// which a mutant may keep busy for minutes.

const exitIfFailed = (failed) => {
  if (failed) process.exit(1);
};

export default class FirstFailure {
  onTestCaseResult(testCase) {
    exitIfFailed(testCase.result().state === "failed");
  }

  onTestModuleEnd(testModule) {
    exitIfFailed(testModule.state() === "failed");
  }
}
