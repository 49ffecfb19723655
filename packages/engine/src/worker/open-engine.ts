import { createHash } from "node:crypto";
import { join } from "node:path";
import {
  type EngineInfo,
  type EvictionPolicy,
  type LoadProgress,
  predictStepMs,
  type PreGatingRouter,
  type PromptInfo,
  ReadMeError,
  type Residency,
} from "@readme-moe/core";
import {
  BITS_VERSION,
  changedPackedFile,
  freeMemoryBytes,
  kernelInfo,
  type KernelKv,
  kernelThreads,
  precisionOf,
} from "@readme-moe/kernel";
import {
  denseModules,
  fillInMarks,
  lorasFingerprint,
  forContext,
  type LoraSet,
  type Model,
  type ModelConfig,
  type ModelText,
  openModel,
  type DraftHead,
  findDraftHead,
  promptFingerprint,
  type PromptModel,
  resolveCacheFolder,
} from "@readme-moe/model";
import type { ExpertChoice } from "@readme-moe/router";
import { Classifier, MaskedHead } from "../classifier.ts";
import { EngineCore } from "../engine-core.ts";
import { type ResolvedEngineOptions, schedulerOf } from "../engine-options.ts";
import type { EngineOutput } from "../engine-parts.ts";
import { importFunction } from "../function-module.ts";
import { KeptPrompts } from "../kept-prompts.ts";
import { addExpert, openExperts, removeExpert } from "../experts/loras.ts";
import { Routers } from "../experts/routers.ts";
import { KernelRunner, type KernelRunnerOptions } from "../kernel-runner.ts";
import { KvAdmission } from "../kv-admission.ts";
import { cachedCost, measureCost } from "../measure-cost.ts";
import type { MemoryPlan } from "../memory-plan.ts";
import {
  optionsFor,
  planModelMemory,
  type SizedOptions,
  stateSlots,
  totalBytes,
  weightSizes,
  kvPrecisionOf,
} from "../memory-sizes.ts";
import { PrefixCache } from "../prefix-cache.ts";
import { SavedPrefixes } from "../saved-prefixes.ts";
import { SavedPrompts } from "../saved-prompts.ts";
import { EngineDrafter } from "../speculation/engine-drafter.ts";
import { Speculation, type SpeculationParts } from "../speculation/speculation.ts";
import { HeadDrafter } from "../speculation/head-drafter.ts";
import { headKvTokens, type HeadRunnerOptions, headSizes } from "../speculation/head-runner.ts";

/** Speed of a common disk: the system may have dropped mapped weights from memory. */
const DISK_BYTES_PER_MS = 1e6;
const FILE_CHECK_MS = 1000;

export interface OpenedEngine {
  readonly model: Model;
  readonly text: ModelText;
  readonly options: ResolvedEngineOptions;
  readonly sizes: MemoryPlan;
  readonly core: EngineCore;
  readonly keptPrompts: KeptPrompts;
  /** Beginnings of prompts on disk; `undefined` if none are kept there. */
  readonly savedPrefixes: SavedPrefixes | undefined;
  readonly residency: Residency;
  /** The layers that fill masks. They are large, and read when they are first used. */
  readonly maskedHead: MaskedHead;
  readonly info: EngineInfo;
  /** Reason why packed weights could not be cached. */
  readonly cacheFailure: string | undefined;
  /** Predicted time of a step of as many tokens as one may have, which reads all weights from the disk. */
  readonly longestStepMs: number;
  /**
   * Opens the router of a choice. Returns the same object for the same choice, so that its sequences are routed
   * together.
   */
  routerFor(expert: ExpertChoice | undefined): Promise<PreGatingRouter>;
  /** See `Engine.addExpert`. @returns the names of all experts */
  addExpert(name: string, path: string): Promise<readonly string[]>;
  /** See `Engine.removeExpert`. @returns the names of all experts */
  removeExpert(name: string): Promise<readonly string[]>;
  close(): Promise<void>;
}

