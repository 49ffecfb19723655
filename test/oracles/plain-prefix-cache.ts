// A prefix cache as lists that are searched from their beginnings. Contents are compared, and nothing is hashed.

const PAGE = 16;

export interface PlainPrompt {
  readonly tokenIds: readonly number[];
  readonly experts: readonly number[];
  readonly cacheSalt?: string | undefined;
}

interface Part {
  /** The chunk before it. */
  readonly parent: Part | undefined;
  /** Tokens with their experts. */
  readonly texts: readonly string[];
  readonly salt: string | undefined;
  /** Names of the pages that hold its tokens. */
  readonly pages: readonly string[];
  pins: number;
  lastUse: number;
}

interface Pin {
  readonly chunks: readonly Part[];
  readonly tail: Part | undefined;
}

const textsOf = ({ tokenIds, experts }: PlainPrompt, from: number, to: number): readonly string[] =>
  tokenIds.slice(from, to).map((id, at) => `${id}/${experts[from + at]}`);

const isEqual = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((text, at) => text === b[at]);

/** Counts tokens instead of bytes. */
export class PlainPrefixCache {
  readonly #chunkTokens: number;
  readonly #maxTokens: number;
  /** The least recently used first. */
  #chunks: Part[] = [];
  #tails: Part[] = [];
  readonly #pins = new Map<number, Pin>();
  #uses = 0;
  #numPins = 0;
  /** Pages of the only slot, which a prompt runs in; those of its own come behind the ones that it has found. */
  #slot: string[] = [];
  #numSlots = 0;

  constructor(chunkTokens: number, maxTokens: number) {
    this.#chunkTokens = chunkTokens;
    this.#maxTokens = maxTokens;
  }

  get numTokens(): number {
    return this.#chunkTokens * this.#chunks.length + this.#tailTokens();
  }

  get pinnableTokens(): number {
    const pinned = this.#chunks.filter(({ pins }) => pins > 0).length;
    return this.#maxTokens - this.#chunkTokens * pinned - this.#tailTokens();
  }

  match(prompt: PlainPrompt): number {
    const most = prompt.tokenIds.length - 1;
    const chain = this.#chain(prompt, Math.floor(most / this.#chunkTokens));
    this.#use(chain);
    const from = chain.length * this.#chunkTokens;
    const rest = textsOf(prompt, from, most);
    let best: readonly string[] = [];
    for (const { texts, pages } of this.#tailsOf(chain)) {
      let same = 0;
      while (same < Math.min(texts.length, rest.length) && texts[same] === rest[same]) same++;
      const found = pages.slice(0, Math.floor(same / PAGE));
      if (found.length > best.length) best = found;
    }
    this.#numSlots++;
    this.#slot = [...chain.flatMap(({ pages }) => pages), ...best];
    return from + PAGE * best.length;
  }

