// A tiny Read-ME model that reads text and chats, and Express servers on 127.0.0.1 over it.

import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, resolve } from "node:path";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import type { Express } from "express";
import { writeReadingModel } from "./reading-model.ts";
import type { TinyOptions } from "./tiny-read-me.ts";

const TEMPLATE =
  "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}" +
  "{% if add_generation_prompt %}[assistant]{% endif %}";

export const TINY_CONTEXT_TOKENS = 256;

/** Context of a model whose answers are to last until a test ends them, on a fast machine and on a busy one. */
export const ENDLESS: TinyOptions = { config: { max_position_embeddings: 65_536 } };
/** Tokens of such an answer. */
export const ENDLESS_TOKENS = 60_000;

/** Writes the model and opens it in a thread. @param folder - a new one */
export async function openTinyEngine(
  folder: string,
  { template = TEMPLATE, ...options }: OpenOptions & { readonly template?: string | undefined } = {},
  tiny: TinyOptions = {},
): Promise<ReadMeEngine> {
  const path = join(folder, "tiny");
  await writeReadingModel(path, tiny);
  if (template !== "") await writeFile(join(path, "chat_template.jinja"), template);
  return ReadMeEngine.open(path, { precision: "fp32", isolation: "thread", threads: 1, ...options });
}

/** What clients' tests ask: the model `EXPRESS_MODEL=<folder>`, with a context as short as the tiny one's, or that. */
export async function openClientsEngine(folder: string, tiny: TinyOptions): Promise<ReadMeEngine> {
  const path = process.env["EXPRESS_MODEL"];
  return path === undefined
    ? openTinyEngine(folder, {}, tiny)
    : ReadMeEngine.open(resolve(path), { precision: "fp32", contextTokens: 4096 });
}

export interface RunningServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly server: Server;
}

/** Ends all connections when it is disposed. */
export async function listen(app: Express): Promise<RunningServer> {
  const server = createServer(app);
  // A client must not send on a connection that is closed at that moment, however long a test thinks.
  server.keepAliveTimeout = 120_000;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    server,
    port,
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
