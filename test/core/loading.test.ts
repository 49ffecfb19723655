// Progress of opening a model: rates, times left, texts, and durations in Ollama's form.

import { LoadMeter, loadText, parseDurationMs } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import * as fc from "../support/fast-check.ts";

const packing = (doneBytes: number) => ({ stage: "building" as const, doneBytes, ofBytes: 1000 });

describe("progress of opening a model", () => {
  test("has the time left at the rate so far, as soon as there is one", () => {
    const meter = new LoadMeter();
    expect(meter.update(packing(0), 0)).toEqual({ ...packing(0), bytesPerSecond: undefined, secondsLeft: undefined });
    expect(meter.update(packing(100), 1000)).toEqual({ ...packing(100), bytesPerSecond: 100, secondsLeft: 9 });
    expect(meter.update(packing(1000), 10_000)).toMatchObject({ secondsLeft: 0 });
  });

  test("begins anew with each stage, and with another file of one", () => {
    const meter = new LoadMeter();
    meter.update({ ...packing(900), stage: "checking" }, 0);
    expect(meter.update(packing(0), 1000).secondsLeft).toBeUndefined();
    meter.update(packing(500), 2000);
    expect(meter.update(packing(100), 3000).secondsLeft).toBeUndefined();
    expect(meter.update({ ...packing(200), ofBytes: 2000 }, 4000).secondsLeft).toBeUndefined();
  });

  test("has a share only where the total is known", () => {
    expect(loadText(packing(409))).toBe("packing weights, 40 %");
    expect(loadText({ stage: "measuring", doneBytes: 0, ofBytes: 0 })).toBe("measuring the speed");
  });
});

describe("a duration", () => {
  test.each([
    ["5m", 300_000],
    ["1h30m", 5_400_000],
    ["1.5s", 1500],
    ["250ms", 250],
    ["300", 300_000],
    ["0", 0],
    ["0.5", 500],
    ["-1", Infinity],
    ["-1m", Infinity],
    [" 10s ", 10_000],
  ])("%j is %d ms", (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });

  test.each(["", "m", "5 m", "5d", "five", "1e3", "5m3", "--1", "1..5s", "Infinity"])("%j is none", (text) => {
    expect(parseDurationMs(text)).toBeUndefined();
  });

  test("any text is read at once, to a number that is not negative or to nothing", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[-0-9.hms]{0,40}$/)), (text) => {
        const ms = parseDurationMs(text);
        expect(ms === undefined || ms >= 0).toBe(true);
      }),
    );
  });
});
