// Opens models, builds the page, and serves both.

import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildPage } from "./build-page.ts";
import { type LoadProgress, loadText, ReadMeError } from "@readme-moe/core";
import { isLoopback } from "@readme-moe/express";
import { chatbot, type ChatDocuments, loadingPage } from "./chatbot.ts";
import { openModels, type OpenModelsOptions } from "./open-models.ts";

const DEFAULT_PORT = 8484;

export interface ServeChatbotOptions extends OpenModelsOptions {
  /** @default 8484, or any free port if that is taken */
  readonly port?: number | undefined;
  readonly host: string;
  /** Opens documents before the models; `onStage` tells the page what is done. @default there are none */
  readonly documents?: ((onStage: (stage: string) => void) => Promise<ChatDocuments>) | undefined;
  /** Tells what is done until the chat is ready. @default nothing is told */
  readonly say?: ((text: string) => void) | undefined;
}

export interface RunningChatbot {
  readonly url: string;
  /** Whether another program has the default port. */
  readonly isElsewhere: boolean;
  /** Waits two seconds for running answers, ends the others, and closes the models. */
  close(): Promise<void>;
}

/** @throws {ReadMeError | RangeError} as `openModels`; `ERR_RUNTIME` when the port is taken */
export async function serveChatbot(asked: ServeChatbotOptions): Promise<RunningChatbot> {
  const { port, host, documents: openDocuments, say = () => undefined, ...options } = asked;
  const isLocal = isLoopback(host);
  // Each process has its own, as several may run at the same time.
  const pageFolder = await mkdtemp(join(tmpdir(), "readme-moe-chatbot-"));
  const removePage = () => rm(pageFolder, { recursive: true, force: true });
  let stage = "the models are opened";
  // The page is there before the models are, and shows how far they are.
  let app = loadingPage({ pageFolder, isLocal }, () => stage);
  const server = createServer((request, response) => void app(request, response));
  try {
    await buildPage(pageFolder);
    await listen(server, host, port);
    const { address, port: taken, family } = server.address() as AddressInfo;
    const url = `http://${family === "IPv6" ? `[${address}]` : address}:${taken}`;
    say(`Opening the models; ${url} shows how far they are`);
    let isPacking = false;
    const onProgress = (name: string, progress: LoadProgress): void => {
      stage = `${name}: ${loadText(progress)}`;
      if (progress.stage === "building" && !isPacking) say("Packing the weights for this processor …");
      isPacking ||= progress.stage === "building";
    };
    const documents = await openDocuments?.((text) => (stage = text));
    const models = await openModels({ ...options, onProgress });
    const opened = chatbot({ models, documents, pageFolder, isLocal });
    const { served } = opened;
    ({ app } = opened);
    return {
      url,
      isElsewhere: port === undefined && taken !== DEFAULT_PORT,
      async close() {
        await served.drain({ deadlineMs: 2000 });
        server.close();
        server.closeAllConnections();
        await removePage();
      },
    };
  } catch (error) {
    server.close();
    server.closeAllConnections();
    await removePage();
    throw error;
  }
}

async function listen(server: Server, host: string, port: number | undefined): Promise<void> {
  const wanted = port ?? DEFAULT_PORT;
  try {
    await once(server.listen(wanted, host), "listening");
  } catch (error) {
    const isTaken = (error as NodeJS.ErrnoException).code === "EADDRINUSE";
    if (!isTaken || port !== undefined) {
      const why = error instanceof Error ? error.message : String(error);
      const advice = "; --port names another one, and without it any free one is taken";
      throw new ReadMeError("ERR_RUNTIME", `Cannot listen on ${host}:${wanted}: ${why}${advice}`, { cause: error });
    }
    await once(server.listen(0, host), "listening");
  }
}

/** Returns the line that names the address of a chat. */
export function addressLine({ url, isElsewhere }: RunningChatbot): string {
  return `Chat at ${url}${isElsewhere ? `, because port ${DEFAULT_PORT} is taken` : ""}`;
}

/** Resolves on Ctrl-C or SIGTERM. */
export async function stopSignal(): Promise<void> {
  await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
}
