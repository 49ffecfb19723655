import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { openModel } from "@readme-moe/model";
import { downloadModel } from "../../packages/model/src/hub/download-model.ts";
import { body, hangUp, status } from "../support/hub-server.ts";
import { isolateEnvironment, NAME, setUp, WEIGHTS, llama } from "../support/hub-setup.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

isolateEnvironment();

describe("refusals", () => {
  test("asks for a token on 401, and sends it to the hub and to no other server", async () => {
    const { server, options } = await setUp();
    server.token = "secret-token";
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNAUTHORIZED", "HF_TOKEN", "401");
    const wrong = downloadModel(NAME, { ...options, token: "other" });
    expect((await expectReadMeError(wrong, "ERR_HUB_UNAUTHORIZED", "the token")).message).not.toContain("other");
    server.requests.length = 0;
    await downloadModel(NAME, { ...options, token: "secret-token" });
    const seen = (of: string): unknown[] =>
      server.requests.filter((request) => request.server === of).map((request) => request.authorization);
    expect(new Set(seen("hub"))).toEqual(new Set(["Bearer secret-token"]));
    expect(seen("storage")).toEqual([undefined]);
  });

  test("takes the token from the environment, or from the file of a login", async () => {
    const { server, options } = await setUp();
    const used = async (): Promise<unknown> => {
      server.requests.length = 0;
      await downloadModel(NAME, options);
      return server.requests[0]?.authorization;
    };
    expect(await used()).toBeUndefined();
    const other = join(await temporaryFolder(), "token");
    await writeFile(other, "from-other-file");
    await writeFile(join(process.env["HF_HOME"] ?? "", "token"), "from-file\n");
    expect(await used()).toBe("Bearer from-file");
    vi.stubEnv("HF_TOKEN_PATH", other);
    expect(await used()).toBe("Bearer from-other-file");
    vi.stubEnv("HF_TOKEN", "from-variable");
    expect(await used()).toBe("Bearer from-variable");
    vi.stubEnv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    expect(await used()).toBeUndefined();
    vi.stubEnv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "");
    vi.stubEnv("HF_TOKEN", "two words");
    await expect(used()).rejects.toThrow(/^Expected `HF_TOKEN` to be an access token of printable characters/);
  });

  test("passes on the hub's message on 403", async () => {
    const { server, options } = await setUp();
    server.fail(/revision/, status(403, { "x-error-code": "GatedRepo", "x-error-message": "Accept the terms first." }));
    const refused = downloadModel(NAME, { ...options, token: "mine" });
    await expectReadMeError(refused, "ERR_HUB_UNAUTHORIZED", "Accept the terms first.", "terms may not be accepted");
  });

  test("names model or revision on 404", async () => {
    const { waits, options } = await setUp();
    await expectReadMeError(
      downloadModel("tiny-org/none", options),
      "ERR_HUB_NOT_FOUND",
      "tiny-org/none",
      "RepoNotFound",
    );
    await expectReadMeError(downloadModel(`${NAME}@none`, options), "ERR_HUB_NOT_FOUND", "none", "RevisionNotFound");
    const commit = "0".repeat(40);
    await expectReadMeError(downloadModel(`${NAME}@${commit}`, options), "ERR_HUB_NOT_FOUND", commit);
    expect(waits).toEqual([]);
  });

  test("waits on 429 as long as the server asks, up to a limit", async () => {
    const { server, waits, options } = await setUp();
    server.fail(/revision/, status(429, { "retry-after": "7" }));
    server.fail(/resolve.*\/config.json/, status(429, { "retry-after": new Date(0).toUTCString() }));
    server.fail(/^storage/, status(429));
    await downloadModel(NAME, options);
    expect(waits.toSorted((a, b) => a - b)).toEqual([0, 500, 7000]);
  });

  test("fails at once on 429 with a longer wait, and after five attempts", async () => {
    const { server, waits, options } = await setUp();
    server.fail(/revision/, status(429, { "retry-after": "3600" }));
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_RATE_LIMITED", "fewer requests");
    expect(waits).toEqual([]);
    server.fail(/revision/, status(429, { "retry-after": "1" }), 10);
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_RATE_LIMITED");
    expect(waits).toEqual([1000, 1000, 1000, 1000]);
  });

  test.each([
    ["500", status(500)],
    ["503", status(503)],
    ["no answer", hangUp],
    ["a page of something else", body("<html>Log in to the hotel</html>")],
    ["JSON of another shape", body("null")],
  ])("tries again after %s, with growing waits, up to five times", async (_, fault) => {
    const { server, waits, options } = await setUp();
    server.fail(/revision/, fault);
    server.fail(/tree/, fault);
    await downloadModel(NAME, options);
    expect(waits).toEqual([500, 500]);
    server.commit({ ...llama, "generation_config.json": "{}" }, "next");
    server.fail(/revision/, fault, 5);
    await expectReadMeError(downloadModel(`${NAME}@next`, options), "ERR_HUB_UNREACHABLE", server.endpoint);
    expect(waits.slice(2)).toEqual([500, 1000, 2000, 4000]);
  });

  test("does not try again after other statuses", async () => {
    const { server, waits, options } = await setUp();
    server.fail(/revision/, status(418));
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", "418");
    expect(waits).toEqual([]);
  });

  test("asks for a new link to the storage server when it has expired, and never shows it", async () => {
    const { server, options } = await setUp();
    server.fail(/^storage/, status(403));
    await downloadModel(NAME, options);
    expect(server.fileRequests.slice(-2)).toEqual([WEIGHTS, WEIGHTS]);
    await rm(options.cacheFolder ?? "", { recursive: true });
    server.fail(/^storage/, status(403), 5);
    const error = await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", "403");
    expect(error.message).not.toContain("signature");
  });

  test("ends an aborted wait with the signal's reason", async () => {
    const { server, options } = await setUp();
    server.fail(/revision/, status(500));
    const controller = new AbortController();
    const reason = new Error("no patience");
    const { delay: _, ...others } = options;
    const download = downloadModel(NAME, {
      ...others,
      signal: controller.signal,
      fetch: async (...input) => {
        const response = await fetch(...input);
        setImmediate(() => controller.abort(reason));
        return response;
      },
    });
    await expect(download).rejects.toBe(reason);
    await expect(downloadModel(NAME, { ...options, signal: controller.signal })).rejects.toBe(reason);
  });
});

