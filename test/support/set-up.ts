// Runs before each file of tests. Modules that tests import run once for all files of a process, so hooks belong here.

import { afterAll } from "vitest";
import { removePersistentFolders } from "./temporary-folder.ts";

afterAll(removePersistentFolders);
