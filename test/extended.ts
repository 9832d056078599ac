// The suites are of everything; what a page has without it is in extended.test.ts.

import { extended } from "../src/index.ts";

extended();
