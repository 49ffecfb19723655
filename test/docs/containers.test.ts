// The Dockerfile, and what the pages on Docker and Kubernetes have for Compose and kubectl, beside the program that they start. Nothing is
// built or deployed. test/examples/fleet-files.test.ts has the files of the fleet.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { commandLines } from "../support/docs/commands.ts";
import { complaintAbout } from "../support/docs/complaint.ts";
import { blocksOf, readPage, ROOT } from "../support/docs/markdown.ts";

const PROBES = ["/health", "/livez", "/readyz"];
/** Defaults of `serve`. */
const DRAIN_MS = 30_000;

const manifestOf = (path: string) =>
  JSON.parse(readPage(path)) as {
    readonly packageManager: string;
    readonly publishConfig: { readonly bin: Readonly<Record<string, string>> };
  };

/** Instructions of a Dockerfile, with lines that go on after a backslash joined. */
function instructionsOf(dockerfile: string): readonly (readonly [name: string, rest: string])[] {
  const lines = dockerfile
    .replaceAll(/^#.*\n/gm, "")
    .replaceAll(/\\\n/g, " ")
    .split("\n");
  return lines
    .filter((line) => line.trim() !== "")
    .map((line) => [line.split(" ")[0] ?? "", line.replace(/^\S+ +/, "")]);
}

const dockerfile = instructionsOf(readPage("Dockerfile"));
const lastOf = (name: string): string => dockerfile.findLast(([one]) => one === name)?.[1] ?? "";
const entryPoint = JSON.parse(lastOf("ENTRYPOINT")) as readonly string[];

/** Arguments of `readme-moe` in a whole command of a container. */
function argumentsIn(command: readonly string[]): readonly string[] {
  const program = manifestOf("packages/readme-moe/package.json").publishConfig.bin["readme-moe"] ?? "";
  expect(command.slice(0, 2)).toEqual(["node", join("/app/packages/readme-moe", program)]);
  return command.slice(2);
}

const optionOf = (args: readonly string[], name: string): string | undefined =>
  args.includes(name) ? args[args.indexOf(name) + 1] : undefined;

describe("Dockerfile", () => {
  test("it starts a server that the command line accepts, on the port that it exposes", async () => {
    const args = argumentsIn(entryPoint);
    expect(await complaintAbout(args)).toBeUndefined();
    expect(optionOf(args, "--port")).toBe(lastOf("EXPOSE"));
    expect(lastOf("HEALTHCHECK")).toContain(`http://127.0.0.1:${lastOf("EXPOSE")}/health'`);
  });

  test("it does not run as root, and packs weights into its volume", () => {
    expect(lastOf("USER")).toBe("node");
    expect(lastOf("ENV")).toContain(`README_MOE_CACHE=${lastOf("VOLUME")}`);
  });

  test("it copies what exists, with the pnpm of package.json", () => {
    for (const [name, rest] of dockerfile.filter(([one, words]) => one === "COPY" && !words.startsWith("--from"))) {
      for (const path of rest.split(/ +/).slice(0, -1))
        expect(existsSync(join(ROOT, path)), `${name} ${path}`).toBe(true);
    }
    expect(readPage("Dockerfile")).toContain(`npm install --global ${manifestOf("package.json").packageManager}`);
  });
});

test("commands of the page on Docker have options that exist, and time to stop", async () => {
  const commands = blocksOf("docs/how-to/docker.md").flatMap((block) =>
    block.language === "sh" ? commandLines(block) : [],
  );
  const runs = commands.filter(({ words }) => words[0] === "docker" && words[1] === "run");
  expect(runs.length).toBe(1);
  for (const { words } of runs) {
    const args = [...argumentsIn(entryPoint), ...words.slice(words.indexOf("readme-moe") + 1)];
    expect(await complaintAbout(args)).toBeUndefined();
    expect(Number(optionOf(words, "--stop-timeout")) * 1000).toBeGreaterThan(DRAIN_MS);
  }
});

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: number };
}
interface Container {
  readonly args: readonly string[];
  readonly ports: readonly { readonly containerPort: number }[];
  readonly startupProbe?: Probe;
  readonly readinessProbe: Probe;
  readonly livenessProbe: Probe;
  readonly resources: Readonly<Record<"limits" | "requests", Readonly<Record<string, string>> | undefined>>;
}
interface Deployment {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly template: {
      readonly spec: { readonly terminationGracePeriodSeconds: number; readonly containers: readonly Container[] };
    };
  };
}
interface Autoscaler {
  readonly spec: {
    readonly scaleTargetRef: { readonly name: string };
    readonly metrics: readonly { readonly pods: { readonly metric: { readonly name: string } } }[];
  };
}

