// Names of modules as PEFT matches them: results of Python's own expressions and of PEFT's functions, in
// test/fixtures/peft-names.

import { PatternError } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { Fields } from "../../packages/model/src/config/fields.ts";
import { parsePeftConfig } from "../../packages/model/src/lora/peft-config.ts";
import { Pattern, StepLimit } from "../../packages/model/src/patterns/pattern.ts";
import { golden } from "../support/fixtures.ts";

interface Golden {
  readonly names: readonly string[];
  /** Expression, names that match as a whole, names of which an ending matches; as bits. `null`: no expression. */
  readonly patterns: readonly (readonly [string, string | null, string | null])[];
  /** Fields of a config, and the modules that they target. */
  readonly configs: readonly (readonly [Record<string, unknown>, string])[];
}

const { names, patterns, configs } = golden("peft-names") as Golden;

/** Parts of expressions that Python reads, and this project does not. */
const UNREAD = /\(\?>|\+\+|\\1|\(\?P=|\(\?x\)|\(\?i:/;

function bits(matches: (name: string) => boolean): string {
  return names.reduce((sum, name, index) => sum + (matches(name) ? 1n << BigInt(index) : 0n), 0n).toString(16);
}

const STEPS = new StepLimit(Infinity);

function pythonPattern(text: string): Pattern {
  return new Pattern(text, "python", 2 ** 16);
}

function patternOf(text: string): Pattern | undefined {
  try {
    return pythonPattern(text);
  } catch (error) {
    if (error instanceof PatternError) return undefined;
    throw error;
  }
}

describe("expressions", () => {
  test("match the names that they match in Python", () => {
    expect(patterns.length).toBeGreaterThan(800);
    const wrong = patterns.filter(([text, whole, endings]) => {
      const pattern = patternOf(text);
      if (pattern === undefined) return whole !== null && !UNREAD.test(text);
      const isWholeRight = bits((name) => pattern.matches(name, STEPS)) === whole;
      // Python takes flags at the start only, so it has no endings for these.
      return !isWholeRight || (endings !== null && bits((name) => pattern.matchesSuffix(name, STEPS)) !== endings);
    });
    expect(wrong).toEqual([]);
  });

  test("repeat groups exactly as often as they say", () => {
    const name = "abcabcabc.x";
    const counts = Array.from({ length: 15 }, (_, count) => count);
    for (const count of counts) {
      expect(pythonPattern(`(?:[a-c]|[.x]){${count}}`).matches(name, STEPS)).toBe(count === name.length);
      expect(pythonPattern(`(?:[a-c]|[.x]){${count},}`).matches(name, STEPS)).toBe(count <= name.length);
      expect(pythonPattern(`(?:[a-c]|[.x]){0,${count}}`).matches(name, STEPS)).toBe(count >= name.length);
      expect(pythonPattern(`[a-x.]{${count}}`).matches(name, STEPS)).toBe(count === name.length);
      expect(pythonPattern(`(?:abc|){${count}}\\.x`).matches(name, STEPS)).toBe(count >= 3);
    }
  });

  test("take a bounded number of steps where Python's would take years", () => {
    const name = `model.layers.0.${"a".repeat(40)}`;
    for (const text of ["(.+)+x", "((a*)*)*b", "(.|.|.){40}x", "(?:.*.*.*.*.*.*.*.*)*x", "(.{0,99}){0,99}x"]) {
      expect(pythonPattern(text).matches(name, STEPS)).toBe(false);
      expect(pythonPattern(text).matchesSuffix(name, STEPS)).toBe(false);
    }
  });

  test("are refused when they are too long or nest too deeply", () => {
    expect(() => pythonPattern("a".repeat(16_385))).toThrow("has more than 16384 characters");
    expect(() => pythonPattern("(".repeat(70) + ")".repeat(70))).toThrow("has more than 64 groups in each other");
  });
});

test("all-linear targets every module but the head, in any spelling", () => {
  for (const targets of ["all-linear", "All-Linear"]) {
    const fields = { peft_type: "LORA", target_modules: targets, exclude_modules: ["v_proj"] };
    const config = parsePeftConfig(new Fields("adapter_config.json", fields));
    expect(["model.layers.0.mlp.up_proj", "lm_head", "model.layers.0.self_attn.v_proj"].map(config.isTarget)).toEqual([
      true,
      false,
      false,
    ]);
  }
});

test("a config targets the modules that it targets in PEFT", () => {
  expect(configs.length).toBe(300);
  for (const [fields, targeted] of configs) {
    const config = parsePeftConfig(new Fields("adapter_config.json", { peft_type: "LORA", ...fields }));
    expect([fields, bits((name) => config.isTarget(name))]).toEqual([fields, targeted]);
  }
});

function shapeOf(fields: Record<string, unknown>, module: string): { readonly rank: number; readonly scale: number } {
  return parsePeftConfig(new Fields("adapter_config.json", { peft_type: "LORA", ...fields })).shapeOf(module);
}

describe("ranks and scales", () => {
  test("are PEFT's defaults when nothing is said", () => {
    expect(shapeOf({}, "model.layers.0.mlp.up_proj")).toEqual({ rank: 8, scale: 1 });
    expect(shapeOf({ r: 16, lora_alpha: 24 }, "lm_head")).toEqual({ rank: 16, scale: 1.5 });
    expect(shapeOf({ r: 256, lora_alpha: -1 }, "lm_head")).toEqual({ rank: 256, scale: -1 / 256 });
  });

  test("come from the first expression that matches the module, in the file's order", () => {
    const fields = {
      r: 2,
      lora_alpha: 4,
      rank_pattern: { "layers.0.mlp.up_proj": 3, "(up|down)_proj": 6, "^model.layers.1.mlp.down_proj": 9 },
      alpha_pattern: { proj: 1, ".*_proj": 12, up_proj: 7 },
    };
    expect(shapeOf(fields, "model.layers.0.mlp.up_proj")).toEqual({ rank: 3, scale: 4 });
    expect(shapeOf(fields, "model.layers.1.mlp.down_proj")).toEqual({ rank: 6, scale: 2 });
    expect(shapeOf(fields, "model.layers.1.self_attn.q_proj")).toEqual({ rank: 2, scale: 6 });
    expect(shapeOf(fields, "lm_head")).toEqual({ rank: 2, scale: 2 });
  });

  test("of rsLoRA divide by the root of the module's own rank", () => {
    const fields = { r: 16, lora_alpha: 8, use_rslora: true, rank_pattern: { q_proj: 4 } };
    expect(shapeOf(fields, "model.layers.0.mlp.up_proj")).toEqual({ rank: 16, scale: 2 });
    expect(shapeOf(fields, "model.layers.0.self_attn.q_proj")).toEqual({ rank: 4, scale: 4 });
  });
});
