// A reader of prompts: the parts of an engine that need no weights.

import { integerOption, type PromptInfo } from "@readme-moe/core";
import { gatherExperts, longestSequence, openPromptModel } from "@readme-moe/model";
import { ExpertNames, Routers } from "../experts/routers.ts";
import type { ResolvedReaderOptions } from "../engine-options.ts";
import { promptInfo, promptVersionOf } from "./open-engine.ts";
import type { ReadingEngine } from "./requests.ts";

export interface OpenedReader extends Omit<ReadingEngine, "slices"> {
  readonly info: PromptInfo;
  close(): Promise<void>;
}

/** Opens all parts. If one fails, closes the others. */
export async function openReader(path: string, options: ResolvedReaderOptions): Promise<OpenedReader> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed()) await closer();
  };
  try {
    const model = await openPromptModel(path);
    closers.push(() => model.close());
    const { config, experts } = model;
    const most = longestSequence(config);
    const contextTokens = integerOption("contextTokens", options.contextTokens ?? most, 1, most);
    const text = await model.loadText();
    const { threads, cacheFolder, kernel } = options;
    const routerOptions = { threads, cacheFolder, kernel };
    const isDense = experts.names.length === 1;
    const set = isDense ? await gatherExperts(model, options.loras) : undefined;
    closers.push(async () => set?.close());
    const names = new ExpertNames();
    for (const { name } of set?.experts ?? []) names.setUsable(names.reserve(name), true);
    const routers = new Routers(model, set && { names, set }, options.expert, routerOptions);
    closers.push(() => routers.close());
    await routers.routerFor(undefined);
    const info: PromptInfo = {
      ...promptInfo(model, text),
      contextTokens,
      experts: names.size > 1 ? names.list : experts.names,
      expertKind: isDense ? "lora" : "ffn",
      hasRouter: routers.hasRouter,
      samplingDefaults: options.samplingDefaults === "model" ? model.samplingDefaults() : {},
      promptVersion: await promptVersionOf(model, set, options),
    };
    return {
      model,
      text,
      options,
      sizes: { contextTokens },
      routerFor: (choice) => routers.routerFor(choice),
      info,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
