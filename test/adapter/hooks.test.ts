// Streamers, criteria, processors and callbacks of callers, compared with the host's own run.

import {
  InterruptableStoppingCriteria,
  LogitsProcessor,
  LogitsProcessorList,
  random,
  StoppingCriteria,
  TextStreamer,
  type Tensor,
} from "@huggingface/transformers";
import { readMeModel } from "@readme-moe/adapter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findAnywhere, hostGenerator, ourGenerator, writeTwins, type Generator } from "../support/hosts.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const ONE = "The ship was";
const OTHER = "import os\n\ndef main(args):\n    ";

let twins: readonly Generator[]; // the newer host's own, and ours
let older: readonly Generator[];
beforeAll(async () => {
  findAnywhere();
  const { dense, exported } = await writeTwins(await persistentFolder());
  [twins, older] = await Promise.all([
    Promise.all([hostGenerator("huggingface", exported), ourGenerator("huggingface", dense)]),
    Promise.all([hostGenerator("xenova", exported), ourGenerator("xenova", dense)]),
  ]);
});
afterAll(async () => {
  for (const generate of [...twins, ...older]) await generate.dispose();
});

/** The observations of `observe`, of the host and of ours. */
async function both<Seen>(
  [host, ours]: readonly Generator[],
  observe: (generate: Generator) => Promise<Seen>,
): Promise<readonly [Seen, Seen]> {
  return [await observe(host as Generator), await observe(ours as Generator)];
}

function fail(): never {
  throw new Error("enough of it");
}

async function text(generate: Generator | undefined, options: object): Promise<string> {
  const [one] = ((await generate?.(ONE, options)) ?? []) as { generated_text: string }[];
  return one?.generated_text ?? "";
}

type Tokenizer = ConstructorParameters<typeof TextStreamer>[0];

describe("the newer host", () => {
  test.each([{}, { skip_prompt: true }, { skip_special_tokens: false, skip_prompt: true }])(
    "a TextStreamer %j writes the same pieces, then ends",
    async (options) => {
      const [host, ours] = await both(twins, async (generate) => {
        const pieces: string[] = [];
        const tokens: bigint[][] = [];
        const streamer = new TextStreamer(generate.tokenizer as Tokenizer, {
          ...options,
          callback_function: (piece) => pieces.push(piece),
          token_callback_function: (ids) => tokens.push([...ids]),
        });
        const result = await generate(ONE, { max_new_tokens: 16, streamer });
        return { pieces, tokens, result };
      });
      expect(host.pieces.length).toBeGreaterThan(3);
      expect(ours).toEqual(host);
    },
  );

  test("a TextStreamer refuses several texts, in the host's words", async () => {
    const [host, ours] = await both(twins, async (generate) => {
      const streamer = new TextStreamer(generate.tokenizer as Tokenizer, { callback_function: () => undefined });
      return generate([ONE, OTHER], { max_new_tokens: 4, streamer }).catch((error: Error) => error.message);
    });
    expect(host).toMatch(/batch size/);
    expect(ours).toBe(host);
  });

  test("the caller's own streamer gets prompts, one token of each text per step, and the end", async () => {
    const [host, ours] = await both(twins, async (generate) => {
      const calls: unknown[] = [];
      const streamer = {
        put: (value: bigint[][]) => calls.push(structuredClone(value)),
        end: () => calls.push("end"),
      };
      await generate([ONE, OTHER], { max_new_tokens: 6, streamer });
      return calls;
    });
    expect(host).toHaveLength(8);
    expect(ours).toEqual(host);
  });

  test("stopping criteria get the same ids as in the host, and end the text", async () => {
    const [host, ours] = await both(twins, async (generate) => {
      const seen: number[] = [];
      class AfterNine extends StoppingCriteria {
        override _call(ids: number[][]): boolean[] {
          seen.push(...ids.map((row) => row.length));
          return ids.map((row) => row.length >= 9);
        }
      }
      return { result: await generate(ONE, { max_new_tokens: 40, stopping_criteria: new AfterNine() }), seen };
    });
    expect(host.seen.at(-1)).toBe(9);
    expect(ours).toEqual(host);
  });

  test("an interruption ends the text at the current token", async () => {
    const [host, ours] = await both(twins, async (generate) => {
      const stop = new InterruptableStoppingCriteria();
      let numTokens = 0;
      const streamer = new TextStreamer(generate.tokenizer as Tokenizer, {
        callback_function: () => undefined,
        token_callback_function: () => ++numTokens === 6 && stop.interrupt(),
      });
      return generate(ONE, { max_new_tokens: 200, streamer, stopping_criteria: stop });
    });
    expect(ours).toEqual(host);
  });

  test("an interruption before the first token ends a waiting call", async () => {
    const stop = new InterruptableStoppingCriteria();
    stop.interrupt();
    const result = (await twins[1]?.(ONE, { max_new_tokens: 200, stopping_criteria: stop })) as [
      { generated_text: string },
    ];
    expect(result[0].generated_text.length).toBeLessThan(40);
  });

  test("the caller's own logits processors change the sampled tokens", async () => {
    class Only extends LogitsProcessor {
      override _call(_ids: bigint[][], logits: Tensor): Tensor {
        for (const row of logits as unknown as Iterable<Tensor>) {
          const data = row.data as Float32Array;
          data.forEach((_, id) => id % 3 !== 0 && (data[id] = -Infinity));
        }
        return logits;
      }
    }
    const [host, ours] = await both(twins, async (generate) => {
      const processors = new LogitsProcessorList();
      processors.push(new Only());
      return generate([ONE, OTHER], { max_new_tokens: 10, logits_processor: processors });
    });
    expect(ours).toEqual(host);
  });

  test("a call rejects with the error of its hook, and the model still works", async () => {
    for (const generate of twins) {
      const streamer = { put: () => undefined, end: fail };
      await expect(generate(ONE, { max_new_tokens: 3, streamer })).rejects.toThrow("enough of it");
      class Failing extends LogitsProcessor {
        override _call(): Tensor {
          return fail();
        }
      }
      const logits_processor = [new Failing()];
      await expect(generate(ONE, { max_new_tokens: 3, logits_processor })).rejects.toThrow("enough of it");
      const stopping_criteria = [fail];
      await expect(generate(ONE, { max_new_tokens: 3, stopping_criteria })).rejects.toThrow("enough of it");
      expect(await generate(ONE, { max_new_tokens: 3 })).toHaveLength(1);
    }
    const stats = await readMeModel(twins[1]?.model)?.engine.stats();
    expect(stats).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });
});

