// Work of a front without the fleet: it reads prompts, and refuses calls that need weights.

import type { Engine, PromptReader } from "@readme-moe/core";

/** The part of an engine that needs a tokenizer and a router only. */
export class PromptFront {
  protected readonly reader: PromptReader;
  readonly tokenize: Engine["tokenize"] = (prompt, how) => this.reader.tokenize(prompt, how);
  readonly detokenize: Engine["detokenize"] = (tokenIds) => this.reader.detokenize(tokenIds);
  readonly applyTemplate: Engine["applyTemplate"] = (messages, template) =>
    this.reader.applyTemplate(messages, template);
  readonly vocabulary: Engine["vocabulary"] = () => this.reader.vocabulary();
  readonly route: Engine["route"] = (prompt, expert) => this.reader.route(prompt, expert);
  readonly embed: Engine["embed"] = () => refuse("Expected an engine without a fleet, which continues prompts");
  readonly rerank: Engine["rerank"] = () => refuse("Expected an engine without a fleet, which continues prompts");
  readonly addExpert: Engine["addExpert"] = () => refuse("Expected an engine without a fleet");
  readonly removeExpert: Engine["removeExpert"] = () => refuse("Expected an engine without a fleet");
  // Workers and Valkey come back; requests meanwhile fail one by one.
  readonly whenFailed: Engine["whenFailed"] = () => new Promise(() => undefined);

  constructor(reader: PromptReader) {
    this.reader = reader;
  }
}

function refuse(message: string): Promise<never> {
  return Promise.reject(new TypeError(message));
}
