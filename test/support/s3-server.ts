// A store like S3 for tests: objects in memory, for requests whose signature and checksum are right. The signature is
// computed by Amazon's own implementation.

import { createHash, createHmac, type BinaryLike, type Hash, type Hmac } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { SignatureV4 } from "@smithy/signature-v4";

export interface S3Server {
  readonly endpoint: string;
  readonly objects: Map<string, Uint8Array>;
  /** Answers of the next requests, instead of those that they would get. */
  readonly failures: number[];
  readonly stop: () => Promise<void>;
}

export interface S3Login {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly region: string;
}

export async function startS3(login: S3Login): Promise<S3Server> {
  const objects = new Map<string, Uint8Array>();
  const failures: number[] = [];
  const server = createServer((request, response) => {
    void (async () => {
      const body = await buffer(request);
      const status = failures.shift() ?? ((await isSigned(request, body, login)) ? 200 : 403);
      const key = request.url ?? "";
      if (status !== 200) return response.writeHead(status).end();
      const object = objects.get(key);
      if (request.method === "PUT") objects.set(key, body);
      else if (request.method === "DELETE") objects.delete(key);
      else if (!object) return response.writeHead(404).end();
      return response.writeHead(200).end(request.method === "GET" ? object : undefined);
    })();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const stop = async (): Promise<void> => {
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  };
  return { endpoint: `http://127.0.0.1:${port}`, objects, failures, stop };
}

async function isSigned(
  { method = "", url = "", headers }: IncomingMessage,
  body: Buffer,
  login: S3Login,
): Promise<boolean> {
  const checksum = createHash("sha256").update(body).digest("hex");
  if (headers["x-amz-content-sha256"] !== checksum) return false;
  const signed = /SignedHeaders=([^,]+)/.exec(headers.authorization ?? "")?.[1]?.split(";") ?? [];
  const date = headers["x-amz-date"] ?? "";
  const { accessKeyId, secretAccessKey, region } = login;
  const signer = new SignatureV4({
    service: "s3",
    region,
    credentials: { accessKeyId, secretAccessKey },
    sha256: NodeHash,
    uriEscapePath: false,
  });
  const { hostname, port } = new URL(`http://${headers.host}`);
  const own = Object.fromEntries(signed.map((name) => [name, String(headers[name] ?? "")]));
  const [path, query] = [url, {}];
  const request = { method, protocol: "http:", hostname, port: Number(port), path, query, headers: own, body };
  const day = String(date).replace(/^(\d{4})(\d\d)(\d\dT\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3:$4:$5Z");
  const expected = await signer.sign(request, { signingDate: new Date(day), signableHeaders: new Set(signed) });
  return expected.headers["authorization"] === headers.authorization;
}

/** Hash that the signer asks for. */
class NodeHash {
  readonly #hash: Hash | Hmac;

  constructor(secret?: unknown) {
    this.#hash = secret === undefined ? createHash("sha256") : createHmac("sha256", secret as BinaryLike);
  }

  update(data: unknown): void {
    this.#hash.update(data as BinaryLike);
  }

  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()));
  }

  reset(): void {
    throw new Error("Expected a hash to be used once");
  }
}
