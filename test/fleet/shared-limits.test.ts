// Rate limits that two fronts share through Valkey, and each front's own while it is away.

import { openSharedLimits, type LimitUnit, type SharedLimits } from "@readme-moe/fleet";
import express from "express";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { guard } from "../../packages/express/src/edge/guard.ts";
import { localsOf } from "../../packages/express/src/http/request.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { listen, type RunningServer } from "../support/served-model.ts";
import { until } from "../support/serving-process.ts";

if (noServer !== undefined) console.log(`The tests of shared rate limits did not run: ${noServer}`);

const open = (options: object) => () => openSharedLimits({ fleet: "redis://:secret@127.0.0.1:1", ...options });

test("shared limits refuse wrong numbers and URLs, without the URL", () => {
  expect(open({ requestsPerMinute: 0 })).toThrow(/`requestsPerMinute`/);
  expect(open({ tokensPerMinute: 1.5 })).toThrow(/`tokensPerMinute`/);
  expect(open({ fleet: "http://:secret@host" })).toThrow(/^(?!.*secret).*`fleet`/);
});

/** Longest waits for Valkey of two fronts, and of two others that ask it while it does not answer. */
const COMMAND_MS = [30_000, 30_000, 100, 100] as const;
const [PATIENT, HASTY] = [[0, 1] as const, [2, 3] as const];

describe.skipIf(noServer !== undefined)("two fronts (skipped without Valkey)", () => {
  let valkey: ValkeyServer;
  const limits: SharedLimits[] = [];
  const servers: RunningServer[] = [];
  const local: LimitUnit[] = [];

  /** Sends a request that costs so many tokens. @returns status, and what remains of the requests */
  const ask = async (
    front: number,
    key: string,
    tokens = 0,
  ): Promise<readonly [status: number, left: string | null]> => {
    const headers = { authorization: `Bearer ${key}`, tokens: `${tokens}` };
    const { status, headers: answered } = await fetch(servers[front]?.url ?? "", { method: "POST", headers });
    return [status, answered.get("x-ratelimit-remaining-requests")];
  };

  beforeAll(async () => {
    valkey = await startValkey();
    const shared = { fleet: valkey.url, requestsPerMinute: 6, tokensPerMinute: 100 };
    for (const commandMs of COMMAND_MS) {
      const own = openSharedLimits({ ...shared, commandMs, onLocal: (unit) => local.push(unit) });
      limits.push(own);
      const { requestsPerMinute, tokensPerMinute } = own;
      const app = express().use(guard({ keys: ["a", "b", "c"], requestsPerMinute, tokensPerMinute }));
      app.post("/", (request, response) => {
        localsOf(response).spendTokens?.(Number(request.get("tokens")));
        response.json({});
      });
      const server = await listen(app);
      servers.push(server);
      // Until its connection stands, a front counts for itself.
      await until(async () => {
        await valkey.redis.ping();
        await requestsPerMinute?.get("nobody");
        return local.splice(0).length === 0;
      });
    }
  });

  afterAll(async () => {
    for (const server of servers) await server[Symbol.asyncDispose]();
    for (const { close } of limits) close();
    await valkey?.stop();
  });

  test("count the requests of a key together, and those of another key apart", async () => {
    for (const [index, left] of ["5", "4", "3", "2", "1", "0"].entries()) {
      expect(await ask(PATIENT[index % 2] ?? 0, "a")).toEqual([200, left]);
    }
    expect(await ask(PATIENT[0], "a")).toEqual([429, "0"]);
    expect(await ask(PATIENT[1], "a")).toEqual([429, "0"]);
    expect(await ask(PATIENT[1], "b")).toEqual([200, "5"]);
  });

  test("count the tokens of a key together", async () => {
    expect((await ask(PATIENT[0], "c", 99))[0]).toBe(200);
    expect((await ask(PATIENT[1], "c", 1))[0]).toBe(200);
    expect((await ask(PATIENT[0], "c"))[0]).toBe(429);
    expect(local).toEqual([]);
  });

  test("count for themselves while Valkey does not answer, and say so each time", async () => {
    valkey.child.kill("SIGSTOP");
    for (const left of ["5", "4", "3", "2", "1", "0"]) expect(await ask(HASTY[0], "b")).toEqual([200, left]);
    expect(await ask(HASTY[0], "b")).toEqual([429, "0"]);
    expect(await ask(HASTY[1], "b")).toEqual([200, "5"]);
    expect(local.filter((unit) => unit === "requests")).toHaveLength(8);
    expect(local).toContain("tokens");
    valkey.child.kill("SIGCONT");
    await valkey.redis.ping();
    local.length = 0;
    expect(await ask(PATIENT[1], "a")).toEqual([429, "0"]);
    expect(local).toEqual([]);
  });
});
