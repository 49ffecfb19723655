import type { KernelInfo, PreGatingRouter, Residency } from "@readme-moe/core";
import { type Model, type ModelText, openModel, resolveCacheFolder } from "@readme-moe/model";
import { openRouter, type ExpertChoice } from "@readme-moe/router";
import { EngineCore } from "../engine-core.ts";
import { kvSizes, type KvSizes, type ResolvedEngineOptions } from "../engine-options.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { KvAdmission } from "../kv-admission.ts";
import { openRunner } from "./open-runner.ts";
import { kvPrecisionOf } from "../kernel-runner.ts";
import { PrefixCache } from "../prefix-cache.ts";
import type { LoadProgress } from "../protocol.ts";
import { cachedCost, measureCost } from "../measure-cost.ts";
import { schedulerOf } from "../scheduling-options.ts";
import { Turns } from "./turns.ts";

export interface OpenedEngine {
  readonly model: Model;
  readonly text: ModelText;
  readonly options: ResolvedEngineOptions;
  readonly sizes: KvSizes;
  readonly core: EngineCore;
  /** Long work that goes on between steps. */
  readonly turns: Turns;
  readonly residency: Residency;
  readonly kernel: KernelInfo;
  /** Why packed weights are not cached, where they are not. */
  readonly cacheFailure: string | undefined;
  /** The router of a choice; the same object for the same choice, so that its sequences are routed together. */
  routerFor(expert: ExpertChoice | undefined): Promise<PreGatingRouter>;
  close(): Promise<void>;
}

/** Opens everything that runs a model; closes what was opened when a part fails. */
export async function openParts(
  path: string,
  options: ResolvedEngineOptions,
  output: EngineOutput,
  onProgress: (progress: LoadProgress) => void,
): Promise<OpenedEngine> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed()) await closer();
  };
  try {
    onProgress({ stage: "opening", doneBytes: 0, ofBytes: 0 });
    const model = await openModel(path);
    closers.push(() => model.close());
    const scheduler = await schedulerOf(options);
    const text = await model.loadText();
    const sizes = kvSizes(options, model.config, kvPrecisionOf(options.precision, options.kvPrecision));
    const { threads, cacheFolder, kernel: kind } = options;
    let cacheFailure: string | undefined;
    // Router and decoder fail for one and the same reason.
    const onCacheFailure = (reason: string): void => void (cacheFailure ??= reason);
    const routers = new Map<ExpertChoice | undefined, Promise<PreGatingRouter>>();
    closers.push(() => disposeAll(routers.values()));
    const routerFor = (choice: ExpertChoice | undefined): Promise<PreGatingRouter> => {
      const expert = choice ?? options.expert;
      const router =
        routers.get(expert) ?? openRouter(model, expert, { threads, cacheFolder, kernel: kind, onCacheFailure });
      routers.set(expert, router);
      // One that could not be opened may be tried again.
      router.catch(() => routers.delete(expert));
      return router;
    };
    // What a request gets that names no expert has to be there; the others are opened when they are asked for.
    await routerFor(undefined);
    const runner = await openRunner(model, options, output, { onProgress, onCacheFailure });
    closers.push(() => runner.dispose());
    const { residency, info: kernel } = runner;
    const { capacityTokens, prefixCacheBytes } = sizes;
    const kv = runner.openKv({ capacityTokens, prefixBytes: prefixCacheBytes });
    closers.push(async () => kv.dispose());
    const prefixes = new PrefixCache(kv, { chunkTokens: options.chunkTokens, maxBytes: prefixCacheBytes });
    const limits = { maxNumSeqs: options.maxNumSeqs, contextTokens: sizes.contextTokens };
    const measured = {
      fingerprint: `${await model.fingerprint(resolveCacheFolder(cacheFolder))} ${options.precision} ${kernel.instructions}`,
      threads: kernel.threads,
      isStreamed: options.expertCacheBytes !== undefined,
    };
    const measure = () => measureCost(runner, { residency, now });
    const cost = await cachedCost(measured, cacheFolder, () => residency.streamed?.rehearse(measure) ?? measure());
    const core = new EngineCore({
      runner,
      tokenizer: text.tokenizer,
      admission: new KvAdmission(kv, prefixes, limits),
      scheduler,
      cost,
      residency,
      limits: options,
      contextTokens: sizes.contextTokens,
      output,
      now,
    });
    return { model, text, options, sizes, core, turns: new Turns(), residency, kernel, cacheFailure, routerFor, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function now(): number {
  return performance.now();
}

async function disposeAll(routers: Iterable<Promise<PreGatingRouter>>): Promise<void> {
  for (const opening of routers) {
    const router = await opening.catch(() => undefined);
    await router?.dispose();
  }
}
