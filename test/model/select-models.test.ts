// Selections of models on this machine by name.

import { expect, test, vi } from "vitest";
import { downloadModel, listModels, selectModels } from "@readme-moe/model";
import { HubServer } from "../support/hub-server.ts";
import { isolateEnvironment, llama, NAME } from "../support/hub-setup.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

isolateEnvironment();

test("a selection suggests a similar name of what is here", async () => {
  vi.stubEnv("HF_HUB_CACHE", await temporaryFolder());
  const server = await HubServer.start(NAME);
  server.commit(llama);
  vi.stubEnv("HF_ENDPOINT", server.endpoint);
  await downloadModel(NAME);
  const { models } = await listModels({ cacheFolder: await temporaryFolder() });
  expect(selectModels(models, "tiny-org/llama-tide", () => false)).toEqual({ models: [], near: NAME });
  expect(selectModels(models, "something", () => false)).toEqual({ models: [], near: undefined });
  expect(selectModels(models, NAME.toUpperCase(), () => false).models).toHaveLength(1);
  expect(selectModels(models, `${NAME}@${models[0]?.commit?.slice(0, 8)}`, () => false).models).toHaveLength(1);
  expect(selectModels(models, `${NAME}@other`, () => false).models).toEqual([]);
  expect(selectModels(models, models[0]?.path ?? "", () => true).models).toHaveLength(1);
});
