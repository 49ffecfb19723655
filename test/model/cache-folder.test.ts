// The cache folder, by the custom of each system.

import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { resolveCacheFolder } from "@readme-moe/model";
import { afterEach, describe, expect, test, vi } from "vitest";
import { platformCacheFolder, platformStateFolder } from "../../packages/model/src/cache/cache-folder.ts";

afterEach(() => void vi.unstubAllEnvs());

describe("the platform's cache folder", () => {
  test.each([
    ["linux", {}, "/home/ada", "/home/ada/.cache/readme-moe"],
    ["linux", { XDG_CACHE_HOME: "/fast/cache" }, "/home/ada", "/fast/cache/readme-moe"],
    ["linux", { XDG_CACHE_HOME: "" }, "/home/ada", "/home/ada/.cache/readme-moe"],
    ["linux", { XDG_CACHE_HOME: "relative" }, "/home/ada", "/home/ada/.cache/readme-moe"],
    ["freebsd", {}, "/home/ada", "/home/ada/.cache/readme-moe"],
    ["darwin", { XDG_CACHE_HOME: "/fast/cache" }, "/Users/ada", "/Users/ada/Library/Caches/readme-moe"],
    ["win32", { LOCALAPPDATA: "D:\\Users\\ada\\Local" }, "C:\\Users\\ada", "D:\\Users\\ada\\Local\\readme-moe\\Cache"],
    ["win32", {}, "C:\\Users\\ada", "C:\\Users\\ada\\AppData\\Local\\readme-moe\\Cache"],
  ])("is below the user's own on %s with %o", (platform, env, home, expected) => {
    expect(platformCacheFolder({ platform, env, home })).toBe(expected);
  });
});

describe("the platform's folder of what runs", () => {
  test.each([
    ["linux", {}, "/home/ada", "/home/ada/.local/state/readme-moe"],
    ["linux", { XDG_STATE_HOME: "/run/state" }, "/home/ada", "/run/state/readme-moe"],
    ["linux", { XDG_STATE_HOME: "relative" }, "/home/ada", "/home/ada/.local/state/readme-moe"],
    ["darwin", {}, "/Users/ada", "/Users/ada/Library/Application Support/readme-moe"],
    ["win32", {}, "C:\\Users\\ada", "C:\\Users\\ada\\AppData\\Local\\readme-moe\\State"],
  ])("is below the user's own on %s with %o", (platform, env, home, expected) => {
    expect(platformStateFolder({ platform, env, home })).toBe(expected);
  });
});

test("prefers an option to the variable, and the variable to the platform's folder", () => {
  vi.stubEnv("README_MOE_CACHE", "/from/variable");
  expect(resolveCacheFolder("/from/option")).toBe(resolve("/from/option"));
  expect(resolveCacheFolder()).toBe(resolve("/from/variable"));
  vi.stubEnv("README_MOE_CACHE", "");
  expect(resolveCacheFolder()).toBe(
    platformCacheFolder({ platform: process.platform, env: process.env, home: homedir() }),
  );
});

test("expands ~ to the user's folder, and makes relative paths absolute", () => {
  expect(resolveCacheFolder("~/models")).toBe(join(homedir(), "models"));
  expect(resolveCacheFolder("~")).toBe(homedir());
  expect(resolveCacheFolder("cache")).toBe(resolve("cache"));
});
