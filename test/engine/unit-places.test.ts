// Memory of streamed units, against a plain account of what is in use and what is free.

import { describe, expect, test } from "vitest";
import { LastingPlaces, UnitPlaces } from "../../packages/engine/src/experts/unit-places.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const SIZES = [100, 250, 400] as const;

describe("places that return their memory", () => {
  test("allocate no more than the limit or what is in use, and reuse free places of the same size", () => {
    const random = seededRandom(2);
    let [numReused, numOverLimit] = [0, 0];
    for (let round = 0; round < 50; round++) {
      let limit = 400 + randomInteger(random, 2000);
      const places = new UnitPlaces(limit, 400);
      const inUse: Uint8Array[] = [];
      const bytesInUse = (): number => inUse.reduce((sum, { byteLength }) => sum + byteLength, 0);
      for (let operation = 0; operation < 100; operation++) {
        const before = places.bytes;
        const choice = random();
        if (choice < 0.5) {
          const bytes = SIZES[randomInteger(random, 3)] ?? 100;
          const isRoomy = before - bytesInUse() >= bytes && before <= limit;
          const memory = places.take(bytes);
          expect([memory.byteLength, memory.buffer.byteLength]).toEqual([bytes, bytes]);
          expect(inUse.every(({ buffer }) => buffer !== memory.buffer)).toBe(true);
          inUse.push(memory.fill(inUse.length));
          if (isRoomy && places.bytes === before) numReused++;
        } else if (choice < 0.9 && inUse.length > 0) {
          const [memory] = inUse.splice(randomInteger(random, inUse.length), 1) as [Uint8Array];
          places.release(memory);
        } else {
          limit = 400 + randomInteger(random, 2000);
          places.setLimit(limit);
        }
        expect(places.bytes).toBeGreaterThanOrEqual(bytesInUse());
        expect(places.bytes).toBeLessThanOrEqual(Math.max(limit, bytesInUse()));
        if (bytesInUse() > limit) numOverLimit++;
      }
    }
    expect(Math.min(numReused, numOverLimit)).toBeGreaterThan(50);
  });

  test("keep free places up to the limit, and give up others for a unit of another size", () => {
    const places = new UnitPlaces(500, 400);
    const first = places.take(250);
    places.release(first);
    expect(places.bytes).toBe(250);
    expect(places.take(250).buffer).toBe(first.buffer);
    const second = places.take(250);
    places.release(second);
    expect(places.bytes).toBe(500);
    places.take(100);
    expect([places.bytes, second.byteLength]).toEqual([350, 0]);
    places.setLimit(0);
    expect(places.bytes).toBe(350);
  });

  test("take back only memory that is in use", () => {
    const places = new UnitPlaces(500, 400);
    const memory = places.take(100);
    places.release(memory);
    expect(() => places.release(memory)).toThrow("was not taken from here, or was released before");
    expect(() => places.release(new Uint8Array(100))).toThrow("was not taken from here");
  });

  test("are as large as a unit needs, and report memory that the system does not have", () => {
    const places = new UnitPlaces(1000, 400);
    const [small, large] = [places.take(100), places.take(900)];
    expect([large.byteLength, places.bytes]).toEqual([900, 1000]);
    for (const memory of [small, large]) places.release(memory);
    places.setLimit(0);
    places.setLimit(1000);
    // A buffer that was made for a small unit cannot hold a large one.
    expect([places.take(100).byteLength, places.take(900).byteLength, places.bytes]).toEqual([100, 900, 1000]);
    const bytes = 2 ** 52;
    const message = `There is no memory for ${bytes} bytes of an expert`;
    expect(() => places.take(bytes)).toThrow(expect.objectContaining({ code: "ERR_RUNTIME", message }));
    expect(places.bytes).toBe(1000);
  });
});

test("lasting places are as large as the largest unit, and are reused for units of any size", () => {
  let numLeft = 2;
  const cause = new RangeError("no memory");
  const places = new LastingPlaces(400, (bytes) => {
    if (numLeft-- === 0) throw cause;
    // A part of a larger memory, as WebAssembly's is.
    return new Uint8Array(new ArrayBuffer(1000), 8, bytes);
  });
  expect(places.bytes).toBe(0);
  const [first, second] = [places.take(100), places.take(400)];
  expect([first.byteLength, second.byteLength, places.bytes]).toEqual([100, 400, 800]);
  expect(() => places.take(250)).toThrow(
    expect.objectContaining({ code: "ERR_RUNTIME", message: "There is no memory for 400 bytes of an expert", cause }),
  );
  places.setLimit();
  places.release(first);
  expect(places.bytes).toBe(800);
  const again = places.take(400);
  expect([again.buffer, again.byteOffset, again.byteLength, places.bytes]).toEqual([first.buffer, 8, 400, 800]);
});
