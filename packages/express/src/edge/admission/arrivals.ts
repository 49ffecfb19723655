// Bodies that are still arriving: they take memory before anything is known of them but their length and their sender.

import { LIMITS } from "../../limits.ts";
import { addLoad, limitsOfClient, NO_LOAD, overflowOf, subtractLoad, type Load, type Overflow } from "./load.ts";

/** A request whose body begins to arrive. */
export interface Arriving {
  /** Whose it is, for fair shares. @default nobody's in particular */
  readonly client?: string | undefined;
  /** The declared length of its body, or the longest that is read. */
  readonly bytes: number;
}

/** Why a body may not arrive now. */
export interface ArrivalRefusal extends Overflow {
  /** Whether the client has its share; else all clients together have all. */
  readonly isOfClient: boolean;
}

/** Counts bodies that arrive, of all clients and of each. */
export class Arrivals {
  readonly #limits: Load;
  readonly #clientLimits: Load;
  readonly #loads = new ClientLoads();

  constructor(limits: Load, maxClientShare: number = LIMITS.clientShare.value) {
    this.#limits = limits;
    this.#clientLimits = limitsOfClient(limits, maxClientShare);
  }

  get load(): Load {
    return this.#loads.all;
  }

  /** @returns gives its room back, once; or why there is none */
  begin({ client, bytes }: Arriving): (() => void) | ArrivalRefusal {
    const load: Load = { requests: 1, tokens: 0, bytes };
    const ofClient = client === undefined ? undefined : overflowOf(this.#loads.of(client), load, this.#clientLimits);
    if (ofClient) return { ...ofClient, isOfClient: true };
    const overflow = overflowOf(this.#loads.all, load, this.#limits);
    if (overflow) return { ...overflow, isOfClient: false };
    this.#loads.add(client, load);
    let isOpen = true;
    return () => {
      if (isOpen) this.#loads.subtract(client, load);
      isOpen = false;
    };
  }
}

/** Sums of loads: all together, and by client. */
export class ClientLoads {
  readonly #byClient = new Map<string, Load>();
  #all: Load = NO_LOAD;

  get all(): Load {
    return this.#all;
  }

  of(client: string | undefined): Load {
    return (client === undefined ? undefined : this.#byClient.get(client)) ?? NO_LOAD;
  }

  add(client: string | undefined, load: Load): void {
    this.#all = addLoad(this.#all, load);
    if (client !== undefined) this.#byClient.set(client, addLoad(this.of(client), load));
  }

  subtract(client: string | undefined, load: Load): void {
    this.#all = subtractLoad(this.#all, load);
    if (client === undefined) return;
    const left = subtractLoad(this.of(client), load);
    if (left.requests > 0) this.#byClient.set(client, left);
    else this.#byClient.delete(client);
  }
}