  /** Drops the next chunk that has a page outside of the slot. @returns whether there is one */
  evict(): boolean {
    const free = this.#chunks.filter(
      ({ pins, pages }) => pins === 0 && pages.some((page) => !this.#slot.includes(page)),
    );
    const weightOf = ({ salt, lastUse }: Part): number =>
      (this.#uses - lastUse) * free.filter((other) => other.salt === salt).length;
    const oldest = free.filter(({ salt }, at) => free.findIndex((other) => other.salt === salt) === at);
    const most = Math.max(...oldest.map(weightOf));
    const gone = oldest.find((chunk) => weightOf(chunk) === most);
    this.#chunks = this.#chunks.filter((chunk) => chunk !== gone);
    return gone !== undefined;
  }

  add(prompt: PlainPrompt, index: number): void {
    if (this.#chunkTokens > this.#maxTokens) return;
    const before = this.#chain(prompt, index);
    if (before.length < index || this.#chain(prompt, index + 1).length > index) return;
    this.#use([...before, this.#insert(prompt, before)]);
  }

  pin(prompt: PlainPrompt, end: number): number | undefined {
    const unsalted = { ...prompt, cacheSalt: undefined };
    const numChunks = Math.floor(end / this.#chunkTokens);
    const chunks = this.#chain(unsalted, numChunks);
    const texts = textsOf(prompt, numChunks * this.#chunkTokens, end);
    const isKnown = (part: Part): boolean => isEqual(part.texts, texts);
    let tail = chunks.length === numChunks && texts.length > 0 ? this.#tailsOf(chunks).find(isKnown) : undefined;
    for (const chunk of chunks) chunk.pins++;
    const newTokens = (numChunks - chunks.length) * this.#chunkTokens + (tail ? 0 : texts.length);
    if (newTokens > this.pinnableTokens) {
      for (const chunk of chunks) chunk.pins--;
      return undefined;
    }
    while (chunks.length < numChunks) {
      const chunk = this.#insert(unsalted, chunks);
      chunk.pins = 1;
      chunks.push(chunk);
    }
    this.#use(chunks);
    if (!tail && texts.length > 0) {
      const pages = this.#pagesOf(numChunks * this.#chunkTokens, end);
      tail = { parent: chunks.at(-1), texts, salt: undefined, pages, pins: 0, lastUse: 0 };
      this.#tails.push(tail);
    }
    if (tail) tail.pins++;
    this.#pins.set(++this.#numPins, { chunks, tail });
    return this.#numPins;
  }

  isWhole(pin: number): boolean {
    const { chunks = [], tail } = this.#pins.get(pin) ?? {};
    return chunks.every((chunk) => this.#chunks.includes(chunk)) && (!tail || this.#tails.includes(tail));
  }

  unpin(pin: number): void {
    const { chunks = [], tail } = this.#pins.get(pin) ?? {};
    this.#pins.delete(pin);
    for (const chunk of chunks) chunk.pins--;
    if (tail) tail.pins--;
    this.#tails = this.#tails.filter(({ pins }) => pins > 0);
  }

  forget(expert: number): void {
    const stays = ({ texts }: Part): boolean => !texts.some((text) => text.endsWith(`/${expert}`));
    this.#chunks = this.#chunks.filter(stays);
    this.#tails = this.#tails.filter(stays);
  }

  #tailTokens(): number {
    return this.#tails.reduce((sum, { texts }) => sum + texts.length, 0);
  }

  #tailsOf(chain: readonly Part[]): readonly Part[] {
    return this.#tails.filter(({ parent }) => parent === chain.at(-1));
  }

  #chain(prompt: PlainPrompt, numChunks: number): Part[] {
    const chain: Part[] = [];
    while (chain.length < numChunks) {
      const from = chain.length * this.#chunkTokens;
      const texts = textsOf(prompt, from, from + this.#chunkTokens);
      const equal = this.#chunks.filter((one) => one.parent === chain.at(-1) && isEqual(one.texts, texts));
      const next = equal.find(({ pins }) => pins > 0) ?? equal.find(({ salt }) => salt === prompt.cacheSalt);
      if (!next) break;
      chain.push(next);
    }
    return chain;
  }

  #insert(prompt: PlainPrompt, before: readonly Part[]): Part {
    const from = before.length * this.#chunkTokens;
    const texts = textsOf(prompt, from, from + this.#chunkTokens);
    const pages = this.#pagesOf(from, from + this.#chunkTokens);
    const own = { parent: before.at(-1), texts, salt: prompt.cacheSalt, pages, pins: 0, lastUse: this.#uses };
    this.#chunks.push(own);
    return own;
  }

  #pagesOf(from: number, to: number): readonly string[] {
    return Array.from({ length: (to - from) / PAGE }, (_, index) => {
      const page = from / PAGE + index;
      return (this.#slot[page] ??= `${this.#numSlots}:${page}`);
    });
  }

  #use(chain: readonly Part[]): void {
    this.#uses++;
    for (const chunk of chain) chunk.lastUse = this.#uses;
    this.#chunks = [...this.#chunks.filter((chunk) => !chain.includes(chunk)), ...chain.toReversed()];
  }
}
