import { integerOption, ReadMeError } from "@readme-moe/core";
import { Classifier, kernelInfo, kernelThreads } from "@readme-moe/engine";
import { precisionOf, wholeBlocks } from "@readme-moe/kernel";
import {
  type ChatTemplate,
  fillInMarks,
  findDraftHead,
  gatherExperts,
  type Model,
  modelName,
  poolingMode,
  type RouterConfig,
} from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { Command } from "commander";
import { describeExperts, expertLine, type ExpertDescription } from "../loras/describe-expert.ts";
import { loraFolders } from "../loras/find-adapters.ts";
import {
  type LoraArgument,
  loraOption,
  listOf,
  parseWhole,
  addOptions,
  engineFlag,
  jsonOption,
  type RuntimeFlags,
  runtimeOptions,
} from "../options.ts";
import { MODEL_ARGUMENT, type RunningModel, withModelFiles, withRunningModel } from "../models.ts";

interface InspectFlags extends RuntimeFlags {
  readonly ids?: readonly number[];
  readonly expert?: string;
  readonly lora?: readonly LoraArgument[];
  readonly template: boolean;
  readonly json: boolean;
}

interface Description {
  /** Sections and values, by name. */
  readonly parts: Readonly<Record<string, unknown>>;
  /** Loras; `undefined` when there are none. */
  readonly loraSet:
    | { readonly experts: readonly ExpertDescription[]; readonly router: RouterConfig | null }
    | undefined;
}

export function inspectCommand(signal: AbortSignal): Command {
  const tokenIds = listOf((part) => parseWhole(part, 0), "token ids separated by commas, such as 3,17,9");
  const command = new Command("inspect")
    .summary("show what a model is, and what it computes")
    .description(
      "Shows a model's name, chat template with the form of its tool calls, marks to fill gaps in code, config, sizes and " +
        "experts, low-rank ones included. With --ids, also the logits of the last position, and the router's logits and the expert of every position; " +
        "of an encoder the states of the first and the last position and their mean, or the scores.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--template", "print the whole chat template, and nothing else unless --json is given", false)
    .option("--ids <ids>", "token ids to run, such as 3,17,9", tokenIds);
  addOptions(command, engineFlag("expert"), loraOption(), ...runtimeOptions(), jsonOption());
  return command.action((path: string, flags: InspectFlags) => runInspect(path, flags, signal));
}

async function runInspect(path: string, flags: InspectFlags, signal: AbortSignal): Promise<void> {
  const { ids } = flags;
  const loras = await loraFolders(flags.lora, signal);
  const described = async (model: Model): Promise<Description> => {
    const { path: file, kind, ...others } = describe(model, flags);
    const draft_head = await describeHead(model);
    const text = await describeText(model, flags);
    const parts = { name: modelName(path), path: file, kind, ...text, draft_head, ...others };
    return { parts, loraSet: await describeLoras(model, loras) };
  };
  if (flags.template && !flags.json) return withModelFiles(path, signal, printTemplate, flags);
  if (ids === undefined) return print(await withModelFiles(path, signal, described, flags), flags.json);
  await withRunningModel(path, { ...flags, takesEncoders: true }, signal, async (running) => {
    const { parts, loraSet } = await described(running.model);
    print({ parts: { ...parts, ...(await computed(running, ids)) }, loraSet }, flags.json);
  });
}

/** Describes the chat template, and the marks to fill gaps with; none of a model without a usable tokenizer. */
async function describeText(model: Model, { template: isWhole }: InspectFlags): Promise<object> {
  const text = await model.loadText().catch((error: unknown) => {
    if (error instanceof ReadMeError) return undefined;
    throw error;
  });
  const template = text?.chatTemplate;
  const { family, prefix, suffix, middle } = (text && fillInMarks(text.tokenizer)) ?? {};
  const marks = [prefix, suffix, middle].flatMap((mark) => mark?.text ?? []);
  return {
    chat_template: template === undefined ? null : describeTemplate(template, isWhole),
    fill_in_middle: family === undefined ? null : { family, marks },
  };
}

