// A package index on 127.0.0.1, as pip's `simple` API describes one, with one wheel for each package.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

export interface PackageIndex {
  /** URL for `PIP_INDEX_URL`. */
  readonly url: string;
  /** Paths that were requested, with the authorization where there was one. */
  readonly requests: string[];
}

/** Answers the wheel. */
type AnswerWheel = (request: IncomingMessage, response: ServerResponse) => void;

/** Serves `llm-tiny` with a wheel until the test is finished. */
export function startPackageIndex(wheel: Uint8Array | AnswerWheel): Promise<PackageIndex> {
  return startPackagesIndex({ "llm-tiny": wheel });
}

function fileOf(name: string): string {
  return `${name.replaceAll("-", "_")}-1.0-py3-none-any.whl`;
}

/** Serves packages of version 1.0 until the test is finished. */
export async function startPackagesIndex(
  wheels: Readonly<Record<string, Uint8Array | AnswerWheel>>,
): Promise<PackageIndex> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { url = "", headers } = request;
    requests.push([url, headers.authorization].filter(Boolean).join(" "));
    const listed = Object.keys(wheels).find((name) => url === `/simple/${name}/`);
    const wheel = wheels[Object.keys(wheels).find((name) => url === `/files/${fileOf(name)}`) ?? ""];
    if (listed !== undefined) {
      const links = [`${listed.replaceAll("-", "_")}-0.9.tar.gz`, fileOf(listed)].map(
        (name) => `<a href="../../files/${name}#sha256=0" data-requires-python="&gt;=3.9">${name}</a><br/>`,
      );
      response.setHeader("content-type", "text/html").end(`<!DOCTYPE html><body>${links.join("\n")}</body>`);
    } else if (wheel === undefined) response.writeHead(404).end();
    else if (typeof wheel === "function") wheel(request, response);
    else response.end(wheel);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/simple`, requests };
}