/** Opens all parts of an engine. If one fails, closes the others. */
export async function openEngine(
  path: string,
  given: ResolvedEngineOptions,
  output: EngineOutput,
  onProgress: (progress: LoadProgress) => void,
): Promise<OpenedEngine> {
  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).toReversed()) await closer();
  };
  try {
    const { begin, report, onHashed } = stageReports(onProgress);
    begin("opening");
    const opened = await openModel(path);
    closers.push(() => opened.close());
    const precision = precisionOf(opened, given.precision);
    const weights = weightSizes(opened, precision);
    const options = optionsFor(opened.config, { ...given, precision }, weights.experts);
    const scheduler = await schedulerOf(options);
    checkStreaming(opened, options);
    const head = options.speculation ? await findDraftHead(opened, options.draftHead) : undefined;
    closers.push(async () => head?.close());
    const draftBytes = head && headSizes(head, precision, kvPrecisionOf(precision, options.kvPrecision));
    const sizes = planModelMemory(opened, options, { freeBytes: plannableBytes(options), draftBytes, weights });
    const model = forContext(opened, sizes.contextTokens);
    const { threads, cacheFolder, kernel: kind } = options;
    // Large files are hashed in a thread, meanwhile. Whoever waits for the hash takes its failure.
    const fingerprint = model.fingerprint(resolveCacheFolder(cacheFolder), onHashed);
    fingerprint.catch(() => undefined);
    begin("tokenizer");
    const text = await model.loadText();
    // Weights would come on top of what the parsed file left. Only a process of the engine's own exposes the collector.
    globalThis.gc?.();
    let cacheFailure: string | undefined;
    // The router and the decoder fail for the same reason.
    const onCacheFailure = (reason: string): void => void (cacheFailure ??= reason);
    const runner = await openRunner(model, options, output, { onProgress: report, onCacheFailure });
    closers.push(() => runner.dispose());
    const { loras } = runner;
    const set = await openExperts(runner, model, options.loras, (event) => output.event("expert:added", event));
    closers.push(() => set.close());
    const routerOptions = { threads, cacheFolder, kernel: kind, onCacheFailure };
    const named = loras && { names: loras.names, set };
    const routers = new Routers(model, named, options.expert, routerOptions);
    closers.push(() => routers.close());
    // The default router is opened now, routers of named experts when a request needs them.
    await routers.routerFor(undefined);
    const { residency, info: kernel } = runner;
    const { capacityTokens, contextTokens, prefixCacheBytes, ...memory } = sizes;
    const kv = openKv(runner, sizes, options.maxNumSeqs);
    closers.push(async () => kv.dispose());
    const prefixes = new PrefixCache(kv, { chunkTokens: options.chunkTokens, maxBytes: prefixCacheBytes });
    const { savedPromptsFolder, savedPromptsBytes } = options;
    const saved =
      savedPromptsFolder === undefined ? undefined : new SavedPrompts(savedPromptsFolder, savedPromptsBytes);
    const keptPrompts = new KeptPrompts({ runner, kv, prefixes, saved });
    const files = prefixFiles(options);
    const onSaveFailed = (reason: string): void => output.event("prefix:save-failed", { reason });
    const disk = { scope: options.prefixDiskScope, onSaveFailed, now };
    const savedPrefixes = files && new SavedPrefixes({ ...disk, files, runner, kv, prefixes });
    closers.push(async () => savedPrefixes?.close());
    const measured = {
      fingerprint: `${await fingerprint} ${precision} ${kernel.instructions}`,
      threads: kernel.threads,
      isStreamed: options.expertCacheBytes !== undefined,
    };
    const measure = () => {
      begin("measuring");
      return measureCost(runner, { residency, now });
    };
    const cost = await cachedCost(measured, cacheFolder, () => residency.streamed?.rehearse(measure) ?? measure());
    const { maxNumSeqs, maxNumBatchedTokens } = options;
    const onRouted: SpeculationParts["onRouted"] = ({ id: sequenceId }, position, experts) =>
      output.event("router:routed", { sequenceId, position, experts, durationMs: 0 });
    const heads = {
      kernel: kind,
      threads: kernel.threads,
      cacheFolder: resolveCacheFolder(cacheFolder),
      precision,
      now,
    };
    const headDrafter = head && (await openHead(runner, head, { ...heads, capacityTokens, onCacheFailure }));
    closers.push(async () => headDrafter?.dispose());
    const drafter = new EngineDrafter(headDrafter);
    const speculated = { drafter, kv, residency, maxNumBatchedTokens, contextTokens, onRouted };
    const { encoder, dense = [] } = model.weights;
    const layers = [...(encoder?.classifier ?? []), ...dense];
    const core = new EngineCore({
      classifier:
        layers.length > 0 ? await Classifier.open(layers, model.config.rmsNormEpsilon, dense.length === 0) : undefined,
      runner,
      tokenizer: text.tokenizer,
      admission: new KvAdmission(kv, prefixes, { maxNumSeqs, contextTokens }),
      saved: savedPrefixes,
      // A sequence that ends after its prompt has no tokens to draft.
      speculation: options.speculation && !model.config.pooling ? new Speculation(speculated) : undefined,
      scheduler,
      cost,
      residency,
      limits: { ...options, chunkTokens: options.promptTokens },
      contextTokens,
      output,
      now,
    });
    const promptVersion = await promptVersionOf(opened, loras && set, options);
    const weightBytes = totalBytes(weights);
    const info: EngineInfo = {
      ...promptInfo(model, text),
      mask: maskOf(model, text),
      precision,
      contextTokens,
      experts: runner.expertNames,
      expertKind: loras ? "lora" : "ffn",
      draftHead: head?.path,
      hasRouter: routers.hasRouter,
      samplingDefaults: options.samplingDefaults === "model" ? model.samplingDefaults() : {},
      maxNumSeqs: options.maxNumSeqs,
      kvCapacityTokens: capacityTokens,
      weightBytes,
      memory: {
        ...memory,
        prefixCacheBytes,
        prefixDiskBytes: savedPrefixes && options.prefixDiskBytes,
        kvPrecision: runner.kvPrecision,
      },
      kernel,
      promptVersion,
      modelVersion: await modelVersionOf(promptVersion, runner, set, { ...options, contextTokens }),
    };
    const longest = { tokens: maxNumBatchedTokens, distinctExperts: info.experts.length, cachedTokens: capacityTokens };
    const changing = loras && { loras, routers, core, output };
    return {
      model,
      text,
      options,
      sizes,
      core,
      keptPrompts,
      savedPrefixes,
      residency,
      maskedHead: new MaskedHead(model),
      info,
      cacheFailure,
      longestStepMs: predictStepMs(cost, { ...longest, missingBytes: 0 }) + weightBytes / DISK_BYTES_PER_MS,
      close,
      routerFor: (choice) => routers.routerFor(choice),
      addExpert: (name, folder) => addExpert(model, changing, name, folder).then(() => runner.expertNames),
      removeExpert: (name) => removeExpert(model, changing, name).then(() => runner.expertNames),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** @throws {TypeError} for a dense model under a budget of experts, unless loras are there or may be added */
function checkStreaming(
  { path, config, experts, loraSet }: Model,
  { expertCacheBytes, loras }: Pick<ResolvedEngineOptions, "expertCacheBytes" | "loras">,
): void {
  if (expertCacheBytes === undefined || config.mixture || experts.names.length > 1 || loraSet || loras) return;
  throw new TypeError(
    `Expected \`expertCacheBytes\` (--expert-cache) for a model with experts or with \`loras\`; ${path} is dense, ` +
      "and all its weights stay in memory",
  );
}

/** Opens what drafts with a head. @param options - with the engine's number of positions */
async function openHead(
  runner: KernelRunner,
  head: DraftHead,
  { capacityTokens, ...options }: Omit<HeadRunnerOptions, "kvPrecision">,
): Promise<HeadDrafter> {
  const { kvPrecision, model } = runner;
  const room = headKvTokens(head, kvPrecision, capacityTokens);
  const opened = await runner.openHead(head, { ...options, kvPrecision, capacityTokens: room });
  return new HeadDrafter(opened, model.config.eosTokenIds);
}

/** @throws {RangeError} if the system does not give the memory */
function openKv(runner: KernelRunner, sizes: MemoryPlan, maxNumSeqs: number): KernelKv {
  const { capacityTokens, kvCacheBytes, prefixCacheBytes: prefixBytes } = sizes;
  try {
    return runner.openKv({ capacityTokens, prefixBytes, ...stateSlots(runner.model.config, maxNumSeqs) });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const message =
      "Expected `kvCacheBytes` (--kv-cache) and `prefixCacheBytes` (--prefix-cache) to be what the system can give, " +
      `got \`${kvCacheBytes}\` and \`${prefixBytes}\`: ${error.message}`;
    throw new RangeError(message, { cause: error });
  }
}

/** Opens the folder of beginnings of prompts, which all engines of the cache folder share. */
function prefixFiles({ cacheFolder, prefixDiskBytes }: ResolvedEngineOptions): SavedPrompts | undefined {
  if (prefixDiskBytes === 0) return undefined;
  const folder = join(resolveCacheFolder(cacheFolder), "prefixes");
  return new SavedPrompts(folder, prefixDiskBytes, { diskShare: 1 / 4, slackBytes: prefixDiskBytes / 16 });
}

/** Address space of WebAssembly. */
const WASM_BYTES = 2 ** 32;

/** Returns the memory that an engine may plan with. */
function plannableBytes({ kernel, threads }: ResolvedEngineOptions): number {
  const { kind } = kernelInfo({ kernel }, kernelThreads(threads));
  return Math.min(freeMemoryBytes(), kind === "wasm" ? WASM_BYTES : Infinity);
}

/** Reports of one opening. The hash of a large file is reported while nothing else is. */
function stageReports(onProgress: (progress: LoadProgress) => void): {
  readonly begin: (stage: LoadProgress["stage"]) => void;
  readonly report: (progress: LoadProgress) => void;
  readonly onHashed: (doneBytes: number, ofBytes: number) => void;
} {
  let isPacking = false;
  const report = (progress: LoadProgress): void => {
    isPacking = progress.stage === "building" && progress.doneBytes < progress.ofBytes;
    onProgress(progress);
  };
  return {
    report,
    begin: (stage) => report({ stage, doneBytes: 0, ofBytes: 0 }),
    onHashed(doneBytes, ofBytes) {
      if (!isPacking) onProgress({ stage: "checking", doneBytes, ofBytes });
    },
  };
}

/** Opens a model with all experts in memory, or with as many as `expertCacheBytes` has room for. */
async function openRunner(
  model: Model,
  options: SizedOptions,
  output: EngineOutput,
  hooks: Pick<KernelRunnerOptions, "onProgress" | "onCacheFailure">,
): Promise<KernelRunner> {
  const { precision, threads, cacheFolder, expertCacheBytes, expertCachePolicy, kernel, kvPrecision } = options;
  const policy =
    typeof expertCachePolicy === "string" ? expertCachePolicy : await importFunction<EvictionPolicy>(expertCachePolicy);
  const runner = await KernelRunner.open(model, {
    ...hooks,
    precision,
    threads,
    cacheFolder,
    kernel,
    kvPrecision,
    expertCacheBytes,
    maxRows: options.promptTokens,
    loraPrecision: options.loraPrecision,
    policy,
    onLoaded: (unit, bytes, durationMs) => output.event("expert:loaded", { ...unit, bytes, durationMs }),
    onEvicted: (unit, nextUse) => output.event("expert:evicted", { ...unit, nextUse }),
  });
  output.event("kernel:selected", runner.info);
  return runner;
}

function now(): number {
  return performance.now();
}

/** Looks every second for packed files that were cut or overwritten while they are in use. */
export function watchFiles(onChanged: (error: ReadMeError) => void): void {
  const check = async (): Promise<void> => {
    const path = await changedPackedFile();
    if (path === undefined) watchFiles(onChanged);
    else onChanged(new ReadMeError("ERR_FILE_CORRUPT", `${path}: was cut or overwritten while it was in use`));
  };
  setTimeout(() => void check(), FILE_CHECK_MS).unref();
}

// Facts about an opened model: what its prompts may be, and hashes that tell whether two processes, perhaps on two
// machines, serve the same version.

/** Options that the tokens and experts of a prompt depend on. */
type PromptOptions = Pick<ResolvedEngineOptions, "cacheFolder" | "controlTokensInMessages" | "expert">;

/**
 * Computes `EngineInfo.promptVersion`.
 * @param set - loras of a dense model
 */
export async function promptVersionOf(
  model: PromptModel,
  set: LoraSet | undefined,
  { cacheFolder, controlTokensInMessages, expert }: PromptOptions,
): Promise<string> {
  const folder = resolveCacheFolder(cacheFolder);
  const experts = set?.experts.map(({ name }) => name);
  return hashOf([
    await promptFingerprint(model, folder),
    { experts, router: await set?.fingerprint(folder), controlTokensInMessages, expert },
  ]);
}

/**
 * Computes `EngineInfo.modelVersion`. Loras that are added later are no part of it.
 * @param contextTokens - most tokens of a sequence: it ends answers, and chooses frequencies of some models
 */
async function modelVersionOf(
  promptVersion: string,
  { weightsVersion, kvPrecision }: KernelRunner,
  set: LoraSet,
  { contextTokens, cacheFolder, loraPrecision }: ResolvedEngineOptions & { readonly contextTokens: number },
): Promise<string> {
  const adapters = await lorasFingerprint(set, resolveCacheFolder(cacheFolder));
  const numbers = { bits: BITS_VERSION, weightsVersion, kvPrecision, loraPrecision };
  return hashOf([promptVersion, { ...numbers, contextTokens, adapters }]);
}

function hashOf(values: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(values)).digest("hex");
}

/** Facts about a model that its config and its texts say. */
type TextInfo = Omit<PromptInfo, "contextTokens" | "experts" | "expertKind" | "hasRouter" | "promptVersion">;

/** Describes the texts of a model. */
export function promptInfo(
  { path, config }: Pick<PromptModel, "path" | "config">,
  { tokenizer, chatTemplate }: ModelText,
): TextInfo {
  return {
    ...taskOf(config),
    path,
    modelType: config.modelType,
    vocabSize: config.vocabSize,
    hasChatTemplate: chatTemplate !== undefined,
    chatTemplateKnowsTools: chatTemplate?.knowsTools ?? false,
    toolCallForm: chatTemplate?.toolCallForm,
    reasoningForm: chatTemplate?.reasoningForm(tokenizer),
    ...fillInOf(config, tokenizer),
    eosTokenIds: config.eosTokenIds,
  };
}

/** Describes how a model fills gaps. A vocabulary may have marks that the model has no logits for. */
function fillInOf({ pooling, vocabSize }: ModelConfig, tokenizer: ModelText["tokenizer"]): Pick<PromptInfo, "fillIn"> {
  const marks = pooling ? undefined : fillInMarks(tokenizer);
  if (!marks || marks.endTokenIds.some((id) => id >= vocabSize)) return {};
  const { family, prefix, endTokenIds } = marks;
  return { fillIn: { family, prefix, endTokenIds } };
}

/** Describes the mask of a model that fills masks. Tokenizers of these families name it in two ways. */
function maskOf({ weights }: Model, { tokenizer }: ModelText): EngineInfo["mask"] {
  if (!weights.encoder?.masked.length) return undefined;
  const token = ["[MASK]", "<mask>"].find((text) => tokenizer.tokenId(text) !== undefined);
  const tokenId = token === undefined ? undefined : tokenizer.tokenId(token);
  return token === undefined || tokenId === undefined ? undefined : { token, tokenId };
}

/** Describes what a model was made for. */
function taskOf(config: ModelConfig): Pick<PromptInfo, "task" | "embedding" | "classification" | "numSegments"> {
  const { pooling, hiddenSize, encoder } = config;
  if (!pooling) return { task: "generate" };
  if (pooling.kind === "score") return { task: "rerank" };
  const numSegments = Math.max(1, encoder?.numSegments ?? 1);
  if (pooling.kind === "labels") {
    const { labels, mode, activation } = pooling;
    const isOfTokens = mode === undefined;
    const task = labels.length === 1 && !isOfTokens ? "rerank" : "classify";
    return { task, classification: { labels, isOfTokens, activation }, numSegments };
  }
  const { prompts, defaultPrompt, isNormalized } = pooling;
  const givesStates = encoder !== undefined;
  const dimensions = denseModules(config).at(-1)?.outSize ?? hiddenSize;
  return { task: "embed", embedding: { dimensions, isNormalized, prompts, defaultPrompt, givesStates }, numSegments };
}