/** Describes the head that drafts tokens, if the model has one. */
async function describeHead(model: Model): Promise<object | null> {
  const head = await findDraftHead(model);
  await head?.close();
  if (!head) return null;
  const { path, layers, tokenIds, config } = head;
  return { path, layers, vocabulary: tokenIds.length, intermediate: config.intermediateSize };
}

/** @param isWhole - whether to add the sources */
function describeTemplate(template: ChatTemplate, isWhole: boolean): object {
  const { sources, knowsTools, toolCallForm } = template;
  const [first_line = ""] = sources.default.trimStart().split("\n", 1);
  return {
    characters: sources.default.length,
    first_line,
    takes_tools: knowsTools,
    tool_calls: toolCallForm ?? null,
    ...(isWhole && { source: sources.default, tool_use_source: sources.toolUse ?? null }),
  };
}

/** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` without a template */
async function printTemplate(model: Model): Promise<void> {
  const template = (await model.loadText()).chatTemplate;
  if (template === undefined) throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template`);
  const { default: source, toolUse } = template.sources;
  console.log(source);
  if (toolUse !== undefined) console.log(`\n{# for chats with tools #}\n${toolUse}`);
}

async function computed({ runner, router }: RunningModel, ids: readonly number[]): Promise<object> {
  for (const id of ids) integerOption("--ids", id, 0, runner.model.config.vocabSize - 1);
  const [route] = await router.route([{ state: router.start(), tokenIds: ids }]);
  const experts = route?.experts ?? [];
  const kv = runner.openKv({ capacityTokens: wholeBlocks(ids.length) });
  try {
    const slot = kv.admit(ids.length);
    if (!slot) throw new RangeError(`Expected \`--ids\` to fit into the model's context, got ${ids.length} ids`);
    const isEncoder = runner.model.config.encoder !== undefined;
    const logitsOf = isEncoder ? Array.from(ids.keys()) : [ids.length - 1];
    const sequence = { slot, tokenIds: ids, experts, logitsOf, wantsFullLogits: true };
    const [result] = await runner.forward(kv, [sequence]);
    if (isEncoder) return encoded(runner.model, result?.fullLogits ?? new Float32Array());
    const logits = route?.logits ?? new Float32Array();
    return {
      logits: Array.from(result?.fullLogits ?? []),
      router_logits: router instanceof KernelRouter ? rows(logits, router.numExperts) : null,
      route: Array.from(experts),
    };
  } finally {
    kv.dispose();
  }
}

/** Describes what an encoder gives: the states of the first and the last token and their mean, or logits. */
async function encoded({ config, weights }: Model, states: Float32Array): Promise<object> {
  const all = rows(states, config.hiddenSize);
  const { classifier = [] } = weights.encoder ?? {};
  if (config.pooling?.kind === "labels") {
    const layers = await Classifier.open(classifier, config.rmsNormEpsilon);
    if (config.pooling.mode === undefined)
      return { scores: all.map((row) => Array.from(layers.logitsOf(Float32Array.from(row)))) };
    const mean = poolingMode(config.pooling) === "mean";
    return { scores: Array.from(layers.logitsOf(Float32Array.from(mean ? meanOf(all) : (all[0] ?? [])))) };
  }
  return { states: { first: all[0] ?? [], mean: meanOf(all), last: all.at(-1) ?? [] } };
}

function meanOf(all: readonly (readonly number[])[]): readonly number[] {
  return (all[0] ?? []).map((_, column) => all.reduce((sum, row) => sum + (row[column] ?? 0), 0) / all.length);
}

function describe(model: Model, { precision, threads }: InspectFlags): Readonly<Record<string, unknown>> {
  const { router } = model;
  const { layers, ...config } = model.config;
  return {
    path: model.path,
    kind: model.kind,
    config: {
      ...config,
      angleSets: uniform(layers.map(({ angleSet }) => angleSet ?? null)),
      slidingWindows: uniform(layers.map(({ slidingWindow }) => slidingWindow)) ?? null,
      isMixture: uniform(layers.map(({ isMixture }) => isMixture)),
    },
    parameters: parameterCounts(model),
    experts: describeFfnExperts(model),
    router: router?.config ?? null,
    sampling_defaults: model.samplingDefaults(),
    precision: precisionOf(model, precision),
    kernel: kernelInfo({}, kernelThreads(threads)),
  };
}

function describeFfnExperts({ experts, config: { mixture } }: Model): object {
  if (mixture) {
    const { numExperts, expertsPerToken, expertSize, normalizesWeights } = mixture;
    return {
      count: numExperts,
      per_token: expertsPerToken,
      names: experts.names,
      expert_size: expertSize,
      normalizes_weights: normalizesWeights,
    };
  }
  return {
    count: experts.names.length,
    names: experts.names,
    expert_size: uniform(experts.expertSizes),
    shared_size: uniform(experts.sharedSizes),
  };
}

/** Describes the loras of a model and of `--lora`, if there are any. */
async function describeLoras(
  model: Model,
  loras: Readonly<Record<string, string>> = {},
): Promise<Description["loraSet"]> {
  const set = await gatherExperts(model, loras);
  try {
    if (set.experts.length === 0) return undefined;
    return { experts: await describeExperts(set.experts, model), router: set.router?.config ?? null };
  } finally {
    await set.close();
  }
}

/**
 * Counts the weights of a model and its parts. A token passes the active ones: backbone, router and its experts. Dense
 * layers of a mixture belong to the backbone.
 */
function parameterCounts({ weights, router, config }: Model): Readonly<Record<string, number>> {
  const { layers, embedding, head } = weights;
  const chosen = layers.map(({ experts: own, mixture }) => mixture?.experts ?? (config.mixture ? [] : own));
  const experts = chosen.reduce((sum, own) => sum + countElements(own), 0);
  const perExpert = chosen.reduce((sum, own) => sum + countElements(own[0]), 0);
  const backbone = countElements(weights) - experts - (head === embedding ? countElements(head) : 0);
  const routerCount = router ? countElements({ ...router, config: undefined }) : 0;
  return {
    total: backbone + experts + routerCount,
    active: backbone + (config.mixture?.expertsPerToken ?? 1) * perExpert + routerCount,
    backbone,
    per_expert: perExpert,
    router: routerCount,
  };
}

/** Counts the elements of all tensors in a tree of references. */
function countElements(refs: unknown): number {
  if (typeof refs !== "object" || refs === null) return 0;
  if ("store" in refs && "shape" in refs && Array.isArray(refs.shape)) {
    return refs.shape.reduce((product: number, size: number) => product * size, 1);
  }
  return Object.values(refs).reduce((sum: number, inner) => sum + countElements(inner), 0);
}

/** Returns one value if all layers have the same, else the list. */
function uniform<Item>(values: readonly Item[]): Item | readonly Item[] | undefined {
  return values.every((value) => value === values[0]) ? values[0] : values;
}

function rows(values: Float32Array, width: number): readonly (readonly number[])[] {
  return Array.from({ length: values.length / width }, (_, row) =>
    Array.from(values.subarray(row * width, (row + 1) * width)),
  );
}

function print({ parts, loraSet }: Description, json: boolean): void {
  if (json) return console.log(JSON.stringify({ ...parts, ...(loraSet && { low_rank: loraSet }) }));
  for (const [name, value] of Object.entries(parts)) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) console.log(`${name}: ${short(value)}`);
    else {
      console.log(`${name}:`);
      for (const [key, inner] of Object.entries(value)) console.log(`  ${key}: ${short(inner)}`);
    }
  }
  if (loraSet === undefined) return;
  console.log("low_rank:");
  for (const expert of loraSet.experts) console.log(`  ${expertLine(expert)}`);
  console.log(`  router: ${short(loraSet.router)}`);
}

function short(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text === undefined ? "none" : text.length > 400 ? `${text.slice(0, 400)}…` : text;
}
