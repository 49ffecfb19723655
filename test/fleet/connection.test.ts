// Connections of a fleet over a network that is cut, and that holds answers: nothing is left without an owner.

import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { openConnection, type Connection, type ConnectionLimits } from "../../packages/fleet/src/connect.ts";
import * as fc from "../support/fast-check.ts";
import { Pipe } from "../support/fleet/pipe.ts";
import { noServer, startValkey, type ValkeyServer } from "../support/fleet/valkey.ts";
import { parseFleetUrl } from "@readme-moe/fleet";

if (noServer !== undefined) console.log(`The tests of a fleet's connections did not run: ${noServer}`);

const LIMITS: ConnectionLimits = { commandMs: 40, silentMs: 100 };
const LOGIN = "fleet:top%20secret@";

/** Listens to channels. @returns the messages that come */
const listen = (connection: Connection, ...channels: readonly string[]): readonly string[] => {
  const heard: string[] = [];
  connection.listen(channels, (channel, message) => heard.push(`${channel} ${message}`));
  return heard;
};
const answers = ({ redis }: Connection): Promise<boolean> =>
  redis.ping().then(
    () => true,
    () => false,
  );
/** Waits for an error of a cause. */
const reported = (errors: readonly Error[], cause: RegExp): Promise<void> =>
  expect.poll(() => errors.some((error) => cause.test(String(error.cause)))).toBe(true);

describe.skipIf(noServer !== undefined)("a connection (skipped without Valkey)", () => {
  let server: ValkeyServer;
  let pipe: Pipe;
  const unowned: unknown[] = [];
  const onUnowned = (error: unknown): void => void unowned.push(error);

  beforeAll(async () => {
    server = await startValkey();
    await server.redis.call("ACL", "SETUSER", "fleet", "on", ">top secret", "~*", "&*", "+@all");
    process.on("unhandledRejection", onUnowned);
  });
  beforeEach(async () => {
    unowned.length = 0;
    pipe = await Pipe.open(server.port);
    onTestFinished(() => pipe.close());
  });
  afterAll(async () => {
    process.off("unhandledRejection", onUnowned);
    await server?.stop();
  });

  /** Opens a connection with a login and a database of its own, so that it has all commands of a handshake. */
  const open = (errors: Error[] = [], limits: ConnectionLimits = LIMITS): Connection => {
    const address = parseFleetUrl(`redis://${LOGIN}127.0.0.1:${pipe.port}/3`);
    const connection = openConnection(address, (error) => errors.push(error), limits);
    onTestFinished(() => connection.close());
    return connection;
  };
  /** Publishes a message until all have heard it: a subscription may be one of a connection that was just cut. */
  const publish = async (text: string, ...listeners: readonly (readonly string[])[]): Promise<void> => {
    const [channel = "", message = ""] = text.split(" ");
    await expect
      .poll(async () => {
        await server.redis.publish(channel, message);
        return listeners.map((heard) => heard.includes(text));
      })
      .toEqual(listeners.map(() => true));
  };
  test("subscribes again after its subscription has reached its time limit right after a reconnection", async () => {
    const errors: Error[] = [];
    const heard = listen(open(errors), "a", "b");
    await publish("a one", heard);
    pipe.hold("subscribe");
    pipe.cut();
    await reported(errors, /Command timed out/);
    pipe.release();
    await publish("b two", heard);
    expect(unowned).toEqual([]);
  });

  test("subscribes although nothing answered when it was opened", async () => {
    pipe.hold();
    const errors: Error[] = [];
    const heard = listen(open(errors), "a");
    await reported(errors, /Command timed out/);
    pipe.release();
    await publish("a one", heard);
    expect(unowned).toEqual([]);
  });

  test("stays the same while answers come late, but before it counts as silent", async () => {
    const connection = open([], { commandMs: 40 });
    await expect.poll(() => answers(connection)).toBe(true);
    for (let round = 0; round < 2; round++) {
      pipe.hold();
      await expect(connection.redis.ping()).rejects.toThrow("Command timed out");
      pipe.release();
      await expect.poll(() => answers(connection)).toBe(true);
    }
    expect(pipe.numConnections).toBe(1);
  });

  test("goes on after any faults, and leaves no rejection to the process", async () => {
    const faults = [
      "cut",
      "hold",
      "hold subscribe",
      "hold info",
      "hold select",
      "hold auth",
      "release",
      "wait",
    ] as const;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...faults), { minLength: 4, maxLength: 12 }), async (happening) => {
        const [first, second, third] = [open(), open(), open()];
        const heard = [listen(first, "a"), listen(second, "a", "b")];
        for (const fault of happening) {
          const asked = third.redis.incr("n").catch(() => undefined);
          const [what, trigger] = fault.split(" ");
          if (what === "cut") pipe.cut();
          if (what === "hold") pipe.hold(trigger);
          if (what === "release") pipe.release();
          if (what === "wait") await asked;
        }
        pipe.release();
        await publish("a end", ...heard);
        await expect.poll(() => answers(third)).toBe(true);
        for (const { close } of [first, second, third]) close();
      }),
      { numRuns: 12 },
    );
    expect(unowned).toEqual([]);
  });
});
