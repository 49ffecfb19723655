// What admission asks of a policy, and what it does with the answer.

import { Admission, type RoutedRequest, type Ticket } from "@readme-moe/express";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { entrant } from "../support/admission.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("a policy", () => {
  test("sees the request, its experts and those of the model's other requests", async () => {
    const seen: RoutedRequest[] = [];
    const admission = new Admission({ policy: (request) => ({ priority: seen.push(request) }) });
    const about = { model: "m", key: "k", priority: 4, choices: 2, maxCompletionTokens: 3 };
    const asked = admission.enter(entrant(about));
    const [other, foreign] = ["m", "n"].map((model) => admission.enter(entrant({ model })));
    asked.correct(5);
    asked.routed([2, 0, 2]);
    other?.routed(Uint16Array.of(1, 3, 1));
    foreign?.routed([0, 1, 2, 3]);
    const experts = ["a", "b", "c", "d"];
    expect([await asked.consult?.(experts), await asked.consult?.(experts)]).toEqual([1, 2]);
    const request = { ...about, promptTokens: 5, experts, turnMs: undefined };
    const tokens = { expertTokens: [1, 0, 2, 0], othersTokens: [0, 2, 0, 1] };
    expect(seen).toEqual([
      { ...request, ...tokens },
      { ...request, ...tokens, priority: 1 },
    ]);
  });

  test("changes the priority only if it gives one, which has to be a finite number", async () => {
    for (const [decision, priority] of [
      [undefined, 4],
      [{}, 4],
      [{ priority: -2 }, -2],
    ] as const) {
      const ticket = new Admission({ policy: () => decision }).enter(entrant({ priority: 4 }));
      expect(await ticket.consult?.([])).toBe(priority);
    }
    for (const wrong of [NaN, Infinity, "9"]) {
      const ticket = new Admission({ policy: () => ({ priority: wrong as number }) }).enter(entrant());
      await expect(ticket.consult?.([])).rejects.toThrow("Expected `policy` to give a finite `priority`, got ");
    }
    expect(new Admission().enter(entrant())).not.toHaveProperty("consult");
    expect(() => new Admission({ policy: {} as () => void })).toThrow("Expected `policy` to be a function");
  });
});

describe("a policy's `turnMs`", () => {
  test("is 0 while no request waits, and grows with the queue at the pace of the model's releases", async () => {
    const turns: (number | undefined)[] = [];
    const policy = ({ turnMs }: RoutedRequest): void => void turns.push(turnMs);
    const admission = new Admission({ policy });
    const enter = (model = "m"): Ticket => admission.enter(entrant({ model }));
    const running = Array.from({ length: 6 }, () => enter());
    for (const ticket of running) ticket.started();
    const asked = enter();
    await asked.consult?.(["a"]);
    const waiting = [enter(), enter(), enter("other")];
    await asked.consult?.(["a"]);
    for (const ticket of running.slice(0, 4)) {
      vi.advanceTimersByTime(100);
      ticket.release();
    }
    vi.advanceTimersByTime(100);
    await asked.consult?.(["a"]);
    expect(turns).toEqual([0, undefined, 200]);
    for (const ticket of waiting) ticket.release();
  });
});
