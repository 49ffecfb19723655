// What a request holds from its checked body to the end of its answer.

import express from "express";
import type { ReadMeEngine } from "@readme-moe/engine";
import { Admission, ServedModels } from "@readme-moe/express";
import { Grammars } from "@readme-moe/grammar";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { resolveApiOptions } from "../../packages/express/src/api/options.ts";
import { EngineGrammars, RequestScope, type ScopeParts } from "../../packages/express/src/api/request-scope.ts";
import { resolveExpertsOptions } from "../../packages/express/src/edge/experts.ts";
import { identify, localsOf, Paces } from "../../packages/express/src/http/request.ts";
import { listen, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let engine: ReadMeEngine;
let other: ReadMeEngine;
beforeAll(async () => {
  const folder = await persistentFolder();
  engine = await openTinyEngine(`${folder}/a`);
  other = await openTinyEngine(`${folder}/b`);
});
afterAll(() => Promise.all([engine.dispose(), other.dispose()]));
afterEach(() => vi.restoreAllMocks());

const DEMAND = { maxCompletionTokens: 5, choices: 1, priority: 0 };

/** Runs `work` within a real request, with the models and the admission that serve it. */
async function within(
  work: (parts: ScopeParts<object>, serving: { models: ServedModels; admission: Admission }) => Promise<void>,
): Promise<void> {
  const models = new ServedModels({ tiny: engine });
  const admission = new Admission();
  const experts = resolveExpertsOptions();
  const [grammars, paces] = [new EngineGrammars(models), new Paces()];
  const serving = { ...resolveApiOptions({}), models, admission, experts, grammars, paces };
  const outcomes: Promise<void>[] = [];
  const app = express().use(identify, (request, response) => {
    const { signal } = new AbortController();
    const outcome = work(
      { serving, request, response, route: { cost: "engine" }, body: {}, signal },
      { models, admission },
    );
    outcomes.push(outcome.finally(() => response.end()));
  });
  await using server = await listen(app);
  await (await fetch(server.url, { method: "POST", body: "seven b" })).text();
  expect(outcomes).toHaveLength(1);
  await outcomes[0];
}

test("a scope holds the engine and, once it has entered, a place in admission; its end releases both", async () => {
  await within(async (parts, { models, admission }) => {
    await RequestScope.run(parts, async (scope) => {
      expect([scope.engine, scope.model, scope.bodyBytes]).toEqual([engine, "tiny", 7]);
      expect(scope.client).toBe("address:127.0.0.1");
      expect(scope.signal).toBe(parts.signal);
      expect(() => scope.ticket).toThrow(new TypeError("Expected the scope to have entered admission"));
      expect([models.numLeases, admission.stats.requests]).toEqual([1, 0]);
      scope.enter(DEMAND);
      expect(scope.signal).toBe(scope.ticket.signal);
      expect(scope.signal).not.toBe(parts.signal);
      expect(scope.grammarClient).toEqual({ client: scope.client, signal: scope.signal });
      expect([models.numLeases, admission.stats.requests, admission.stats.bytes]).toEqual([1, 1, 7]);
    });
    expect([models.numLeases, admission.stats.requests]).toEqual([0, 0]);
  });
});

const unused = async (): Promise<void> => expect.fail("No engine can be leased");

test("the body names the model; null names none", async () => {
  await within(async (parts) => {
    const models = new ServedModels({ tiny: engine, other });
    const named = (model: string | null): ScopeParts<{ model: string | null }> => ({
      ...parts,
      serving: { ...parts.serving, models },
      body: { model },
    });
    await RequestScope.run(named("other"), async (scope) => {
      expect([scope.model, scope.engine]).toEqual(["other", other]);
    });
    await expect(RequestScope.run(named("third"), unused)).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
    });
    await expect(RequestScope.run(named(null), unused)).rejects.toMatchObject({ status: 400, param: "model" });
  });
});

test("an answer that fails releases everything, and its error is passed on", async () => {
  await within(async (parts, { models, admission }) => {
    const failed = RequestScope.run(parts, async (scope) => {
      scope.enter(DEMAND);
      throw new Error("broken");
    });
    await expect(failed).rejects.toThrow("broken");
    expect([models.numLeases, admission.stats.requests]).toEqual([0, 0]);
  });
});

test("a scope that enters gives back the room of its arriving body", async () => {
  await within(async (parts) => {
    const ended: string[] = [];
    localsOf(parts.response).endArrival = () => ended.push("arrival");
    await RequestScope.run(parts, async (scope) => {
      expect(ended).toEqual([]);
      scope.enter(DEMAND);
      expect(ended).toEqual(["arrival"]);
    });
  });
});

describe("grammars of an engine", () => {
  test("are opened once for all requests", async () => {
    const open = vi.spyOn(Grammars, "open");
    const grammars = new EngineGrammars(new ServedModels({ tiny: engine }));
    const uses = [grammars.use(engine), grammars.use(engine)];
    const opened = await Promise.all(uses.map((use) => use.grammars()));
    expect(opened[0]).toBe(opened[1]);
    for (const use of uses) use.release();
    expect(await grammars.use(engine).grammars()).toBe(opened[0]);
    expect(open).toHaveBeenCalledTimes(1);
    await opened[0]?.dispose();
  });

  test("are opened anew by the next request after they could not be opened", async () => {
    const open = vi.spyOn(Grammars, "open").mockRejectedValueOnce(new Error("no thread"));
    const grammars = new EngineGrammars(new ServedModels({ tiny: engine }));
    const use = grammars.use(engine);
    await expect(use.grammars()).rejects.toThrow("no thread");
    const opened = await use.grammars();
    expect(open).toHaveBeenCalledTimes(2);
    await opened.dispose();
  });

  test("are not awaited by a request that has ended, and continue to be opened for others", async () => {
    const grammars = new EngineGrammars(new ServedModels({ tiny: engine }));
    const use = grammars.use(engine);
    await expect(use.grammars(AbortSignal.abort("gone"))).rejects.toBe("gone");
    const controller = new AbortController();
    const impatient = use.grammars(controller.signal);
    const patient = use.grammars(new AbortController().signal);
    controller.abort("left");
    await expect(impatient).rejects.toBe("left");
    await (await patient).dispose();
  });

  test("of an engine that is not served are disposed with their last use, and not before", async () => {
    const grammars = new EngineGrammars(new ServedModels({ tiny: engine }));
    const uses = [grammars.use(other), grammars.use(other)];
    const opened = (await uses[0]?.grammars()) as Grammars;
    uses[0]?.release();
    expect(await opened.jsonObject()).toBeDefined();
    uses[1]?.release();
    await expect
      .poll(() => opened.jsonObject().then(String, (error: { code: string }) => error.code))
      .toBe("ERR_DISPOSED");
    const again = await grammars.use(other).grammars();
    expect(again).not.toBe(opened);
    await again.dispose();
  });

  test("that were never opened, or could not be opened, are released without an error", async () => {
    vi.spyOn(Grammars, "open").mockRejectedValue(new Error("no thread"));
    const grammars = new EngineGrammars(new ServedModels({ tiny: engine }));
    grammars.use(other).release();
    const use = grammars.use(other);
    const failed = use.grammars();
    use.release();
    await expect(failed).rejects.toThrow("no thread");
  });
});
