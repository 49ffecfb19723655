import { integerOption, type PromptInfo } from "@readme-moe/core";
import { gatherExperts, openPromptModel } from "@readme-moe/model";
import { ExpertNames } from "../low-rank/expert-names.ts";
import { LowRankRouters, modelRouters } from "../low-rank/routers.ts";
import type { ResolvedReaderOptions } from "../reader-options.ts";
import { promptInfo } from "./prompt-info.ts";
import { TimeSlices, type ReadingEngine } from "./requests.ts";
import { promptVersionOf } from "./versions.ts";

/** An opened reader of prompts. */
export interface OpenedReader extends ReadingEngine {
  readonly info: PromptInfo;
  close(): Promise<void>;
}

/** Opens the parts of an engine that need no weights. If one fails, closes the others. */
export async function openReader(path: string, options: ResolvedReaderOptions): Promise<OpenedReader> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed()) await closer();
  };
  try {
    const model = await openPromptModel(path);
    closers.push(() => model.close());
    const { config, experts } = model;
    const most = config.contextTokens;
    const contextTokens = integerOption("contextTokens", options.contextTokens ?? most, 1, most);
    const text = await model.loadText();
    const { threads, cacheFolder, kernel } = options;
    const routerOptions = { threads, cacheFolder, kernel };
    const isDense = experts.names.length === 1;
    const set = isDense ? await gatherExperts(model, options.loras) : undefined;
    closers.push(async () => set?.close());
    const names = new ExpertNames();
    for (const { name } of set?.experts ?? []) names.setUsable(names.reserve(name), true);
    const lowRankRouters = set && new LowRankRouters(model, { experts: { names }, set }, options.expert, routerOptions);
    const routers = lowRankRouters ?? modelRouters(model, options.expert, routerOptions);
    closers.push(() => routers.close());
    await routers.routerFor(undefined);
    const info: PromptInfo = {
      ...promptInfo(model, text),
      contextTokens,
      experts: names.size > 1 ? names.list : experts.names,
      expertKind: isDense ? "low-rank" : "ffn",
      hasRouter: lowRankRouters?.hasRouter ?? model.router !== undefined,
      promptVersion: await promptVersionOf(model, set, options),
    };
    return {
      model,
      text,
      options,
      sizes: { contextTokens },
      slices: new TimeSlices(),
      routerFor: (choice) => routers.routerFor(choice),
      info,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
