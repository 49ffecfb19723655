// Runs the benchmark suites. README.md explains how to write one; `npm run bench -- --help` lists the options.

import { ReadMeError } from "@readme-moe/core";
import { pocketExperts } from "../examples/pocket-experts.ts";
import { adapterSuite } from "./adapter/adapter-suite.ts";
import { engineSuite } from "./engine/engine-suite.ts";
import { ownTexts } from "./engine/own-texts.ts";
import { enginePeers, filePeers, peerVersions } from "./engine/peers.ts";
import { expressSuite } from "./express/express-suite.ts";
import { fileSuite } from "./file/file-suite.ts";
import { fidelitySuite } from "./fidelity/suite.ts";
import { growthSuite } from "./growth/growth-suite.ts";
import { benchCommand, BenchFailure } from "./kit/bench-command.ts";
import { limitsSuite } from "./limits/suite.ts";
import { paperSuite } from "./paper/suite.ts";
import { qualitySuite } from "./quality/suite.ts";
import { schedulingSuite } from "./scheduling/scheduling-suite.ts";
import { serverSuite } from "./server/server-suite.ts";

const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort());
await benchCommand({
  suites: [
    engineSuite({ peers: enginePeers, data: ownTexts }),
    fileSuite({ peers: filePeers, data: ownTexts }),
    adapterSuite,
    serverSuite,
    expressSuite,
    schedulingSuite,
    growthSuite,
    paperSuite,
    qualitySuite,
    limitsSuite,
    fidelitySuite,
  ],
  defaults: { model: "models/pocket-experts", dense: "models/pocket", prepare: () => pocketExperts() },
  peers: peerVersions(),
  signal: interrupt.signal,
})
  .parseAsync()
  .catch((error: unknown) => {
    process.exitCode = interrupt.signal.aborted ? 130 : 1;
    if (interrupt.signal.aborted) return;
    const hasOwnMessage = [TypeError, RangeError, ReadMeError, BenchFailure].some((kind) => error instanceof kind);
    console.error(hasOwnMessage && error instanceof Error ? `error: ${error.message}` : error);
  });