describe("redirects", () => {
  test("are followed within the hub, as for a model that was renamed", async () => {
    const { server, options } = await setUp();
    const location = `/api/models/${NAME}`;
    server.fail(/models\/old\/name\/revision/, status(307, { location: `${location}/revision/main` }));
    server.fail(/models\/old\/name\/tree/, status(307, { location: `${location}/tree/main?recursive=true` }));
    for (const name of ["generation_config.json", "config.json", WEIGHTS]) {
      server.fail(
        new RegExp(`old/name/resolve/.*/${name}`),
        status(308, { location: `/${NAME}/resolve/main/${name}` }),
      );
    }
    await (await openModel(await downloadModel("old/name", { ...options, token: "mine" }))).close();
    expect(server.requests.filter((request) => request.server === "hub" && !request.authorization)).toEqual([]);
  });

  test("to another server are followed without the token, also for the API", async () => {
    const { server, options } = await setUp();
    server.fail(/revision/, status(302, { location: `${server.storageEndpoint}/elsewhere` }), 5);
    await expectReadMeError(downloadModel(NAME, { ...options, token: "mine" }), "ERR_HUB_UNREACHABLE", "/elsewhere");
    expect(server.requests.find(({ path }) => path === "/elsewhere")?.authorization).toBeUndefined();
  });

  test("of listings to another server are followed without the token", async () => {
    const { server, options } = await setUp();
    const link = `<${server.storageEndpoint}/next>; rel="next"`;
    server.fail(/tree/, (response) => void response.writeHead(200, { link }).end("[]"), 5);
    await expectReadMeError(downloadModel(NAME, { ...options, token: "mine" }), "ERR_HUB_UNREACHABLE");
    expect(server.requests.find(({ path }) => path === "/next")?.authorization).toBeUndefined();
  });

  test("in a circle, or to no web address, are errors", async () => {
    const { server, options } = await setUp();
    server.fail(/revision/, status(302, { location: "?again" }), 11);
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", "more than 10 times");
    server.fail(/revision/, status(302, { location: "file:///etc/passwd" }));
    await expectReadMeError(downloadModel(NAME, options), "ERR_HUB_UNREACHABLE", '"file:///etc/passwd"');
  });
});
