// The child of builds.mjs: prints what compareBuilds gives, as JSON.

import { readFileSync } from "node:fs";
import { BUILDS } from "./builds.mjs";
import { isolate } from "./isolate.mjs";
import { QUICK, THOROUGH } from "./measure.mjs";
import { isolatedBy } from "./peers/remote.mjs";
import { compareBuilds } from "./variants.mjs";

const builds = Object.fromEntries(Object.entries(BUILDS).map(([name, file]) => [name, readFileSync(file)]));
const effort = process.argv.includes("--quick") ? QUICK : THOROUGH;
const variants = await compareBuilds(builds, { isolated: isolatedBy(isolate), effort, onProgress: () => {} });
process.stdout.write(JSON.stringify(variants));
