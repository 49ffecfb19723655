// Names of modules as PEFT matches them: results of Python's own expressions, in test/fixtures/peft-names.

import { PatternError } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { Fields } from "../../packages/model/src/config/fields.ts";
import { parsePeftConfig } from "../../packages/model/src/lora/peft-config.ts";
import { Pattern, StepLimit } from "../../packages/model/src/patterns/pattern.ts";
import { golden } from "../support/fixtures.ts";

interface Golden {
  readonly names: readonly string[];
  /** Expression, and names of which an ending matches, as bits. `null`: no expression, or one with flags. */
  readonly patterns: readonly (readonly [string, string | null])[];
}

const { names, patterns } = golden("peft-names") as Golden;

/** Parts of expressions that Python reads, and this project does not. */
const UNREAD = /\(\?>|\+\+|\\1|\(\?P|\(\?#|\(\?x\)|\(\?i:|\\A|\{,|\{2|\[\]|\[\^\]|\[\[/;

function bits(matches: (name: string) => boolean): string {
  return names.reduce((sum, name, index) => sum + (matches(name) ? 1n << BigInt(index) : 0n), 0n).toString(16);
}

const STEPS = new StepLimit(Infinity);

function matchesSuffix(text: string, name: string): boolean {
  return new Pattern(text, { maxLength: 2 ** 16, hasPlaces: true }).matchesSuffix(name, STEPS);
}

describe("expressions", () => {
  test("match the names that they match in Python, or are refused", () => {
    expect(patterns.length).toBeGreaterThan(800);
    const unread: string[] = [];
    for (const [text, endings] of patterns.filter((one) => one[1] !== null)) {
      try {
        expect([text, bits((name) => matchesSuffix(text, name))]).toEqual([text, endings]);
      } catch (error) {
        if (!(error instanceof PatternError)) throw error;
        unread.push(text);
      }
    }
    expect(unread.filter((text) => !UNREAD.test(text))).toEqual([]);
  });

  test("repeat groups exactly as often as they say", () => {
    const name = "abcabcabc-x";
    for (const count of Array.from({ length: 15 }, (_, each) => each)) {
      expect(matchesSuffix(`(?:[a-c]|[-x]){${count}}`, name)).toBe(count === name.length);
      expect(matchesSuffix(`(?:[a-c]|[-x]){${count},}`, name)).toBe(count <= name.length);
      expect(matchesSuffix(`(?:[a-c]|[-x]){0,${count}}`, name)).toBe(count >= name.length);
      expect(matchesSuffix(`(?:abc|){${count}}-x`, name)).toBe(count >= 3);
    }
  });

  test("take a bounded number of steps where Python's would take years", () => {
    const name = `model.layers.0.${"a".repeat(40)}`;
    for (const text of ["(.+)+x", "((a*)*)*b", "(.|.|.){40}x", "(?:.*.*.*.*.*.*.*.*)*x", "(.{0,99}){0,99}x"]) {
      expect(matchesSuffix(text, name)).toBe(false);
    }
  });

  test("are refused when they nest too deeply", () => {
    expect(() => matchesSuffix("(".repeat(70) + ")".repeat(70), "")).toThrow("has more than 64 groups in each other");
  });
});

function scaleOf(fields: Record<string, unknown>, module: string, rank = 2): number {
  return parsePeftConfig(new Fields("adapter_config.json", { peft_type: "LORA", ...fields }))(module, rank);
}

describe("scales", () => {
  test("are PEFT's defaults when nothing is said", () => {
    expect(scaleOf({}, "model.layers.0.mlp.up_proj", 8)).toBe(1);
    expect(scaleOf({ r: 16, lora_alpha: 24 }, "lm_head", 16)).toBe(1.5);
    expect(scaleOf({ lora_alpha: -1 }, "lm_head", 256)).toBe(-1 / 256);
  });

  test("come from the first expression that matches the module, in the file's order", () => {
    const alpha_pattern = { "layers.0.mlp.up_proj": 3, proj: 1, "(up|down)_proj": 12, "^model.layers.1.*_proj": 6 };
    const fields = { lora_alpha: 4, alpha_pattern };
    expect(scaleOf(fields, "model.layers.0.mlp.up_proj")).toBe(1.5);
    expect(scaleOf(fields, "model.layers.1.mlp.down_proj")).toBe(6);
    expect(scaleOf(fields, "model.layers.1.self_attn.q_proj")).toBe(3);
    expect(scaleOf(fields, "lm_head")).toBe(2);
  });

  test("of rsLoRA divide by the root of the module's own rank", () => {
    const fields = { r: 16, lora_alpha: 8, use_rslora: true };
    expect(scaleOf(fields, "model.layers.0.mlp.up_proj", 16)).toBe(2);
    expect(scaleOf(fields, "model.layers.0.self_attn.q_proj", 4)).toBe(4);
  });
});
