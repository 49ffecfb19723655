// Which events an engine's worker sends: those that have listeners.

import { resolveSamplingParams } from "@readme-moe/core";
import { expect, test } from "vitest";
import { resolveEngineOptions } from "../../packages/engine/src/engine-options.ts";
import { openChannel } from "../../packages/engine/src/host/worker-link.ts";
import type { FromWorker } from "../../packages/engine/src/protocol.ts";
import { POCKET } from "../support/pocket.ts";

test("events without listeners do not cross the process", async () => {
  const messages: FromWorker[] = [];
  let tell: (() => void) | undefined;
  const channel = openChannel("process", (message) => {
    messages.push(message);
    tell?.();
  });
  const until = (isThere: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      tell = () => isThere() && resolve();
      tell();
    });
  const eventsOf = (): readonly string[] =>
    messages
      .flatMap((message) => (message.type === "news" ? message.news : []))
      .flatMap((one) => (one.type === "event" ? one.name : []));
  const finished = (): boolean =>
    messages.some(({ type, ...rest }) => type === "news" && JSON.stringify(rest).includes('"usage"'));
  const request = {
    type: "generate",
    prompt: "The ship was",
    params: resolveSamplingParams({ maxTokens: 4, temperature: 0, ignoreEos: true }, { vocabSize: 4096 }),
    expert: undefined,
    priority: 0,
    seed: 1,
    processesLogits: false,
  } as const;

  channel.post({ type: "open", path: POCKET, options: resolveEngineOptions({ precision: "int8", threads: 1 }) });
  await until(() => messages.some(({ type }) => type === "opened"));
  channel.post({ ...request, requestId: "unheard" });
  await until(finished);
  expect(eventsOf()).toEqual([]);

  messages.length = 0;
  channel.post({ type: "listen", names: ["token:generated"] });
  channel.post({ ...request, requestId: "heard" });
  await until(finished);
  expect(eventsOf()).toEqual(Array.from({ length: 4 }, () => "token:generated"));

  channel.post({ type: "close" });
  await channel.exited;
});
