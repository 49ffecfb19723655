// Which expert a request gets, and what it is told where there is none, without a server.

import type { EngineInfo } from "@readme-moe/core";
import { ApiError, type Asking, type Lease, ServedModels } from "@readme-moe/express";
import { describe, expect, test } from "vitest";
import { chosenExpert, expertName, unknownExpert } from "../../packages/express/src/edge/experts.ts";
import { GatedExperts } from "../support/gated-experts.ts";
import { servedAs, servedInfo } from "../support/served-source.ts";

const MANY = Array.from({ length: 60 }, (_, index) => `e${index}`);

function refusal(ask: () => unknown): ApiError {
  try {
    ask();
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
  throw new Error("Expected a refusal");
}

describe("loras", () => {
  const { engine } = new GatedExperts(["law", "sea"], { hasRouter: true });
  const choose = (
    wanted: string | number | undefined,
    named?: string,
    mayName = (_: string, expert: string) => expert !== "sea",
  ) => chosenExpert(wanted, servedAs("base", engine, { namedExpert: named, mayName }));

  test.each([
    [undefined, undefined, undefined],
    [undefined, "law", "law"],
    [undefined, "none", 0],
    ["law", undefined, "law"],
    ["law", "law", "law"],
    [1, undefined, "law"],
    [1, "law", "law"],
    ["router", undefined, "router"],
    ["none", undefined, 0],
    [0, undefined, 0],
    [0, "none", 0],
  ])("asked for %j beside the model's %j give %j", (wanted, named, expected) => {
    expect(choose(wanted, named)).toBe(expected);
  });

  test.each([
    ["sea", undefined, "one of none, law, got"],
    [2, undefined, "one of none, law, got"],
    [3, undefined, "one of none, law, got"],
    ["", undefined, "one of none, law, got"],
    ["law", "none", "expected none, which `model` names"],
    ["none", "law", "expected law, which `model` names"],
    ["router", "law", "expected law, which `model` names"],
    [0, "law", "expected law, which `model` names"],
  ])("asked for %j beside the model's %j are refused", (wanted, named, part) => {
    const error = refusal(() => choose(wanted, named));
    expect(error).toMatchObject({ status: 400, code: "invalid_value", param: "read_me.expert" });
    expect(error.message).toContain(part);
  });

  test("of a model that has none yet are the model itself, by either of its names", () => {
    const info = { experts: ["dense"], expertKind: "lora", hasRouter: false } as unknown as EngineInfo;
    const source = servedInfo(info);
    for (const wanted of ["none", "dense", 0]) expect(chosenExpert(wanted, source)).toBe(0);
    expect(refusal(() => chosenExpert("router", source)).message).toContain("one of none, got");
    expect(expertName(0, info)).toBe("none");
    expect(expertName("router", info)).toBeUndefined();
    expect(expertName(undefined, info)).toBeUndefined();
  });

  test("are listed in messages up to a number", () => {
    const source = servedAs("base", new GatedExperts(MANY).engine);
    const { message } = refusal(() => chosenExpert("x", source));
    expect(message).toContain("none, e0, e1,");
    expect(message).toContain("e48 and 11 more, got");
    const { message: long } = unknownExpert({ model: "base", expert: "x".repeat(300) }, MANY);
    expect(long).toContain(`\`base:${"x".repeat(200)}\` does not exist`);
    expect(long).toContain("known are `base:e0`, `base:e1`");
    expect(long).toContain("`base:e19` and 40 more.");
    expect(unknownExpert({ model: "base", expert: "x" }, ["e"]).message).toMatch(/known are `base:e`\.$/);
    expect(unknownExpert({ model: "base", expert: "x" }, []).message).toMatch(/no experts that can be named\.$/);
  });
});

test("experts in FFNs are chosen as the engine names them", () => {
  const info = { experts: ["law", "code"], expertKind: "ffn", hasRouter: true } as unknown as EngineInfo;
  for (const wanted of [undefined, "law", "code", 0, 1, "router"]) {
    expect(chosenExpert(wanted, servedInfo(info))).toBe(wanted);
  }
  for (const wanted of ["none", 2, ""]) expect(refusal(() => chosenExpert(wanted, servedInfo(info))).status).toBe(400);
  expect([expertName(1, info), expertName(0, info), expertName("router", info)]).toEqual(["code", "law", undefined]);
});

const engineOf = (...experts: readonly string[]) =>
  Object.assign(new GatedExperts(experts).engine, {
    generate: () => undefined,
    whenFailed: () => new Promise(() => {}),
  });
const chosen = ({ name, expert }: Lease): string => `${name} ${expert}`;
const share = (name: string | undefined): string | undefined =>
  ({ tenant: "base:law", lost: "base:nobody", wrong: "other:law" })[name ?? ""];

describe("names of served models", () => {
  const ABOUT = { request: { headers: {} }, body: {} } as unknown as Asking;

  test("may be shared among experts, and an unknown one of these is told as unknown", () => {
    const models = new ServedModels({ base: engineOf("law") }, { share });
    expect(chosen(models.lease("tenant", ABOUT))).toBe("base law");
    expect(chosen(models.lease("base:law", ABOUT))).toBe("base law");
    expect(chosen(models.lease(undefined, ABOUT))).toBe("base undefined");
    expect(refusal(() => models.lease("lost", ABOUT)).status).toBe(404);
    expect(refusal(() => models.lease("wrong", ABOUT)).status).toBe(500);
  });

  test("may have an expert behind an alias, of a model that is served", () => {
    const base = engineOf("law");
    const models = new ServedModels({ base }, { aliases: { lawyer: "base:law", nobody: "base:nobody" } });
    expect(chosen(models.lease("lawyer", ABOUT))).toBe("base law");
    expect(refusal(() => models.lease("nobody", ABOUT)).status).toBe(404);
    expect(() => new ServedModels({ base }, { aliases: { lawyer: "other:law" } })).toThrow("`other:law`");
    expect(() => new ServedModels({ base }, { defaultModel: "base:law" })).toThrow("`base:law`");
  });

  test("go before experts that would have the same name, which are not listed and cannot be loaded", () => {
    const [base, whole] = [engineOf("law", "sea"), engineOf()];
    const models = new ServedModels(
      { base, "base:law": whole },
      { aliases: { "base:sea": "base" }, defaultModel: "base" },
    );
    expect(chosen(models.lease("base:law", ABOUT))).toBe("base:law undefined");
    expect(chosen(models.lease("base:sea", ABOUT))).toBe("base undefined");
    expect(models.list().map(({ name, experts }) => [name, experts.map(({ ids }) => ids)])).toEqual([
      ["base", [["base:sea:law"], ["base:sea:sea"]]],
      ["base:law", []],
    ]);
    expect(refusal(() => models.leaseForChange("base:law"))).toMatchObject({ status: 400, param: "lora_name" });
    expect(refusal(() => models.leaseForChange("base:sea"))).toMatchObject({ status: 400, param: "lora_name" });
    expect(models.leaseForChange("new")).toMatchObject({ name: "base", expert: "new" });
    expect(models.leaseForChange("base:law:new")).toMatchObject({ name: "base:law", expert: "new" });
    expect(refusal(() => models.leaseForChange("other:new"))).toMatchObject({ status: 404, code: "model_not_found" });
  });
});