describe("the older host", () => {
  test("the callback gets all texts so far after each token", async () => {
    const [host, ours] = await both(older, async (generate) => {
      const seen: unknown[] = [];
      const callback_function = (beams: { output_token_ids: number[]; done: boolean }[]): void => {
        seen.push(beams.map(({ output_token_ids: ids }) => [...ids]));
      };
      return { result: await generate(ONE, { max_new_tokens: 8, callback_function }), seen };
    });
    expect(host.seen).toHaveLength(8);
    expect(ours).toEqual(host);
  });

  test("an error of the callback ends the call", async () => {
    for (const generate of older) {
      await expect(generate(ONE, { max_new_tokens: 8, callback_function: fail })).rejects.toThrow("enough of it");
    }
  });

  test("beams are refused", async () => {
    await expect(older[1]?.(ONE, { num_beams: 3 })).rejects.toThrow(/num_beams/);
  });
});

describe("options that the hosts do not have", () => {
  test.each(["stop", "stop_strings"])("%s ends the text after the string", async (name) => {
    for (const generate of [twins[1], older[1]]) {
      const full = await text(generate, { max_new_tokens: 24 });
      expect(full).toContain("grand");
      const cut = await text(generate, { max_new_tokens: 24, [name]: ["grand"] });
      expect(cut).toBe(full.slice(0, full.indexOf("grand") + "grand".length));
    }
  });

  test("seeds make sampling repeatable, several sequences differ, and a tiny top_p is greedy", async () => {
    for (const generate of [twins[1] as Generator, older[1] as Generator]) {
      const sampling = { max_new_tokens: 12, do_sample: true, seed: 5 };
      const several = { ...sampling, num_return_sequences: 3 };
      const [first, second] = [await generate(ONE, several), await generate(ONE, several)];
      expect(first).toEqual(second);
      expect(new Set((first as { generated_text: string }[]).map((one) => one.generated_text)).size).toBe(3);
      const narrow = await text(generate, { ...sampling, top_p: 1e-6 });
      expect(narrow).toBe(await text(generate, { max_new_tokens: 12 }));
    }
  });

  test("a prediction changes no text, and a wrong one is refused", async () => {
    for (const generate of [twins[1] as Generator, older[1] as Generator]) {
      const full = await text(generate, { max_new_tokens: 24 });
      for (const prediction of [full, "something else", [5, 6, 7], ""]) {
        expect(await text(generate, { max_new_tokens: 24, prediction })).toBe(full);
      }
      await expect(generate(ONE, { max_new_tokens: 24, prediction: 5 })).rejects.toThrow("`prediction` to be a text");
    }
  });

  test("the newer host's random seed makes sampling repeatable", async () => {
    const texts: string[] = [];
    for (let time = 0; time < 2; time++) {
      random.seed(11);
      texts.push(await text(twins[1], { max_new_tokens: 12, do_sample: true }));
    }
    expect(texts[1]).toBe(texts[0]);
  });

  // The prompt is put first, then each token.
  test.each([1, 2, 5])("a signal ends a call in the streamer's call number %i", async (abortAt) => {
    const controller = new AbortController();
    const reason = new Error("no longer wanted");
    let numPut = 0;
    const put = (): void => {
      if (++numPut === abortAt) controller.abort(reason);
    };
    const streamer = { put, end: () => undefined };
    const call = twins[1]?.(ONE, { max_new_tokens: 200, streamer, signal: controller.signal });
    await expect(call).rejects.toBe(reason);
    expect(numPut).toBe(abortAt);
    const stats = await readMeModel(twins[1]?.model)?.engine.stats();
    expect(stats).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });

  test("models have events and routes", async () => {
    const model = readMeModel(twins[1]?.model);
    const tokens: number[] = [];
    model?.events.on("token:generated", ({ tokenId }) => tokens.push(tokenId));
    await text(twins[1], { max_new_tokens: 5 });
    expect(tokens).toHaveLength(5);
    const route = await model?.route(ONE);
    expect(route?.experts).toHaveLength(route?.tokenIds.length ?? -1);
    expect(readMeModel(twins[0]?.model)).toBeUndefined();
  });
});
