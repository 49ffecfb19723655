// The form in which @xenova/transformers calls `generate`.

import { generationConfig, type HostGenerationConfig, type HostTensor } from "../host.ts";
import { type PaddedPrompt, paddedPrompts, rowsOf, runCall, type ExtraOptions } from "./call.ts";
import type { Serving } from "./huggingface-call.ts";
import type { RowHooks } from "./run-rows.ts";

/** The caller's options; the host keeps unknown ones. */
export type XenovaOptions = ExtraOptions & { readonly stop?: ExtraOptions["stop_strings"] };

/** Further arguments of the host's `generate`. */
interface XenovaArguments {
  readonly options: XenovaOptions | null;
  readonly processors: unknown;
  readonly mask: HostTensor | null | undefined;
}

/** @returns ids of each row, with prompt and padding */
export async function generateForXenova(
  { host, model, engine }: Serving,
  inputs: HostTensor | ArrayLike<number | bigint>,
  { options, processors, mask }: XenovaArguments,
): Promise<unknown> {
  const ids = asTensor(inputs);
  // The host's message.
  if (ids.dims.at(-1) === 0) throw new Error("Must supply a non-empty array of input token ids.");
  const config = generationConfig(model, null, options ?? {});
  const extra = { ...options, stop_strings: options?.stop_strings ?? options?.stop };
  const prompts = paddedPrompts(ids, mask ?? undefined);
  const call = { host, generation: "xenova", model, engine, config, extra, processors, prompts } as const;
  const rows = await runCall(call, hooksOf(rowsOf(call), config));
  const sequences = rows.map(({ padded, generated }) => [...padded.map(Number), ...generated]);
  return config.return_dict_in_generate ? { sequences } : sequences;
}

function asTensor(inputs: HostTensor | ArrayLike<number | bigint>): HostTensor {
  if ("dims" in inputs) return inputs;
  const data = BigInt64Array.from(Array.from(inputs, (id) => BigInt(id)));
  return { dims: [1, data.length], data };
}

/** Calls the callback with all rows at each step, also with those that are done. */
function hooksOf(rows: readonly PaddedPrompt[], { callback_function: onBeams }: HostGenerationConfig): RowHooks {
  if (!onBeams) return {};
  const beams = rows.map(({ padded }, id) => ({
    id,
    score: 0,
    done: false,
    num_output_tokens: 0,
    output_token_ids: padded.map(Number),
  }));
  return {
    onStep: (tokens) => {
      tokens.forEach((token, row) => {
        const beam = beams[row];
        if (beam === undefined) return;
        beam.done = token === undefined;
        if (token === undefined) return;
        beam.num_output_tokens++;
        beam.output_token_ids.push(token);
      });
      onBeams(beams.map((beam) => ({ ...beam, output_token_ids: [...beam.output_token_ids] })));
      return rows.map(() => false);
    },
  };
}
