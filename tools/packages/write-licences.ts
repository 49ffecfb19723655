// `npm run licences`: writes docs/licences.md.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { licencePage, productionDependencies } from "./licences.ts";
import { ROOT } from "./workspace.ts";

writeFileSync(join(ROOT, "docs", "licences.md"), licencePage(productionDependencies()));
