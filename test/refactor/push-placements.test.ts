import { rendezvousOrder, seededRandom } from "@readme-moe/core";
import { PUSH_PLACEMENTS, type PushTarget } from "@readme-moe/refactor/simulation";
import { expect, test } from "vitest";

const targetsOf = (loads: readonly number[], capacities: readonly number[] = []): readonly PushTarget[] =>
  loads.map((load, index) => ({ id: `w${index}`, load, capacity: capacities[index] ?? 1 }));

test("round robin takes each worker in turn, whatever its load", () => {
  const targets = targetsOf([9, 0, 5]);
  const chosen = [0, 1, 2, 3, 4].map((number) => PUSH_PLACEMENTS["round-robin"]({ key: "e0", number }, targets).id);
  expect(chosen).toEqual(["w0", "w1", "w2", "w0", "w1"]);
});

test("least requests takes the lowest load for the capacity, and equal ones in turn", () => {
  const least = PUSH_PLACEMENTS["least-requests"];
  expect(least({ key: "e0", number: 0 }, targetsOf([4, 3, 5])).id).toBe("w1");
  expect(least({ key: "e0", number: 0 }, targetsOf([4, 3, 5], [2, 1, 1])).id).toBe("w0");
  const equal = [0, 1, 2, 3].map((number) => least({ key: "e0", number }, targetsOf([2, 7, 2])).id);
  expect(new Set(equal)).toEqual(new Set(["w0", "w2"]));
});

test("affinity takes the first of the rendezvous order; bounded affinity the first that is not overloaded", () => {
  const random = seededRandom(2);
  for (let run = 0; run < 500; run++) {
    const targets = targetsOf(Array.from({ length: 1 + Math.floor(random() * 6) }, () => Math.floor(random() * 20)));
    const job = { key: `e${Math.floor(random() * 9)}`, number: run };
    const order = rendezvousOrder(job.key, targets).map(({ id }) => id);
    expect(PUSH_PLACEMENTS.affinity(job, targets).id).toBe(order[0]);
    const jobs = targets.reduce((sum, { load }) => sum + load, 0) + 1;
    const most = Math.ceil((1.25 * jobs) / targets.length);
    const free = order.filter((id) => (targets.find((target) => target.id === id)?.load ?? 0) < most);
    expect(PUSH_PLACEMENTS["bounded-affinity"](job, targets).id).toBe(free[0]);
  }
});

test("no rule chooses among no workers", () => {
  for (const rule of Object.values(PUSH_PLACEMENTS)) expect(() => rule({ key: "e0", number: 0 }, [])).toThrow();
});
