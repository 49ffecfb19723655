import type { EngineInfo } from "@readme-moe/core";
import type { CallName, Calls } from "../protocol.ts";

/** Description of an engine and calls to its worker, which the parts of its host need. */
export interface CallingEngine<Info = EngineInfo> {
  readonly getInfo: () => Info;
  readonly call: <Name extends CallName>(
    name: Name,
    args: Calls[Name]["args"],
    signal?: AbortSignal,
  ) => Promise<Calls[Name]["result"]>;
}
