// The app: the OpenAI API, the page that uses it, and the routes of its live view.

import { join } from "node:path";
import { localHostsOnly, readMe, ServedModels } from "@readme-moe/express";
import type { ReadMeEngine } from "@readme-moe/engine";
import express, { type Express, type Router } from "express";
import { LiveModel, type OpenedModel } from "./live-model.ts";
import type { ReaderOptions } from "./live-readers.ts";
import { liveRoutes } from "./live-routes.ts";

// Scripts and styles are the page's own files, so that text of a model could not run even if it got into the page as
// HTML.
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

interface PageOptions {
  /** Folder of the built page. */
  readonly pageFolder: string;
  /** Whether only pages of this machine may send requests. @default false */
  readonly isLocal?: boolean | undefined;
}

/** Documents that the page can ask. */
export interface ChatDocuments {
  readonly title: string;
  /** The model that finds pieces of them, served beside those that chat. */
  readonly encoder: { readonly name: string; readonly engine: ReadMeEngine };
  /** Answers `POST /documents/search` with sources and the prompt that has them. */
  readonly routes: Router;
}

export interface ChatbotOptions extends PageOptions {
  /** Models to serve; requests without a model's name get the first. */
  readonly models: readonly OpenedModel[];
  readonly readers?: ReaderOptions | undefined;
  readonly documents?: ChatDocuments | undefined;
}

export interface Chatbot {
  readonly app: Express;
  readonly served: ServedModels;
}

export function chatbot({ models, readers, documents, ...page }: ChatbotOptions): Chatbot {
  const all = [...models, ...(documents ? [documents.encoder] : [])];
  const engines = Object.fromEntries(all.map(({ name, engine }) => [name, engine]));
  const served = new ServedModels(engines, { defaultModel: models[0]?.name, restart: true });
  const app = pageApp(page);
  const live = models.map((model) => new LiveModel(model, readers));
  app.use("/live", liveRoutes(live, documents?.title));
  if (documents) app.use(documents.routes);
  app.use(readMe({ models: served }));
  return { app, served };
}

/** Makes an app with the page alone, which says that the models are loading. @param stage - what is done now */
export function loadingPage(page: PageOptions, stage: () => string): Express {
  return pageApp(page).use((_, response) => {
    response.status(503).set("Retry-After", "1").json({ loading: stage() });
  });
}

function pageApp({ pageFolder, isLocal = false }: PageOptions): Express {
  const app = express().disable("x-powered-by");
  if (isLocal) app.use(localHostsOnly);
  app.use((_, response, next) => {
    response.set({
      "Content-Security-Policy": CONTENT_SECURITY_POLICY,
      "X-Content-Type-Options": "nosniff",
      "Referrer-Policy": "no-referrer",
    });
    next();
  });
  app.use("/assets", express.static(join(pageFolder, "assets"), { immutable: true, maxAge: "1y" }));
  return app.use(express.static(pageFolder));
}