const yamlOf = (page: string): string =>
  blocksOf(page)
    .filter(({ language }) => language === "yaml")
    .map(({ lines }) => lines.join("\n"))
    .join("\n---\n");

describe("the page on Kubernetes", () => {
  const documents = parseAllDocuments(yamlOf("docs/how-to/kubernetes.md")).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS() as { readonly kind: string };
  });
  const deployments = documents.filter(({ kind }) => kind === "Deployment") as unknown as readonly Deployment[];
  const containers = deployments.flatMap(({ spec }) =>
    spec.template.spec.containers.map((container) => ({
      container,
      args: argumentsIn([...entryPoint, ...container.args]),
      graceMs: spec.template.spec.terminationGracePeriodSeconds * 1000,
    })),
  );

  test("containers start what the command line accepts", async () => {
    expect(containers.length).toBeGreaterThan(0);
    for (const { args } of containers) expect(await complaintAbout(args)).toBeUndefined();
  });

  test("probes ask routes of the server, at its port", () => {
    for (const { container, args } of containers) {
      const port = Number(args.findLast((_word, index) => args[index - 1] === "--port"));
      expect(container.ports).toEqual([{ containerPort: port }]);
      for (const probe of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
        if (!probe) continue;
        expect(PROBES).toContain(probe.httpGet.path);
        expect(probe.httpGet.port).toBe(port);
      }
      expect(container.livenessProbe.httpGet.path).toBe("/livez");
    }
  });

  test("servers have time to end their requests, and memory that does not shrink", () => {
    for (const { container, args, graceMs } of containers) {
      const { limits, requests } = container.resources;
      if (limits) expect(limits).toEqual(requests);
      const stopMs = Number(optionOf(args, "--notice-ms") ?? 0) + Number(optionOf(args, "--drain-ms") ?? DRAIN_MS);
      expect(graceMs).toBeGreaterThan(stopMs);
    }
  });

  test("the autoscaler follows a metric that exists, of a deployment that exists", () => {
    const [autoscaler] = documents.filter(({ kind }) => kind === "HorizontalPodAutoscaler") as unknown as [Autoscaler];
    expect(deployments.map(({ metadata }) => metadata.name)).toContain(autoscaler.spec.scaleTargetRef.name);
    const metrics = readPage("docs/reference/metrics.md");
    for (const { pods } of autoscaler.spec.metrics) expect(metrics).toContain(`\`${pods.metric.name}\``);
  });
});

interface Service {
  readonly command: readonly string[];
  readonly stop_grace_period: string;
}

test("services of the page on Docker start what the command line accepts, and have time to stop", async () => {
  const { services } = parse(yamlOf("docs/how-to/docker.md")) as { readonly services: Record<string, Service> };
  expect(Object.keys(services)).toEqual(["llm"]);
  for (const { command, stop_grace_period: grace } of Object.values(services)) {
    expect(await complaintAbout(argumentsIn([...entryPoint, ...command]))).toBeUndefined();
    expect(Number(/^(\d+)s$/.exec(grace)?.[1]) * 1000).toBeGreaterThan(DRAIN_MS);
  }
});
