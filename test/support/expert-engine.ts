// A tiny dense model with low-rank experts, which reads texts and chats.

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  ReadMeError,
  type Engine,
  type EngineInfo,
  type GenerateRequest,
  type Generation,
  type Prompt,
  type RoutedPrompt,
} from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { writeTinyDense } from "./tiny-dense.ts";

/** Engine whose experts can be changed, and that can be killed and opened again. */
export interface ExpertEngine extends Engine {
  addExpert(name: string, path: string): Promise<void>;
  removeExpert(name: string): Promise<void>;
  restart(): Promise<void>;
  kill(): void;
}

const TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}";

/** @param folder - a new one */
export async function openExpertEngine(
  folder: string,
  loras: Readonly<Record<string, string>> = {},
  isolation: "thread" | "process" = "thread",
): Promise<ExpertEngine> {
  const path = join(folder, "base");
  await writeTinyDense(path, 5);
  await writeFile(join(path, "chat_template.jinja"), TEMPLATE);
  const engine = await ReadMeEngine.open(path, { isolation, threads: 1 });
  const standIn = new StandIn(engine, loras);
  for (const [name, adapter] of Object.entries(loras)) await standIn.addExpert(name, adapter);
  return standIn;
}

/** Stands for experts: each makes another token likely. */
class StandIn implements ExpertEngine {
  readonly #engine: ReadMeEngine;
  #experts: readonly string[] = ["none"];
  readonly #running = new Map<string, Set<Promise<unknown>>>();

  constructor(engine: ReadMeEngine, _loras: object) {
    this.#engine = engine;
  }

  get info(): EngineInfo {
    const own = { experts: this.#experts, expertKind: "low-rank" };
    return { ...this.#engine.info, ...own };
  }

  get events() {
    return this.#engine.events;
  }

  async addExpert(name: string, path: string): Promise<void> {
    const config = JSON.parse(await readFile(join(path, "adapter_config.json"), "utf8")) as { use_dora?: boolean };
    if (config.use_dora) {
      throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${join(path, "adapter_config.json")}: use_dora is not supported`);
    }
    await this.#engine.stats();
    this.#experts = [...this.#experts, name];
  }

  async removeExpert(name: string): Promise<void> {
    this.#experts = this.#experts.filter((one) => one !== name);
    for (const end of this.#running.get(name) ?? []) await end;
  }

  generate({ expert = "none", ...request }: GenerateRequest): Generation {
    const name = typeof expert === "number" ? this.#experts[expert] : expert;
    const index = this.#experts.indexOf(name ?? "");
    if (index < 0 || name === undefined) throw new RangeError(`Expected \`expert\` to be known`);
    const params = { ...request.params, logitBias: { [100 + name.length]: 30 * index } };
    const generation = this.#engine.generate({ ...request, params });
    const running = this.#running.get(name) ?? new Set();
    this.#running.set(name, running);
    const ends: (() => void)[] = [];
    running.add(new Promise<void>((resolve) => ends.push(resolve)));
    const end = (): void => ends[0]?.();
    const next = async (): ReturnType<Generation["next"]> => {
      const result = await generation.next().catch((error: unknown) => {
        end();
        throw error;
      });
      if (result.done) end();
      return result;
    };
    const back: Generation = {
      accepted: generation.accepted.then((one) => ({ ...one, experts: one.experts.map(() => index) })),
      next,
      async return() {
        end();
        return (await generation.return?.()) ?? { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => back,
    };
    back.accepted.catch(() => undefined);
    return back;
  }

  async route(prompt: Prompt, expert: string | number = "none"): Promise<RoutedPrompt> {
    const index = typeof expert === "number" ? expert : this.#experts.indexOf(expert);
    if (index < 0) throw new RangeError(`Expected \`expert\` to be known`);
    const routed = await this.#engine.route(prompt);
    return { ...routed, experts: routed.experts.map(() => index) };
  }

  async restart(): Promise<void> {
    await this.#engine.restart();
    this.#experts = ["none"];
  }

  kill(): void {
    this.#engine.kill();
  }

  tokenize: Engine["tokenize"] = (prompt, options) => this.#engine.tokenize(prompt, options);
  detokenize: Engine["detokenize"] = (ids) => this.#engine.detokenize(ids);
  applyTemplate: Engine["applyTemplate"] = (messages, template) => this.#engine.applyTemplate(messages, template);
  vocabulary: Engine["vocabulary"] = () => this.#engine.vocabulary();
  stats: Engine["stats"] = () => this.#engine.stats();
  whenFailed: Engine["whenFailed"] = () => this.#engine.whenFailed();
  dispose: Engine["dispose"] = () => this.#engine.dispose();
  [Symbol.asyncDispose] = (): Promise<void> => this.#engine.dispose();
}
