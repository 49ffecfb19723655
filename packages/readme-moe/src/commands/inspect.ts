import { kernelInfo, kernelThreads } from "@readme-moe/engine";
import { type KvSlot, wholeBlocks } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { Command } from "commander";
import { MODEL_ARGUMENT, modelPath } from "../model-path.ts";
import { withModel } from "../open.ts";
import { expertOption, jsonOption, runtimeOptions, tokenIdList, type RuntimeFlags } from "../options.ts";
import { parameterCounts } from "../parameters.ts";

interface InspectFlags extends RuntimeFlags {
  readonly ids?: readonly number[];
  readonly expert?: string;
  readonly json: boolean;
}

export function inspectCommand(signal: AbortSignal): Command {
  const command = new Command("inspect")
    .summary("what a model is, and what it computes")
    .description(
      "A model's config, sizes and experts. With token ids also the logits of the last position, and the router's\n" +
        "logits and the expert of every position.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--ids <ids>", "token ids to run, such as 3,17,9", tokenIdList)
    .addOption(expertOption());
  for (const option of [...runtimeOptions(), jsonOption()]) command.addOption(option);
  return command.action((path: string, flags: InspectFlags) => runInspect(path, flags, signal));
}

async function runInspect(path: string, flags: InspectFlags, signal: AbortSignal): Promise<void> {
  const { ids } = flags;
  if (ids === undefined) {
    const model = await openModel(await modelPath(path, signal, flags.cacheFolder));
    const description = await describe(model, flags);
    await model.close();
    return print(description, flags.json);
  }
  await withModel(path, flags, signal, async ({ model, runner, router }) => {
    const [route] = await router.route([{ state: router.start(), tokenIds: ids }]);
    const experts = route?.experts ?? [];
    const logitsOf = [ids.length - 1];
    const kv = runner.openKv({ capacityTokens: wholeBlocks(ids.length) });
    const slot = kv.admit(ids.length) as KvSlot;
    const [result] = await runner.forward(kv, [{ slot, tokenIds: ids, experts, logitsOf, wantsFullLogits: true }]);
    kv.dispose();
    const numExperts = model.experts.names.length;
    const routerLogits = router instanceof KernelRouter ? rows(route?.logits ?? new Float32Array(), numExperts) : null;
    print(
      {
        ...(await describe(model, flags)),
        logits: Array.from(result?.fullLogits ?? []),
        router_logits: routerLogits,
        route: Array.from(experts),
      },
      flags.json,
    );
  });
}

async function describe(
  model: Model,
  { precision, threads }: InspectFlags,
): Promise<Readonly<Record<string, unknown>>> {
  const { config, experts, router } = model;
  return {
    path: model.path,
    kind: model.kind,
    config: { ...config, slidingWindows: uniform(config.slidingWindows) ?? null },
    parameters: parameterCounts(model),
    experts: {
      count: experts.names.length,
      names: experts.names,
      expert_size: uniform(experts.expertSizes),
      shared_size: uniform(experts.sharedSizes),
    },
    router: router?.config ?? null,
    precision,
    kernel: kernelInfo({}, kernelThreads(threads)),
  };
}

/** One value where all layers agree, else the list. */
function uniform<Item>(values: readonly Item[]): Item | readonly Item[] | undefined {
  return values.every((value) => value === values[0]) ? values[0] : values;
}

function rows(values: Float32Array, width: number): readonly (readonly number[])[] {
  return Array.from({ length: values.length / width }, (_, row) =>
    Array.from(values.subarray(row * width, (row + 1) * width)),
  );
}

function print(description: Readonly<Record<string, unknown>>, json: boolean): void {
  if (json) return console.log(JSON.stringify(description));
  for (const [name, value] of Object.entries(description)) {
    const isPlain = typeof value !== "object" || value === null;
    console.log(isPlain || Array.isArray(value) ? `${name}: ${short(value)}` : `${name}:`);
    if (isPlain || Array.isArray(value)) continue;
    for (const [key, inner] of Object.entries(value)) console.log(`  ${key}: ${short(inner)}`);
  }
}

function short(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text === undefined ? "none" : text.length > 400 ? `${text.slice(0, 400)}…` : text;
}
