// Operators change experts while requests run, and engines fail.

import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { openExpertEngine } from "../support/expert-engine.ts";
import {
  begin,
  ids,
  serveOperated,
  statusOf,
  writeOperated,
  type OperatedFolders,
} from "../support/operated-server.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

let folders: OperatedFolders;
beforeAll(async () => {
  folders = await writeOperated(await persistentFolder());
});

const serve = (isolation: "thread" | "process" = "thread"): ReturnType<typeof serveOperated> =>
  serveOperated({ ...folders, isolation });

describe("while requests run", () => {
  test("loading and unloading leave their answers as they are, and an unloaded expert ends its own first", async () => {
    const server = await serve();
    expect(await server.load("legal", "legal")).toMatch(/^200/);
    const finished: string[] = [];
    server.engine.events.on("sequence:finished", ({ sequenceId }) => void finished.push(sequenceId));
    const { text: plain } = await (await begin(server, "base"))();
    const { text: legal } = await (await begin(server, "base:legal"))();
    const running = [await begin(server, "base:legal"), await begin(server, "base"), await begin(server, "base:legal")];
    const loaded = server.load("support", "acme/support");
    const unloaded = server.unload("legal").then((answer) => ({ answer, endedBefore: [...finished] }));
    // The expert is gone at once for new requests.
    await expect.poll(() => statusOf(server, "base:legal")).toBe(404);
    const streams = await Promise.all(running.map((end) => end()));
    expect(streams.map(({ text }) => text)).toEqual([legal, plain, legal]);
    expect(await loaded).toMatch(/^200/);
    const { answer, endedBefore } = await unloaded;
    expect(answer).toMatch(/^200/);
    for (const index of [0, 2]) {
      expect(endedBefore.some((sequenceId) => sequenceId.startsWith(streams[index]?.id ?? "?"))).toBe(true);
    }
    expect(await statusOf(server, "base:support")).toBe(200);
  });

  test("two loads of one name at once load it once", async () => {
    const server = await serve();
    const answers = await Promise.all(["legal", "acme/support", "legal"].map((path) => server.load("one", path)));
    expect(answers.map((answer) => answer.slice(0, 18)).toSorted()).toEqual([
      "200 Success: LoRA ",
      "400 adapter_exists",
      "400 adapter_exists",
    ]);
    expect(server.engine.info.experts).toEqual(["none", "one"]);
    const removals = await Promise.all([server.unload("one"), server.unload("one"), server.load("one", "legal")]);
    expect(removals.map((answer) => answer.slice(0, 3)).toSorted()).toEqual(["200", "200", "404"]);
  });

  test("hundreds of changes and requests at random end as documented", async () => {
    const server = await serve();
    const outcomes = await Promise.all(
      Array.from({ length: 300 }, async (_, index) => {
        const name = `e${index % 3}`;
        if (index % 4 === 0) return server.load(name, "legal");
        if (index % 4 === 1) return server.unload(name);
        return String(await statusOf(server, `base:${name}`));
      }),
    );
    for (const outcome of outcomes) {
      expect(outcome).toMatch(/^(200 Success|200$|404$|400 adapter_exists|404 adapter_not_found)/);
    }
    expect(await statusOf(server, "base")).toBe(200);
    expect(server.models.numLeases).toBe(0);
  });

  test("a change of an engine that is replaced meanwhile is not told as done", async () => {
    const server = await serve();
    expect(await server.load("legal", "legal")).toMatch(/^200/);
    const legal = join(folders.adapters, "legal");
    const engine = await openExpertEngine(folders.model, { legal });
    // A request that uses the expert until the gate opens.
    const open: (() => void)[] = [];
    const gate = new Promise<void>((resolve) => open.push(resolve));
    const params = { maxTokens: 1, ignoreEos: true };
    const running = complete(server.engine, { prompt: [5, 6], params, expert: "legal", processLogits: () => gate });
    const unloaded = server.unload("legal");
    await expect.poll(() => statusOf(server, "base:legal")).toBe(404);
    const replaced = server.models.set("base", engine);
    open[0]?.();
    expect((await running).ids).toHaveLength(1);
    expect(await unloaded).toBe("503 model_loading");
    await replaced;
    expect(await statusOf(server, "base:legal")).toBe(200);
    expect(await server.unload("legal")).toMatch(/^200/);
    await engine.dispose();
  });

  test("a server that shuts down changes no experts any more", async () => {
    const server = await serve();
    await server.models.drain();
    expect(await server.load("legal", "legal")).toBe("503 shutting_down");
    expect(await server.unload("legal")).toBe("503 shutting_down");
  });
});

describe("when the engine fails", () => {
  test("loaded experts are there again, and unloaded ones are not", async () => {
    const server = await serve("process");
    expect(await server.load("legal", "legal")).toMatch(/^200/);
    expect(await server.load("support", "acme/support")).toMatch(/^200/);
    expect(await server.unload("legal")).toMatch(/^200/);
    const { text: before } = await (await begin(server, "base:support"))();
    const restarted = new Promise((resolve) => server.models.events.once("engine:restarted", resolve));
    server.engine.kill();
    await restarted;
    expect((await (await begin(server, "base:support"))()).text).toBe(before);
    expect(await statusOf(server, "base:legal")).toBe(404);
    expect(await ids(server)).toEqual(["base", "alias", "base:support", "alias:support"]);
  });

  test("an expert whose folder is gone is lost, and the model and its other experts answer", async () => {
    const server = await serve("process");
    await cp(join(folders.adapters, "legal"), join(folders.adapters, "short-lived"), { recursive: true });
    expect(await server.load("gone", "short-lived")).toMatch(/^200/);
    expect(await server.load("support", "acme/support")).toMatch(/^200/);
    await rm(join(folders.adapters, "short-lived"), { recursive: true });
    const lost = new Promise((resolve) => server.models.events.once("expert:lost", resolve));
    const restarted = new Promise((resolve) => server.models.events.once("engine:restarted", resolve));
    server.engine.kill();
    await restarted;
    expect(await lost).toMatchObject({ name: "base", expert: "gone" });
    expect(JSON.stringify(await lost)).toContain("ERR_FILE_NOT_FOUND");
    expect(await statusOf(server, "base:gone")).toBe(404);
    expect(await statusOf(server, "base:support")).toBe(200);
    expect(await statusOf(server, "base")).toBe(200);
  });
});
