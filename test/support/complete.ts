import type { Engine, FinishReason, GeneratedToken, GenerateRequest, Usage } from "@readme-moe/core";

/** One completion of a request, put together from its chunks. */
export interface Completed {
  readonly text: string;
  readonly tokens: readonly GeneratedToken[];
  readonly ids: readonly number[];
  readonly finishReason: FinishReason | undefined;
  readonly stop: string | undefined;
}

/** All completions of a request, by choice, and what they used. @param onChunk - called with each chunk */
export async function completeAll(
  engine: Pick<Engine, "generate">,
  request: GenerateRequest,
  onChunk: () => void = () => undefined,
): Promise<{ readonly choices: readonly Completed[]; readonly usage: Usage | undefined }> {
  const choices: { text: string; tokens: GeneratedToken[]; finishReason?: FinishReason; stop?: string }[] = [];
  let usage: Usage | undefined;
  for await (const chunk of engine.generate(request)) {
    onChunk();
    const choice = (choices[chunk.choice] ??= { text: "", tokens: [] });
    choice.text += chunk.text;
    choice.tokens.push(...chunk.tokens);
    if (chunk.finishReason) choice.finishReason = chunk.finishReason;
    if (chunk.stop !== undefined) choice.stop = chunk.stop;
    usage = chunk.usage ?? usage;
  }
  return {
    usage,
    choices: choices.map(({ text, tokens, finishReason, stop }) => ({
      text,
      tokens,
      ids: tokens.map((token) => token.id),
      finishReason,
      stop,
    })),
  };
}

/** The only completion of a request. */
export async function complete(engine: Pick<Engine, "generate">, request: GenerateRequest): Promise<Completed> {
  const { choices } = await completeAll(engine, request);
  return choices[0] as Completed;
}
