// Installs the server that tests of a fleet need, in a run of CI on a Debian machine. Elsewhere it says what to install.

import { spawnSync } from "node:child_process";
import { installPackages } from "../kernel/debian.ts";

const PROGRAMS = ["valkey-server", "redis-server"] as const;
const PACKAGES = ["valkey-server", "valkey-sentinel"] as const;

const isThere = (): boolean => PROGRAMS.some((name) => spawnSync(name, ["--version"]).status === 0);

if (!isThere() && !((await installPackages(PACKAGES)) && isThere())) {
  const why = process.env["CI"] ? "" : ", or set CI, with which it is installed here";
  console.log(
    `Tests of a fleet will not run: install ${PROGRAMS.join(" or ")} (Debian: ${PACKAGES.join(" and ")})${why}`,
  );
}
