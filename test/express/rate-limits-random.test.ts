// Limits of several servers in a time that tests set, beside plain counts of minutes.

import { expect, onTestFinished, test, vi } from "vitest";
import { durationText, limiterOf, limitRequests, limitTokens } from "../../packages/express/src/edge/guard.ts";
import { runSteps } from "../../packages/express/src/http/routes.ts";
import { WebReply, WebRequest } from "../../packages/express/src/http/web.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

type Limiter = ReturnType<typeof limiterOf>;

/** A window of a minute, from the first use. */
interface Window {
  count: number;
  readonly endMs: number;
}

/** A server, and what its stores have counted by name. Servers that share a store share its counts. */
interface LimitedServer {
  readonly requests: Limiter | number;
  readonly tokens: Limiter | number;
  readonly steps: readonly [ReturnType<typeof limitRequests>, ReturnType<typeof limitTokens>];
  readonly used: { readonly requests: Map<string, Window>; readonly tokens: Map<string, Window> };
}

function limitedServer(limits: Pick<LimitedServer, "requests" | "tokens">, used = nothingUsed()): LimitedServer {
  const { requests, tokens } = limits;
  const steps = [limitRequests(limiterOf("requests", requests)), limitTokens(limiterOf("tokens", tokens))] as const;
  return { requests, tokens, steps, used };
}

function nothingUsed(): LimitedServer["used"] {
  return { requests: new Map(), tokens: new Map() };
}

test.each([1, 2, 3])("servers, clients, minutes and restarts match plain windows (seed %i)", async (seed) => {
  vi.useFakeTimers({ toFake: ["Date", "setTimeout", "clearTimeout"], now: 1e12 });
  onTestFinished(() => void vi.useRealTimers());
  const random = seededRandom(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[randomInteger(random, items.length)] as Item;
  const limits = { requests: 1 + randomInteger(random, 4), tokens: 1 + randomInteger(random, 8) };
  const stores = { requests: limiterOf("one", limits.requests), tokens: limiterOf("two", limits.tokens) };
  const shared = nothingUsed();
  const servers = [
    limitedServer(limits),
    limitedServer(limits),
    limitedServer(stores, shared),
    limitedServer(stores, shared),
  ];
  const running: {
    readonly spend: (tokens: number) => void;
    readonly name: string;
    readonly used: Map<string, Window>;
  }[] = [];
  const known = (windows: Map<string, Window>, name: string): Window | undefined => {
    const window = windows.get(name);
    return window && Date.now() < window.endMs ? window : undefined;
  };
  const add = (windows: Map<string, Window>, name: string, count: number): Window => {
    const window = known(windows, name) ?? { count: 0, endMs: Date.now() + 60_000 };
    windows.set(name, window);
    window.count += count;
    return window;
  };
  // A key may be called as an address, and two addresses of a network are one client.
  const clients = [
    { key: "a", ip: "10.0.0.1", client: "key:a" },
    { key: "10.0.0.1", ip: "10.0.0.2", client: "key:10.0.0.1" },
    { key: undefined, ip: "10.0.0.1", client: "address:10.0.0.1" },
    { key: undefined, ip: "2001:db8::1", client: "address:2001:db8:0:0::/64" },
    { key: undefined, ip: "2001:db8::2", client: "address:2001:db8:0:0::/64" },
  ];
  const seen = { answered: 0, requests: 0, tokens: 0 };
  for (let step = 0; step < 350; step++) {
    const [which, action] = [randomInteger(random, servers.length), random()];
    const server = servers[which] as LimitedServer;
    const { used, steps } = server;
    if (action < 0.02) servers[which] = limitedServer(server, which < 2 ? undefined : shared);
    else if (action < 0.06) await vi.advanceTimersByTimeAsync(pick([1, 400, 30_000, 59_999, 60_000]));
    else if (action < 0.25) {
      const [ended] = running.splice(randomInteger(random, Math.max(1, running.length)), 1);
      if (!ended) continue;
      const { count } = known(ended.used, ended.name) ?? { count: 0 };
      const tokens = pick([0, 1, 5, Math.max(0, limits.tokens - count), Math.max(0, limits.tokens - count - 1)]);
      ended.spend(tokens);
      add(ended.used, ended.name, tokens);
    } else {
      const [{ key, ip, client }, method, isBatch] = [
        pick(clients),
        pick(["POST", "POST", "POST", "GET", "HEAD", "OPTIONS"]),
        random() < 0.3,
      ];
      const request = new WebRequest(new Request("http://localhost/", { method }), {
        baseUrl: "",
        address: ip,
        isWeb: true,
      });
      const reply = new WebReply(request);
      const batch = { id: "batch_1", customId: "x", priority: -1 };
      reply.locals.readMe = { key, requestId: "r", arrivalMs: 0, ...(isBatch && { batch }) };
      runSteps([...steps, (_, answer) => void answer.end("{}")], request, reply);
      const { status, headers } = await reply.response;
      const isRead = method === "GET" || method === "HEAD";
      const name = isRead ? `read:${client}` : isBatch ? `batch:${client}` : client;
      const now = Date.now();
      const expected: Record<string, string> = {};
      const tell = (unit: "requests" | "tokens", window: Window | undefined): void => {
        const { count = 0, endMs = now } = window ?? {};
        expected[`x-ratelimit-limit-${unit}`] = `${limits[unit]}`;
        expected[`x-ratelimit-remaining-${unit}`] = `${Math.max(0, limits[unit] - count)}`;
        expected[`x-ratelimit-reset-${unit}`] = durationText(endMs - now);
      };
      let refused: Window | undefined;
      if (method !== "OPTIONS") {
        const window = add(used.requests, name, 1);
        tell("requests", window);
        if (window.count > limits.requests) refused = window;
        else if (!isRead) {
          const spent = known(used.tokens, name);
          tell("tokens", spent);
          if (spent && spent.count >= limits.tokens) refused = spent;
          else if (reply.locals.readMe.spendTokens) {
            running.push({ spend: reply.locals.readMe.spendTokens, name, used: used.tokens });
          }
        }
      }
      if (refused) {
        const waitMs = refused.endMs - now;
        Object.assign(expected, { "retry-after": `${Math.ceil(waitMs / 1000)}`, "retry-after-ms": `${waitMs}` });
        seen["x-ratelimit-limit-tokens" in expected ? "tokens" : "requests"]++;
      } else seen.answered++;
      const told = Object.fromEntries([...headers].filter(([header]) => /^(x-ratelimit|retry)-/.test(header)));
      expect([status, told]).toStrictEqual([refused ? 429 : 200, expected]);
    }
  }
  expect(
    Object.values(seen).every((count) => count > 3),
    JSON.stringify(seen),
  ).toBe(true);
});
