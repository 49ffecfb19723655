// The loras in the repository, with which `npm start -- --experts` opens SmolLM2.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gatherExperts, openLora, openModel, resolveModel } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { afterAll, expect, test, vi } from "vitest";
import { SHIPPED_EXPERTS, talkingModel } from "../../examples/talking-model.ts";
import { POCKET } from "../support/pocket.ts";
import { sharedModel } from "../support/shared.ts";

const smollm2 = sharedModel("smollm2-135m-instruct");
const TOKENS = 200;

afterAll(() => void vi.unstubAllEnvs());

test.skipIf(smollm2 === undefined)(
  "the experts of npm start -- --experts fit SmolLM2, and their router tells texts apart (skipped without shared/models)",
  async () => {
    vi.stubEnv("README_MOE_SMOLLM2", smollm2);
    const found = await talkingModel({ experts: SHIPPED_EXPERTS });
    if (!("name" in found)) throw new Error(found.why);
    const path = await resolveModel(found.name);
    const model = await openModel(path);
    const set = await gatherExperts(model, found.loras);
    const names = set.experts.map(({ name }) => name);
    expect(names).toEqual(["arxiv", "book", "chat", "github", "stackexchange", "web", "wikipedia"]);
    for (const one of set.experts) await (await openLora(one.path, one.name, model)).close();

    const { tokenizer } = await model.loadText();
    const router = await KernelRouter.open({ ...set, path }, { threads: 1 });
    for (const kind of ["arxiv", "github", "wikipedia"]) {
      const { text } = JSON.parse((await heldOut(kind)) ?? "");
      const tokenIds = [...tokenizer.encode(text, { addSpecialTokens: false })].slice(0, TOKENS);
      const [route] = await router.route([{ state: router.start(), tokenIds }]);
      const own = route?.experts.filter((expert) => expert === 1 + names.indexOf(kind)).length ?? 0;
      expect(own, kind).toBeGreaterThan(tokenIds.length / 2);
    }
    await router.dispose();
    await set.close();
    await model.close();
  },
);

/** Returns a line of a kind's text that the experts did not learn from. */
async function heldOut(kind: string): Promise<string | undefined> {
  return (await readFile(join(POCKET, "calibration", `${kind}.jsonl`), "utf8")).split("\n")[11];
}
