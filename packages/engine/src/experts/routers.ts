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

/** Routers that requests choose from. */
interface Routers {
  /**
   * Opens the router of a choice.
   * @throws {RangeError} if there is no such expert; {ReadMeError} if the model has no router, or it cannot be opened
   */
  routerFor(choice: ExpertChoice | undefined): Promise<PreGatingRouter>;
  close(): Promise<void>;
}

/** Opens each router once. A later request tries again to open a router that failed. */
class OpenedRouters<Key> {
  readonly #routers = new Map<Key, Promise<PreGatingRouter>>();

  open(key: Key, open: () => Promise<PreGatingRouter>): Promise<PreGatingRouter> {
    const known = this.#routers.get(key);
    if (known) return known;
    const router = open();
    this.#routers.set(key, router);
    // Once, since the next request may try again before others of this failure are told.
    router.catch(() => this.#routers.delete(key));
    return router;
  }

  async close(): Promise<void> {
    for (const opening of this.#routers.values()) {
      const router = await opening.catch(() => undefined);
      await router?.dispose();
    }
  }
}

/** Routers of a model with experts in its FFNs. */
export function modelRouters(model: PromptModel, fallback: ExpertChoice | undefined, options: RouterOptions): Routers {
  const opened = new OpenedRouters<ExpertChoice | undefined>();
  return {
    routerFor: (choice = fallback) => opened.open(choice, () => openRouter(model, choice, options)),
    close: () => opened.close(),
  };
}

/** Routers of a dense model, whose experts are added and removed while it runs. */
export class LoraRouters implements Routers {
  readonly #model: Pick<PromptModel, "experts">;
  readonly #experts: { readonly names: ExpertNames };
  readonly #set: LoraSet;
  readonly #fallback: ExpertChoice | undefined;
  readonly #options: RouterOptions;
  readonly #opened = new OpenedRouters<ExpertChoice>();
  readonly #fixed = new Map<number, PreGatingRouter>();
  /** Expert of each output of the set's router; removed ones become 0, the model without a change. */
  readonly #targets: Uint16Array;

  constructor(
    model: Pick<PromptModel, "experts">,
    { experts, set }: { readonly experts: { readonly names: ExpertNames }; readonly set: LoraSet },
    fallback: ExpertChoice | undefined,
    options: RouterOptions,
  ) {
    this.#model = model;
    this.#experts = experts;
    this.#set = set;
    this.#fallback = fallback;
    this.#options = options;
    this.#targets = Uint16Array.from({ length: set.router?.config.numExperts ?? 1 }, (_, output) => output);
  }

  get hasRouter(): boolean {
    return this.#set.router !== undefined;
  }

  async routerFor(choice: ExpertChoice | undefined = this.#fallback): Promise<PreGatingRouter> {
    const { router } = this.#set;
    if (choice === "router" || (choice === undefined && router)) {
      const { path } = this.#set;
      const routed = {
        path,
        router,
        experts: this.#model.experts,
        fingerprint: (folder: string) => this.#set.fingerprint(folder),
      };
      return this.#opened.open("router", async () =>
        this.#retargeted(await openRouter(routed, "router", this.#options)),
      );
    }
    const index = choice === undefined || this.#isPlain(choice) ? 0 : this.#experts.names.indexOf(choice);
    const fixed = this.#fixed.get(index) ?? fixedRouter(MAX_LORAS + 1, index);
    this.#fixed.set(index, fixed);
    return fixed;
  }

  /** Whether a choice is the model itself: "none", or its only expert's name while it has no others. */
  #isPlain(choice: ExpertChoice): boolean {
    const { names } = this.#experts;
    return choice === NO_EXPERT || (names.size === 1 && choice === this.#model.experts.names[0]);
  }

  /** Makes no later choice of an expert. @returns its router, which running sequences may have */
  forget(index: number): PreGatingRouter | undefined {
    const fixed = this.#fixed.get(index);
    this.#fixed.delete(index);
    for (const [output, target] of this.#targets.entries()) if (target === index) this.#targets[output] = 0;
    return fixed;
  }

  close(): Promise<void> {
    return this.#opened.close();
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
