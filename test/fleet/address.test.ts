import { describeAddress, parseFleetUrl } from "@readme-moe/fleet";
import { describe, expect, test } from "vitest";
import { unreachable } from "../../packages/fleet/src/connect.ts";

describe("the URL of a fleet", () => {
  test("names one server, with and without login, port and database", () => {
    expect(parseFleetUrl("redis://localhost")).toMatchObject({
      hosts: [{ host: "localhost", port: 6379 }],
      database: 0,
    });
    expect(parseFleetUrl("rediss://ada:p%40ss@cache:7000/3")).toEqual({
      hosts: [{ host: "cache", port: 7000 }],
      primaryName: undefined,
      isTls: true,
      username: "ada",
      password: "p@ss",
      database: 3,
    });
    expect(parseFleetUrl("redis://[::1]:7000")).toMatchObject({ hosts: [{ host: "::1", port: 7000 }] });
  });

  test("names sentinels and their primary", () => {
    expect(parseFleetUrl("redis+sentinel://:secret@a,b:5000/main/2")).toEqual({
      hosts: [
        { host: "a", port: 26_379 },
        { host: "b", port: 5000 },
      ],
      primaryName: "main",
      isTls: false,
      username: undefined,
      password: "secret",
      database: 2,
    });
  });

  test.each([
    "",
    "http://a",
    "redis://",
    "redis://:secret@a:0",
    "redis://:secret@a:70000",
    "redis://:secret@a/x",
    "redis://:secret@a b",
    "redis://:secret%@a",
    "redis+sentinel://:secret@a",
    "redis://:secret@a?x=1",
  ])("is refused without its secrets: %s", (url) => {
    const refused = (): unknown => parseFleetUrl(url);
    expect(refused).toThrow(/^Expected .*`fleet`/);
    expect(refused).not.toThrow(/secret/);
  });

  test("is described without its secrets", () => {
    expect(describeAddress(parseFleetUrl("redis://ada:secret@cache:7000/3"))).toBe("redis://cache:7000/3");
    const sentinels = parseFleetUrl("rediss+sentinel://:secret@a,[::1]:5000/main");
    expect(describeAddress(sentinels)).toBe("rediss+sentinel://a:26379,[::1]:5000/main");
  });

  test("keeps its secrets out of errors, whatever a driver puts into them", () => {
    const address = parseFleetUrl("redis://ada:secret@cache");
    const cause = Object.assign(new Error("AUTH ada secret failed"), {
      command: { name: "auth", args: ["ada", "secret"] },
    });
    const error = unreachable(address, "connection", cause);
    expect(error.code).toBe("ERR_FLEET_UNREACHABLE");
    expect(JSON.stringify([error.message, error.cause, (error.cause as Error).message])).not.toContain("secret");
  });
});
