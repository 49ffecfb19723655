// Names of experts, and routers of an engine's requests: the model's own, or one expert for every token. The same
// choice gives the same object, so that its sequences are routed together.

import { expertIndex, type PreGatingRouter } from "@readme-moe/core";
import type { LoraSet, PromptModel } from "@readme-moe/model";
import { type ExpertChoice, fixedRouter, openRouter, type RouterOptions } from "@readme-moe/router";

/** Largest number of loras of an engine at once. */
export const MAX_LORAS = 1024;

/** Name of expert 0 of a dense model with loras: the model without a change. */
export const NO_EXPERT = "none";

interface Entry {
  readonly name: string;
  /** False while the expert is being added, and while the last sequences with it run. */
  isUsable: boolean;
}

/** Names of a dense model's experts by index. An expert keeps its index; the index of a removed one is used again. */
export class ExpertNames {
  readonly #entries: (Entry | undefined)[] = [{ name: NO_EXPERT, isUsable: true }];

  /** Names by index; empty where no expert can be used. */
  get list(): readonly string[] {
    return this.#entries.map((entry) => (entry?.isUsable === true ? entry.name : ""));
  }

  /** Number of places, those of experts that cannot be used included. */
  get size(): number {
    return this.#entries.length;
  }

  /** Finds an expert that can be used, by its name or index. @throws {RangeError} on an unknown one */
  indexOf(choice: string | number): number {
    return expertIndex(this.list, choice);
  }

  /**
   * Takes an index for a new expert, which cannot be used yet.
   * @throws {RangeError} if the name is taken, or there are too many experts
   */
  reserve(name: string): number {
    if (this.#entries.some((entry) => entry?.name === name)) {
      throw new RangeError(`Expected \`name\` to be a new expert's, got \`${name}\``);
    }
    const free = this.#entries.indexOf(undefined);
    const index = free < 0 ? this.#entries.length : free;
    if (index > MAX_LORAS) {
      throw new RangeError(`Expected at most ${MAX_LORAS} loras at once, got one more`);
    }
    this.#entries[index] = { name, isUsable: false };
    return index;
  }

  /** Sets whether later requests can use an expert. */
  setUsable(index: number, isUsable: boolean): void {
    const entry = this.#entries[index];
    if (entry) entry.isUsable = isUsable;
  }

  /** Frees the index of an expert. */
  free(index: number): void {
    this.#entries[index] = undefined;
    while (this.#entries.at(-1) === undefined) this.#entries.pop();
  }
}

/** Loras that requests can name, and the set whose router may choose among them. */
interface NamedLoras {
  readonly names: ExpertNames;
  readonly set: LoraSet;
}

/** Routers that an engine's requests choose from: one that chooses experts, or one expert for every token. */
export class Routers {
  readonly #model: PromptModel;
  readonly #loras: NamedLoras | undefined;
  readonly #fallback: ExpertChoice | undefined;
  readonly #options: RouterOptions;
  readonly #fixed = new Map<number, PreGatingRouter>();
  #choosing: Promise<PreGatingRouter> | undefined;
  /** Lora of each output of the set's router; removed ones become 0, the model without a change. */
  readonly #targets: Uint16Array;

  /** @param loras - of a dense model, which are added and removed while it runs */
  constructor(
    model: PromptModel,
    loras: NamedLoras | undefined,
    fallback: ExpertChoice | undefined,
    options: RouterOptions,
  ) {
    this.#model = model;
    this.#loras = loras;
    this.#fallback = fallback;
    this.#options = options;
    this.#targets = Uint16Array.from({ length: loras?.set.router?.config.numExperts ?? 0 }, (_, output) => output);
  }

  /** Whether a router chooses experts for requests that name none. */
  get hasRouter(): boolean {
    return (this.#loras?.set ?? this.#model).router !== undefined;
  }

  /**
   * Opens the router of a choice.
   * @throws {RangeError} if there is no such expert; {ReadMeError} if the model has no router, or it cannot be opened
   */
  async routerFor(choice: ExpertChoice | undefined = this.#fallback): Promise<PreGatingRouter> {
    const isPlain = this.#loras !== undefined && this.#isPlain(choice, this.#loras);
    if (!isPlain && (choice === undefined || choice === "router")) return this.#openChoosing(choice);
    const { names } = this.#model.experts;
    const index =
      isPlain || choice === undefined ? 0 : (this.#loras?.names.indexOf(choice) ?? expertIndex(names, choice));
    const fixed = this.#fixed.get(index) ?? fixedRouter(this.#loras ? MAX_LORAS + 1 : names.length, index);
    this.#fixed.set(index, fixed);
    return fixed;
  }

  /** Chooses a lora no more. @returns its router, which running sequences may have */
  forget(index: number): PreGatingRouter | undefined {
    const fixed = this.#fixed.get(index);
    this.#fixed.delete(index);
    for (const [output, target] of this.#targets.entries()) if (target === index) this.#targets[output] = 0;
    return fixed;
  }

  async close(): Promise<void> {
    const router = await this.#choosing?.catch(() => undefined);
    await router?.dispose();
  }

  /** Whether a choice is the model without a lora: "none", or its only expert's name while it has no others. */
  #isPlain(choice: ExpertChoice | undefined, { names }: NamedLoras): boolean {
    if (choice === undefined) return !this.hasRouter;
    return choice === NO_EXPERT || (names.size === 1 && choice === this.#model.experts.names[0]);
  }

  /** Opens the router that chooses experts, once. A later request tries again if that failed. */
  #openChoosing(choice: ExpertChoice | undefined): Promise<PreGatingRouter> {
    if (this.#choosing) return this.#choosing;
    const { experts } = this.#model;
    const set = this.#loras?.set;
    const source = set
      ? { path: set.path, router: set.router, experts, fingerprint: (folder: string) => set.fingerprint(folder) }
      : this.#model;
    const opened = openRouter(source, choice, this.#options).then((router) =>
      set ? this.#retargeted(router) : router,
    );
    this.#choosing = opened;
    // Once, since the next request may try again before others of this failure are told.
    opened.catch(() => (this.#choosing = undefined));
    return opened;
  }

  #retargeted(router: PreGatingRouter): PreGatingRouter {
    return {
      numExperts: router.numExperts,
      chunkTokens: router.chunkTokens,
      start: () => router.start(),
      route: async (inputs) => {
        const routes = await router.route(inputs);
        return routes.map((route) => ({
          ...route,
          experts: route.experts.map((output) => this.#targets[output] ?? 0),
        }));
      },
      rewind: router.rewind && ((state, numTokens) => router.rewind?.(state, numTokens)),
      release: (state) => router.release(state),
      dispose: () => router.dispose(),
    };
  }
}
