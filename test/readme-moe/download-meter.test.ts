// Progress of downloads and of opening models: sums over files, the rate of the last seconds, time left, and lines.

import { describe, expect, test } from "vitest";
import { downloadLine, DownloadMeter, loadingLine, LoadingLines } from "../../packages/readme-moe/src/show-download.ts";
import { countText, durationText, sizeText } from "../../packages/readme-moe/src/terminal.ts";
import * as fc from "../support/fast-check.ts";

const MB = 1e6;

test("a steady download shows its rate and the time left over all files", () => {
  const meter = new DownloadMeter();
  meter.plan({
    files: [
      { name: "small", bytes: 10 * MB, missingBytes: 0 },
      { name: "large", bytes: 100 * MB, missingBytes: 100 * MB },
    ],
  });
  expect(meter.update({ file: "large", doneBytes: 0, ofBytes: 100 * MB }, 0)).toEqual({
    doneBytes: 10 * MB,
    ofBytes: 110 * MB,
    bytesPerSecond: undefined,
    secondsLeft: undefined,
  });
  for (let second = 1; second <= 20; second++) {
    const state = meter.update({ file: "large", doneBytes: second * 2 * MB, ofBytes: 100 * MB }, second * 1000);
    expect(state.bytesPerSecond).toBeCloseTo(2 * MB, 3);
    expect(state.secondsLeft).toBeCloseTo(50 - second, 6);
  }
});

test("bytes of an earlier download count as done, not as fast", () => {
  const meter = new DownloadMeter();
  meter.plan({ files: [{ name: "large", bytes: 100 * MB, missingBytes: 40 * MB }] });
  expect(meter.update({ file: "large", doneBytes: 60 * MB, ofBytes: 100 * MB }, 0).doneBytes).toBe(60 * MB);
  const state = meter.update({ file: "large", doneBytes: 61 * MB, ofBytes: 100 * MB }, 1000);
  expect(state.bytesPerSecond).toBeCloseTo(MB, 3);
  expect(state.secondsLeft).toBeCloseTo(39, 6);
});

test("the rate follows a line that becomes slower within seconds", () => {
  const meter = new DownloadMeter();
  let doneBytes = 0;
  for (let second = 0; second < 60; second++) {
    doneBytes += second < 30 ? 10 * MB : MB;
    const { bytesPerSecond } = meter.update({ file: "f", doneBytes, ofBytes: 1000 * MB }, second * 1000);
    if (second >= 37) expect(bytesPerSecond).toBeCloseTo(MB, 3);
  }
});

test("a file that begins again after damage has no negative rate", () => {
  const meter = new DownloadMeter();
  meter.update({ file: "f", doneBytes: 0, ofBytes: 10 * MB }, 0);
  meter.update({ file: "f", doneBytes: 10 * MB, ofBytes: 10 * MB }, 1000);
  expect(meter.update({ file: "f", doneBytes: 0, ofBytes: 10 * MB }, 2000).bytesPerSecond).toBeUndefined();
  expect(meter.update({ file: "f", doneBytes: MB, ofBytes: 10 * MB }, 3000).bytesPerSecond).toBeCloseTo(MB, 3);
});

test("any order of reports keeps sums right, and rates positive and finite", () => {
  const report = fc.record({
    file: fc.constantFrom("a", "b", "c"),
    doneBytes: fc.nat(100),
    waitMs: fc.nat(3000),
  });
  fc.assert(
    fc.property(fc.array(report, { maxLength: 50, size: "max" }), (reports) => {
      const meter = new DownloadMeter();
      meter.plan({ files: ["a", "b", "c"].map((name) => ({ name, bytes: 100, missingBytes: 100 })) });
      const done = new Map<string, number>();
      let nowMs = 0;
      for (const { file, doneBytes, waitMs } of reports) {
        nowMs += waitMs;
        done.set(file, doneBytes);
        const state = meter.update({ file, doneBytes, ofBytes: 100 }, nowMs);
        expect(state.doneBytes).toBe([...done.values()].reduce((sum, one) => sum + one, 0));
        expect(state.ofBytes).toBe(300);
        if (state.bytesPerSecond === undefined) expect(state.secondsLeft).toBeUndefined();
        else {
          expect(state.bytesPerSecond).toBeGreaterThan(0);
          expect(state.bytesPerSecond).toBeLessThan(Infinity);
          expect(state.secondsLeft).toBeGreaterThanOrEqual(0);
        }
      }
    }),
  );
});

describe("texts", () => {
  test.each([
    [0, "0.00 kB"],
    [999, "1.00 kB"],
    [131_072, "131 kB"],
    [999_499, "999 kB"],
    [999_500, "1.00 MB"],
    [269_060_552, "269 MB"],
    [9_994_999, "9.99 MB"],
    [9_996_000, "10.0 MB"],
    [1_503_300_328, "1.50 GB"],
    [14_496_078_000, "14.5 GB"],
  ])("%d bytes are %s", (bytes, text) => {
    expect(sizeText(bytes)).toBe(text);
  });

  test.each([
    [134_515_008, "135M"],
    [999_885_952, "1.0B"],
    [3_075_098_624, "3.1B"],
  ])("%d parameters are %s", (count, text) => {
    expect(countText(count)).toBe(text);
  });

  test.each([
    [-1, "0 s"],
    [0.2, "1 s"],
    [99, "99 s"],
    [100, "2 min"],
    [3599, "1 h 0 min"],
    [3600, "1 h 0 min"],
    [4900, "1 h 22 min"],
  ])("%d seconds are %s", (seconds, text) => {
    expect(durationText(seconds)).toBe(text);
  });

  test("a line has what is known", () => {
    const state = { doneBytes: 45 * MB, ofBytes: 100 * MB, bytesPerSecond: undefined, secondsLeft: undefined };
    expect(downloadLine("x.gguf", state)).toBe("downloading x.gguf: 45 % of 100 MB");
    expect(downloadLine("x.gguf", { ...state, bytesPerSecond: 11 * MB, secondsLeft: 5 })).toBe(
      "downloading x.gguf: 45 % of 100 MB, 11.0 MB/s, 5 s left",
    );
    expect(downloadLine("empty", { ...state, doneBytes: 0, ofBytes: 0 })).toContain("100 % of 0.00 kB");
  });
});

describe("lines about the opening of a model", () => {
  const rate = { bytesPerSecond: undefined, secondsLeft: undefined };

  test("have what is known", () => {
    const packing = { stage: "building", doneBytes: 45 * MB, ofBytes: 100 * MB } as const;
    expect(loadingLine("tiny", { ...packing, ...rate })).toBe("tiny: packing weights, 45 % of 100 MB");
    expect(loadingLine("tiny", { ...packing, bytesPerSecond: 11 * MB, secondsLeft: 5 })).toBe(
      "tiny: packing weights, 45 % of 100 MB, 5 s left",
    );
    const measuring = { stage: "measuring", doneBytes: 0, ofBytes: 0 } as const;
    expect(loadingLine("tiny", { ...measuring, ...rate })).toBe("tiny: measuring the speed …");
  });

  test("come to a log every five seconds, and never for what takes less", () => {
    const lines = new LoadingLines();
    const due = Array.from({ length: 130 }, (_, index) => index * 100).filter((nowMs) => lines.isDue(nowMs));
    expect(due).toEqual([5000, 10_000]);
    expect(new LoadingLines().isDue(1e6)).toBe(false);
  });
});
